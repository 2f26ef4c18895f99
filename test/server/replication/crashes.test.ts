/**
 * Write order survives anything: either node is killed, or the wire is cut, at any moment under a client that numbers its writes to two volumes of one group.
 * What the secondary shows is a prefix of the order each time, across both volumes; and at the end both nodes have the same.
 */
import t, { type Test } from 'tap';
import { NumberedWriter, type NumberedWrites, PrefixModel } from '../../fixtures/numbered-writer.ts';
import { GROUP, ProcessPair, until } from '../../fixtures/process-pair.ts';
import { Random } from '../../fixtures/random.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const VOLUMES = ['a', 'b'];
/** Of a run. */
const BLOWS = 5;

/** What is promised in each mode. */
const MODES = [{ mode: 'async', onLost: 'go-on' }] as const;

/** With a log that overflows while a node is away, so that marks and rounds come in; and with one that holds what comes meanwhile. */
const RUNS = [
  { seed: 1, logSize: 4 * MIB },
  { seed: 2, logSize: 64 * MIB },
] as const;

const BLOWS_DEALT = ['kill the primary', 'kill the secondary', 'kill both', 'cut'] as const;

const pair = await ProcessPair.start(t);
const { primary, secondary, wire } = pair;

/** What the secondary shows at one moment: it is frozen meanwhile, and looked at again where it went on all the same, because a round came to its end. */
async function shown(): Promise<Buffer[]> {
  await secondary.control.freeze(GROUP);
  const standing = async (): Promise<string> => {
    const { replica } = await secondary.group();
    return JSON.stringify([replica?.horizonLsn, replica?.resyncing]);
  };
  try {
    for (;;) {
      const before = await standing();
      const images: Buffer[] = [];
      for (const volume of VOLUMES) images.push(await secondary.read(`${GROUP}/${volume}`));
      if ((await standing()) === before) return images;
    }
  } finally {
    await secondary.control.thaw(GROUP);
  }
}

/** Deals one blow. What was killed is started again, at once or after the writer has got on, where it can. */
async function deal(
  blow: (typeof BLOWS_DEALT)[number],
  random: Random,
  writer: NumberedWriter,
): Promise<void> {
  const getOn = async (writes: number): Promise<void> => {
    const from = writer.acknowledged;
    await until(() => writer.acknowledged >= from + writes);
  };
  switch (blow) {
    case 'kill the primary':
      await primary.kill();
      return await primary.start();
    case 'kill the secondary':
      await secondary.kill();
      await getOn(random.below(1000));
      return await secondary.start();
    case 'kill both':
      await Promise.all([primary.kill(), secondary.kill()]);
      await Promise.all([primary.start(), secondary.start()]);
      return;
    case 'cut':
      wire.lower();
      await getOn(random.below(1000));
      wire.raise();
  }
}

async function run(t: Test, settings: (typeof MODES)[number], options: (typeof RUNS)[number]): Promise<void> {
  const { seed, logSize } = options;
  const random = new Random(seed);
  const writes: NumberedWrites = { seed, volumes: VOLUMES.length, volumeBytes: 512 * KIB };
  await pair.create({
    regionSize: 4 * KIB,
    logSize,
    volumes: VOLUMES.map((name) => ({ name, size: writes.volumeBytes })),
  });
  await pair.link(settings);
  const model = new PrefixModel(writes);
  const writer = new NumberedWriter(writes, (volume) => primary.open(`${GROUP}/${VOLUMES[volume]}`));
  writer.start();
  t.teardown(() => writer.stop());
  for (let count = 0; count < BLOWS; count++) {
    const next = writer.acknowledged + random.below(1200);
    await until(() => writer.acknowledged >= next);
    // The first ones are one of each.
    const blow = BLOWS_DEALT[count] ?? random.pick(BLOWS_DEALT);
    await deal(blow, random, writer);
    const why = model.judge(await shown());
    t.equal(
      why,
      undefined,
      `${blow}, seed ${seed}: ${model.applied} of ${writer.acknowledged} writes are shown`,
    );
  }
  await writer.stop();
  await pair.equal();
  const why = model.judge(await shown());
  t.equal(why, undefined);
  t.equal(model.applied, writer.acknowledged, 'all of it has come');
  t.ok(await pair.sameBytes(...VOLUMES));
}

for (const settings of MODES)
  for (const options of RUNS)
    t.test(`killed and cut under a writer: ${settings.mode}, log of ${options.logSize / MIB} MiB`, (t) =>
      run(t, settings, options),
    );

t.test('write order holds across two volumes of one group, in each image that can be had', async (t) => {
  const writes: NumberedWrites = { seed: 3, volumes: 2, volumeBytes: 256 * KIB };
  await pair.create({
    regionSize: 4 * KIB,
    logSize: 16 * MIB,
    volumes: VOLUMES.map((name) => ({ name, size: writes.volumeBytes })),
  });
  await pair.link();
  const writer = new NumberedWriter(writes, (volume) => primary.open(`${GROUP}/${VOLUMES[volume]}`));
  writer.start();
  t.teardown(() => writer.stop());
  const [live, taken] = [new PrefixModel(writes), new PrefixModel(writes)];
  for (let count = 1; count <= 6; count++) {
    const { acknowledged } = writer;
    await until(() => writer.acknowledged > acknowledged + 100);
    const horizonLsn = (await secondary.group()).replica?.horizonLsn ?? 0;
    await until(async () => ((await secondary.group()).replica?.horizonLsn ?? 0) > horizonLsn);
    const before = live.applied;
    // The secondary's own snapshot, between two batches; and one of the primary, at its place of the order on both.
    await secondary.control.createSnapshot(GROUP, { name: 'look', local: true });
    const looks = await Promise.all(VOLUMES.map((volume) => secondary.read(`${GROUP}/${volume}@look`)));
    t.equal(live.judge(looks), undefined, `look ${count}: ${live.applied} of ${writer.acknowledged}`);
    t.ok(live.applied > before, 'it gets on meanwhile');
    await secondary.control.deleteSnapshot(GROUP, 'look', false);
    const [name, from] = [`s${count}`, writer.acknowledged];
    await primary.control.createSnapshot(GROUP, { name });
    const after = writer.acknowledged;
    await until(async () => (await secondary.group()).snapshots.some((snapshot) => snapshot.name === name));
    const there = await Promise.all(VOLUMES.map((volume) => secondary.read(`${GROUP}/${volume}@${name}`)));
    t.equal(taken.judge(there), undefined, `snapshot ${count} of the primary`);
    t.ok(taken.applied >= from && taken.applied <= after + 1, 'it has what was acknowledged before it');
    for (const [index, volume] of VOLUMES.entries())
      t.ok((await primary.read(`${GROUP}/${volume}@${name}`)).equals(there[index] ?? Buffer.alloc(0)));
  }
  await writer.stop();
  await pair.equal();
  t.ok(await pair.sameBytes(...VOLUMES));
});
