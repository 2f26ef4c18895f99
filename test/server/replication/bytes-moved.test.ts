/** What a restore costs the link, counted on the wire: beside what was changed, and beside a full copy of the same volume in the same run. */
import t from 'tap';
import { GROUP, LINK, ProcessPair } from '../../fixtures/process-pair.ts';
import { Random } from '../../fixtures/random.ts';

const MIB = 1024 * 1024;
const VOLUME_BYTES = 1024 * MIB;
const REGION_BYTES = 64 * 1024;
const REGIONS = VOLUME_BYTES / REGION_BYTES;
/** A twentieth of the volume. */
const CHANGED_REGIONS = Math.floor(REGIONS / 20);
const CHANGED_BYTES = CHANGED_REGIONS * REGION_BYTES;
/** What is written, and not changed afterwards. */
const KEPT_REGIONS = Math.floor(CHANGED_REGIONS / 4);
const VOLUME = `${GROUP}/v`;

/** Fills these regions with bytes that no compression and no look for zeroes makes less of. */
async function fill({ primary }: ProcessPair, regions: readonly number[], random: Random): Promise<void> {
  const content = random.bytes(REGION_BYTES);
  await primary.with(VOLUME, async (client) => {
    const writes = regions.map((region, index) => {
      const bytes = Buffer.from(content);
      bytes.writeUInt32LE(index);
      return client.write(bytes, region * REGION_BYTES);
    });
    await Promise.all(writes);
    await client.flush();
  });
}

/** Whether these regions, which are all that was ever written, are the same on both. */
async function sameRegions(
  { primary, secondary }: ProcessPair,
  regions: readonly number[],
): Promise<boolean> {
  return await primary.with(VOLUME, (here) =>
    secondary.with(VOLUME, async (there) => {
      for (const region of regions) {
        const [ours, theirs] = await Promise.all(
          [here, there].map((client) => client.readBuffer(region * REGION_BYTES, REGION_BYTES)),
        );
        if (ours === undefined || theirs === undefined || !ours.equals(theirs)) return false;
      }
      return true;
    }),
  );
}

t.test('a restore of 5 % of 1 GiB costs its record, or what was changed, and never the volume', async (t) => {
  const random = new Random(4);
  const pair = await (await ProcessPair.start(t)).create({ volumes: [{ name: 'v', size: VOLUME_BYTES }] });
  const { primary, wire } = pair;
  const changed = new Set<number>();
  while (changed.size < CHANGED_REGIONS) changed.add(random.below(REGIONS));
  const kept = new Set<number>();
  while (kept.size < KEPT_REGIONS) {
    const region = random.below(REGIONS);
    if (!changed.has(region)) kept.add(region);
  }
  // The rest of the volume is holes, which cost a full copy nothing.
  await fill(pair, [...changed, ...kept], random);
  const heldBytes = CHANGED_BYTES + KEPT_REGIONS * REGION_BYTES;
  await pair.link();

  /** What goes over because something has to; the state is told again and again, for as long as it takes. */
  const counted = (): number => {
    const { toServer, toClient } = wire.bytes('log', 'regions', 'needs');
    return toServer + toClient;
  };
  const cost = async (work: () => Promise<unknown>): Promise<number> => {
    const before = counted();
    await work();
    await pair.equal();
    return counted() - before;
  };
  const restoreCost = async (name: string, local: boolean): Promise<number> => {
    await primary.control.createSnapshot(GROUP, { name, local });
    await fill(pair, [...changed], random);
    await pair.equal();
    const { regions } = await primary.control.planRestore(GROUP, name, undefined);
    t.equal(regions, CHANGED_REGIONS);
    return await cost(() => primary.control.restore(GROUP, name, {}));
  };

  const byRecord = await restoreCost('both', false);
  t.match((await primary.link()).lastRestore, { path: 'by reference' });
  const byRegions = await restoreCost('here', true);
  t.match((await primary.link()).lastRestore, { path: 'by regions' });
  const full = await cost(() => primary.control.resyncLink(GROUP, LINK, true));

  const share = (bytes: number): string =>
    `${bytes} bytes, ${((bytes / CHANGED_BYTES) * 100).toFixed(2)} % of what was changed`;
  t.ok(byRecord < CHANGED_BYTES / 100, `held by both: ${share(byRecord)}`);
  t.ok(byRegions >= CHANGED_BYTES, 'the wire is counted');
  t.ok(byRegions <= CHANGED_BYTES * 1.05, `held here only: ${share(byRegions)}`);
  t.ok(full >= heldBytes && full > 1.2 * byRegions, `a full copy, which skips holes: ${share(full)}`);
  t.ok(await sameRegions(pair, [...changed, ...kept]), 'and both have the same');
});
