/** The rules T1 to T3 of the design, each by its name, on the engine as a whole. (T4 is the server's.) */
import t, { type Test } from 'tap';
import { GroupBench, inOrder, REGION } from '../../fixtures/group-bench.ts';

/** Restores stay pending: the copier waits for a clock that stands. */
const slow = { group: { copyBytesPerSecond: 1 } };

async function copyAll(bench: GroupBench): Promise<void> {
  for (let round = 0; round < 40 && bench.group.operations.some(({ kind }) => kind === 'restore'); round++)
    await bench.pass(5_000_000, 5_000_000);
  await bench.group.settled();
}

/** Checks each image by name, the volume as `head`. */
async function look(
  t: Pick<Test, 'same'>,
  bench: GroupBench,
  images: Readonly<Record<string, readonly number[]>>,
  stage: string,
): Promise<void> {
  for (const [name, fills] of Object.entries(images)) {
    const device = name === 'head' ? bench.volume() : bench.snapshot(name);
    t.same(await bench.fills(device), fills, `${stage}: ${name}`);
  }
}

t.test('T1: a restore with regions to come is a node of the chain', async (t) => {
  const bench = await GroupBench.make({ regions: 4, ...slow });
  const { group } = bench;
  await bench.write(0, 1, 4);
  await group.createSnapshot('a');
  await bench.write(0, 2, 3);
  await group.createSnapshot('b');
  await bench.write(0, 3, 2);
  await group.restore('a');
  await bench.pass(60);
  const images: Record<string, number[]> = {
    head: [1, 1, 1, 1],
    a: [1, 1, 1, 1],
    b: [2, 2, 2, 1],
    undo: [3, 3, 2, 1],
  };
  await look(t, bench, images, 'pending');
  await group.renameSnapshot('undo', 'before');
  images['before'] = images['undo'] ?? [];
  await group.createSnapshot('c');
  images['c'] = [1, 1, 1, 1];
  await bench.write(1, 4);
  images['head'] = [1, 4, 1, 1];
  await bench.pass(60);
  delete images['undo'];
  await look(t, bench, images, 'written over');
  t.equal(group.operations.filter(({ kind }) => kind === 'restore').length, 1, 'still pending');
  await group.restore('b');
  Object.assign(images, { undo: [1, 4, 1, 1], head: [2, 2, 2, 1] });
  await bench.pass(60);
  t.equal(group.operations.filter(({ kind }) => kind === 'restore').length, 2, 'two of them');
  await look(t, bench, images, 'two pending');
  t.same(
    group.changedRuns('v', 'c', undefined, 0, 4),
    [{ first: 0, end: 3 }],
    'what is to come counts as changed',
  );
  await bench.crash();
  await bench.pass(60);
  await look(t, bench, images, 'after a crash');
  await bench.write(0, 5);
  images['head'] = [5, 2, 2, 1];
  await bench.pass(60);
  await look(t, bench, images, 'oldest first');
  await copyAll(bench);
  await look(t, bench, images, 'complete');
  t.same(bench.rawFills(), images['head']);
  t.equal(bench.told.filter((type) => type === 'restore.completed').length, 2);
});

t.test('T1: materialising keeps the raw content for those who are older than the restore', async (t) => {
  const bench = await GroupBench.make({ regions: 4, ...slow });
  const { group } = bench;
  await bench.write(0, 1, 4);
  await group.createSnapshot('a');
  await bench.write(0, 2, 4);
  await group.createSnapshot('b');
  await group.restore('a');
  await group.createSnapshot('c');
  const preserved = () =>
    Object.fromEntries(group.snapshots.map(({ name, volumes }) => [name, volumes[0]?.preservedRegions]));
  await bench.pass(60);
  const { nodes } = bench.durableRecord();
  t.same(
    nodes.map(({ kind, name }) => (kind === 'restore' ? kind : name)),
    ['a', 'b', 'undo', 'restore', 'c'],
  );
  t.same(preserved(), { a: 4, b: 4, undo: 4, c: 0 }, 'it counts as changed in every map that spans it');
  await copyAll(bench);
  t.same(preserved(), { a: 4, b: 4, undo: 4, c: 0 });
  await look(t, bench, { a: [1, 1, 1, 1], b: [2, 2, 2, 2], undo: [2, 2, 2, 2], c: [1, 1, 1, 1] }, 'complete');
  t.equal(group.changedRuns('v', 'b', 'undo', 0, 4).length, 0);
});

t.test('T2: who writes a region still to come materialises it first', async (t) => {
  for (const how of ['part', 'whole', 'trim'] as const)
    for (const newer of [false, true]) {
      const bench = await GroupBench.make({ regions: 4, ...slow });
      const { group } = bench;
      await bench.write(0, 1, 4);
      await group.createSnapshot('a');
      await bench.write(0, 2, 4);
      await group.restore('a');
      await bench.pass(60);
      if (newer) await group.createSnapshot('newer');
      const wanted = Buffer.alloc(4 * REGION, 1);
      const at = 3 * REGION;
      if (how === 'part') await bench.put(bench.volume(), Buffer.alloc(10, 9), at + 5);
      else if (how === 'whole') await bench.write(3, 9);
      else await bench.volume().trim(at, REGION / 2);
      if (how === 'part') wanted.fill(9, at + 5, at + 15);
      else if (how === 'whole') wanted.fill(9, at);
      else wanted.fill(0, at, at + REGION / 2);
      const check = async (stage: string) => {
        t.same(await bench.read(bench.volume(), 0, 4 * REGION), wanted, `${how} ${stage}`);
        if (newer) t.same(await bench.fills(bench.snapshot('newer')), [1, 1, 1, 1], `${how} ${stage}: newer`);
        t.same(await bench.fills(bench.snapshot('undo')), [2, 2, 2, 2], `${how} ${stage}: undo`);
      };
      await check('logged');
      await bench.pass(60);
      await check('applied');
      await bench.crash();
      await bench.pass(60);
      await check('after a crash');
      await copyAll(bench);
      await check('complete');
    }
});

t.test('T2: the materialised bit is set before the checkpoint passes', async (t) => {
  for (let cut = 1; cut < 60; cut += 2) {
    const bench = await GroupBench.make({ regions: 4, seed: cut, ...slow });
    await bench.write(0, 1, 4);
    await bench.group.createSnapshot('a');
    await bench.write(0, 2, 4);
    await bench.group.restore('a');
    await bench.pass(60);
    bench.cutAt(cut);
    const work = async () => {
      await bench.write(2, 9);
      await bench.volume().flush();
      return true;
    };
    const flushed = await Promise.race([work().catch(() => false), bench.turns(2000).then(() => false)]);
    await bench.pass(1200).catch(() => {});
    await bench.crash();
    await bench.pass(60);
    const fills = await bench.fills();
    t.same(flushed ? fills : fills.toSpliced(2, 1, 9), [1, 1, 9, 1], `cut ${cut}`);
    t.ok(fills[2] === 9 || fills[2] === 1);
    t.same(await bench.fills(bench.snapshot('undo')), [2, 2, 2, 2], `cut ${cut}: undo`);
    await copyAll(bench);
    t.same(await bench.fills(), fills, `cut ${cut}: complete`);
  }
});

t.test('T3: what sends readers elsewhere is durable only after what it points to', async (t) => {
  const bench = await GroupBench.make({ regions: 4, ...slow });
  await bench.write(0, 1, 4);
  await bench.group.createSnapshot('a');
  await bench.write(0, 2, 4);
  const trace = bench.watch();
  await bench.group.restore('a');
  await copyAll(bench);
  const own = trace.filter((entry) => /v\.|other/.test(entry));
  const begin = own.indexOf('sync other/v.map');
  const steps = own.slice(begin + 1);
  const region = [
    'write undo/v.preserved',
    'sync undo/v.preserved',
    'write undo/v.preserved',
    'sync undo/v.preserved',
    'write v.img',
    'sync v.img',
    'write other/v.map',
    'sync other/v.map',
  ];
  t.ok(begin > 0 && begin < own.indexOf('write undo/v.preserved'), 'its map is durable first');
  t.ok(inOrder(steps, [...region, ...region, ...region, ...region]), steps.join('\n'));
  const cleared = steps.indexOf('write other/v.map');
  t.equal(
    steps.slice(0, cleared).lastIndexOf('sync v.img') > steps.slice(0, cleared).lastIndexOf('write v.img'),
    true,
  );
});

t.test('T3: any crash of the copier ends in the same', async (t) => {
  for (let cut = 1; cut < 70; cut += 2) {
    const bench = await GroupBench.make({ regions: 4, seed: cut });
    await bench.write(0, 1, 4);
    await bench.group.createSnapshot('a');
    await bench.write(0, 2, 4);
    await bench.pass(60);
    await bench.group.settled();
    const isCut = bench.cutAt(cut);
    let restored = false;
    const work = async () => {
      await bench.group.restore('a');
      restored = !isCut();
      await bench.group.settled();
    };
    await Promise.race([work().catch(() => {}), bench.turns(3000)]);
    await bench.crash();
    const fills = await bench.fills();
    t.ok(fills.every((fill) => fill === fills[0]) && (fills[0] === 1 || !restored), `cut ${cut}: ${fills}`);
    await bench.group.settled();
    t.same(await bench.fills(), fills, `cut ${cut}: complete`);
    if (fills[0] === 1) t.same(await bench.fills(bench.snapshot('undo')), [2, 2, 2, 2], `cut ${cut}: undo`);
    t.same(await bench.fills(bench.snapshot('a')), [1, 1, 1, 1], `cut ${cut}: a`);
  }
});

t.test('T3: a reader of a restored volume looks again: its region may have come meanwhile', async (t) => {
  const bench = await GroupBench.make({ regions: 4, ...slow });
  await bench.write(0, 1, 4);
  await bench.group.createSnapshot('a');
  await bench.write(0, 2, 4);
  await bench.group.restore('a');
  await bench.pass(60);
  const release = bench.folder.hold('read', '.preserved', 1);
  const reading = bench.read(bench.volume(), 2 * REGION, REGION);
  await bench.turns();
  await bench.write(2, 9);
  await bench.pass(60);
  t.equal(bench.rawFills()[2], 9);
  release();
  t.same(await reading, Buffer.alloc(REGION, 9), 'it reads what is there now, not what is gone');
});

t.test('T3: a write to a region of the source that is still to come materialises it first', async (t) => {
  for (const detached of [false, true]) {
    const bench = await GroupBench.make({ regions: 4, ...slow });
    await bench.write(0, 1, 4);
    await bench.group.createSnapshot('a');
    if (detached) {
      await bench.group.detachSnapshot('a');
      await bench.group.settled();
    }
    await bench.write(0, 2, 4);
    await bench.group.restore('a');
    const late = bench.write(1, 7, 1, bench.snapshot('a'));
    await bench.pass(60);
    await late;
    await bench.write(1, 8, 1, bench.snapshot('a'));
    const label = detached ? 'detached' : 'in the chain';
    t.equal(bench.rawFills()[1], 1, `${label}: it has come`);
    await look(t, bench, { a: [1, 8, 1, 1], head: [1, 1, 1, 1], undo: [2, 2, 2, 2] }, label);
    await bench.snapshot('a').flush();
    await bench.crash();
    await bench.pass(60);
    await look(t, bench, { a: [1, 8, 1, 1], head: [1, 1, 1, 1], undo: [2, 2, 2, 2] }, `${label}, crashed`);
    await copyAll(bench);
    await look(t, bench, { a: [1, 8, 1, 1], head: [1, 1, 1, 1], undo: [2, 2, 2, 2] }, `${label}, complete`);
  }
});

t.test('T3: a source that was detached is not what it left in the chain, also after a restart', async (t) => {
  const bench = await GroupBench.make({ regions: 4, ...slow });
  await bench.write(0, 1, 4);
  await bench.group.createSnapshot('older');
  await bench.group.createSnapshot('s');
  await bench.write(0, 2);
  await bench.group.settled();
  // What it preserved stays in the chain: the older one cannot have it.
  bench.watch((operation, name) =>
    operation === 'create' && name.endsWith('.preserved') ? 'EIO' : undefined,
  );
  await bench.group.detachSnapshot('s');
  await bench.pass(100);
  t.equal(bench.group.snapshots[1]?.state, 'detached');
  await bench.write(3, 7, 1, bench.snapshot('s'));
  await bench.group.restore('s');
  await bench.pass(100);
  const images = { older: [1, 1, 1, 1], s: [1, 1, 1, 7], head: [1, 1, 1, 7] };
  await look(t, bench, images, 'restored');
  t.equal(bench.durableRecord().nodes.filter(({ kind }) => kind === 'restore').length, 1);
  await bench.crash();
  await look(t, bench, images, 'restarted');
  await bench.pass(60);
  await copyAll(bench);
  await look(t, bench, images, 'complete');
});

t.test('T3: space is freed when those who were sent there have ended', async (t) => {
  const bench = await GroupBench.make({ regions: 4 });
  await bench.write(0, 1, 4);
  await bench.group.createSnapshot('a');
  await bench.write(0, 2, 4);
  await bench.group.settled();
  await bench.group.createSnapshot('b');
  const release = bench.folder.hold('read', '.preserved', 1);
  const reading = bench.read(bench.snapshot('a'), 0, 4 * REGION);
  await bench.turns();
  const trace = bench.watch();
  await bench.group.deleteSnapshot('a');
  await bench.turns(2000);
  t.notOk(
    trace.some((entry) => /^(punch|remove)/.test(entry)),
    'not while one reads',
  );
  release();
  await reading.catch(() => {});
  await bench.group.settled();
  t.ok(trace.some((entry) => entry.startsWith('remove')));
});
