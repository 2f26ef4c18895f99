/**
 * Fig. 2 of the patent, panel by panel: a volume of five regions and its replica, on two nodes in processes of their own, seen as a user sees them. Letters
 * come over NBD, and so do the maps, as contexts.
 *
 * The figure's numbers: 210 the volume, 220 the snapshot, 250 the replica; maps 230 (the volume with reference to the snapshot), 240 (the snapshot with
 * reference to the volume), 270 (the restoration map, 230 OR 240) and 260 (the replication map: the DCM, of which `link list` has the count; which regions they are
 * is what goes over the wire then). A second snapshot of the same moment, `paper`, that nobody writes through, is what 230 and 240 are drawn on.
 */
import t from 'tap';
import { lettersOf, mapOf, putLetters, REGION_BYTES } from '../../fixtures/letters.ts';
import { GROUP, LINK, ProcessPair } from '../../fixtures/process-pair.ts';

const VOLUME = `${GROUP}/v`;
const SNAPSHOT = `${VOLUME}@s`;
const MIB = 1024 * 1024;

/** All volumes and maps. Without a snapshot there is nothing that they could be drawn on. */
async function panel({ primary, secondary }: ProcessPair) {
  return {
    ...(await panelBeforeSnapshot({ primary, secondary })),
    220: await lettersOf(primary, SNAPSHOT),
    230: await mapOf(primary, VOLUME, 'tidemark:changed:paper'),
    240: await mapOf(primary, `${VOLUME}@paper`, 'tidemark:changed:s'),
    270: await mapOf(primary, VOLUME, 'tidemark:changed:s'),
  };
}

async function panelBeforeSnapshot({ primary, secondary }: Pick<ProcessPair, 'primary' | 'secondary'>) {
  const { dcmRegions, state } = await primary.link();
  return {
    210: await lettersOf(primary, VOLUME),
    250: await lettersOf(secondary, VOLUME),
    260: dcmRegions,
    290: state,
  };
}

const pair = await ProcessPair.start(t);

for (const local of [true, false]) {
  const who = local ? 'only the primary has' : 'both have';
  const lacks = local ? ['v/0', 'v/2', 'v/4'] : ['v/2', 'v/4'];
  t.test(`Fig. 2, with a snapshot that ${who}`, async (t) => {
    await pair.create({ logSize: 4 * MIB, volumes: [{ name: 'v', size: 5 * REGION_BYTES }] });
    const { primary, secondary, wire } = pair;

    await putLetters(primary, VOLUME, { 1: 'A', 2: 'B', 3: 'C', 4: 'D', 5: 'E' });
    await primary.tidemark('link', 'add', GROUP, pair.uri, '--name', LINK);
    await pair.equal();
    const streams = { 260: 0, 290: 'streaming' };
    t.same(await panelBeforeSnapshot(pair), { 210: 'ABCDE', 250: 'ABCDE', ...streams }, '2A');

    await primary.tidemark('snapshot', 'create', `${GROUP}@s`, ...(local ? ['--local'] : []));
    await primary.tidemark('snapshot', 'create', `${GROUP}@paper`, '--local');
    await pair.equal();
    const clear = { 230: '00000', 240: '00000', 270: '00000' };
    t.same(await panel(pair), { 210: 'ABCDE', 220: 'ABCDE', 250: 'ABCDE', ...clear, ...streams }, '2B');
    const there = (await secondary.group()).snapshots.map(({ name }) => name);
    t.same(there, local ? [] : ['s'], 'who has the snapshot');

    await putLetters(primary, VOLUME, { 1: 'a' });
    await putLetters(primary, SNAPSHOT, { 3: 'c', 5: 'e' });
    await pair.equal();
    const maps = { 230: '10000', 240: '00101', 270: '10101' };
    t.same(await panel(pair), { 210: 'aBCDE', 220: 'ABcDe', 250: 'aBCDE', ...maps, ...streams }, '2C');
    if (!local) t.equal(await mapOf(secondary, VOLUME, 'tidemark:changed:s'), '10000', '230 of the replica');

    const plan = JSON.parse(await primary.tidemark('restore', `${GROUP}@s`, '--plan', '--json'));
    t.match(plan, {
      regions: 3,
      links: [{ link: LINK, path: 'by regions', bytes: lacks.length * REGION_BYTES }],
    });
    const said = await primary.tidemark('diff', SNAPSHOT);
    t.match(said, /0 65536\n131072 65536\n262144 65536\n3 extents/, '2D: 270, as the command line has it');

    const before = wire.regions(REGION_BYTES).length;
    wire.holdUp('regions');
    await primary.tidemark('restore', `${GROUP}@s`);
    await primary.untilLink(({ state, dcmRegions }) => state === 'resync' && dcmRegions > 0);
    const restored = { 210: 'ABcDe', 220: 'ABcDe', 250: 'aBCDE' };
    t.match(await panel(pair), { ...restored, 270: '10101' }, '2E: at once here, and not yet there');
    t.match(await panel(pair), { ...restored, 260: lacks.length, 290: 'resync' }, '2F');

    wire.letGo();
    await pair.equal();
    t.same(wire.regions(REGION_BYTES).slice(before), lacks, '2G: these regions and no others');
    t.match(await panel(pair), { 210: 'ABcDe', 220: 'ABcDe', 250: 'ABcDe', ...streams }, '2H');
    t.match((await primary.link()).lastRestore, { path: 'by regions' });

    const shipped = (await primary.link()).bytesShipped;
    await putLetters(primary, VOLUME, { 4: 'd' });
    t.ok((await pair.equal()).bytesShipped > shipped, 'normal replication is again in progress');
    t.equal(await lettersOf(secondary, VOLUME), 'ABcde');
    t.same(wire.regions(REGION_BYTES).slice(before), lacks, 'by the log');
  });
}
