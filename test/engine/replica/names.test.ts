/** What a secondary hears of its primary's snapshots beside the log (rules S4, K10). */
import t, { type Test } from 'tap';
import { KIB } from '../../../engine/units.ts';
import { type LinkedOptions, LinkedPair } from '../../fixtures/linked-pair.ts';
import { ReplicaPair } from '../../fixtures/replica-pair.ts';

const link = { name: 'b', uri: 'nbd://b' };

/** In step, with all regions written. */
async function streaming(options: LinkedOptions = {}, settings: object = {}): Promise<LinkedPair> {
  const pair = await LinkedPair.make({ regions: 8, ...options });
  await pair.here.write(0, 1, 8);
  await pair.here.group.links.add({ ...link, ...settings });
  await pair.streaming();
  return pair;
}

/** The secondary does not get the log of what is done meanwhile, and begins anew after it. */
async function skipped(pair: LinkedPair, work: () => Promise<unknown>): Promise<void> {
  await pair.here.group.links.detach('b');
  await pair.until(() => pair.view.position.logLsn === null, 'nothing kept');
  await work();
  await pair.here.group.settled();
  await pair.here.group.links.resume('b');
  await pair.streaming();
  await pair.there.group.settled();
  pair.wire.regions.length = 0;
}

async function detached(pair: LinkedPair): Promise<void> {
  await pair.here.group.createSnapshot('d');
  await pair.here.group.detachSnapshot('d');
  await pair.here.group.settled();
  await pair.streaming();
  await pair.there.group.settled();
}

async function restored(t: Pick<Test, 'same' | 'equal'>, pair: LinkedPair, path: string): Promise<void> {
  const forecast = pair.here.group.links.forecastRestore(pair.here.group.planRestore('d'));
  t.same(
    forecast.map((one) => one.path),
    [path],
    'forecast',
  );
  await pair.here.group.restore('d');
  await pair.here.group.settled();
  await pair.streaming();
  await pair.there.group.settled();
  await pair.until(() => pair.view.lastRestore?.path !== 'pending', 'the way it went');
  t.equal(pair.view.lastRestore?.path, path);
  const { here, there } = await pair.fills();
  t.same(there, here);
}

const names = (pair: LinkedPair): string[] => pair.there.group.snapshots.map(({ name }) => name);

t.test(
  'K10: a snapshot that was refreshed in a part of the log that never came is another one',
  async (t) => {
    const pair = await streaming();
    await detached(pair);
    await pair.here.write(0, 2, 4);
    await skipped(pair, async () => {
      await pair.here.group.refreshSnapshot('d');
      await pair.here.write(0, 3, 2);
    });
    t.same(names(pair), [], 'what it shows here is no image of it any more');
    await restored(t, pair, 'by regions');
    t.same(new Set(pair.wire.regions), new Set(['v/0', 'v/1']));
    // What is done with it comes through the log again, and is void here.
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    pair.wire.hold = (call) => (call === 'append' ? held : undefined);
    await pair.here.group.refreshSnapshot('d');
    const [forecast] = pair.here.group.links.forecastRestore(pair.here.group.planRestore('d'));
    t.equal(forecast?.path, 'by regions', 'before the secondary has come to the refresh');
    release();
    pair.wire.hold = undefined;
    await pair.here.group.renameSnapshot('d', 'e');
    await pair.streaming();
    t.same(names(pair), ['undo']);
  },
);

t.test('K10: … which a restart of the log says by itself', async (t) => {
  const pair = await ReplicaPair.synchronised({ regions: 8 });
  const { primary, secondary } = pair;
  await primary.write(0, 1, 8);
  for (const name of ['d', 'e']) {
    await primary.group.createSnapshot(name);
    await primary.group.detachSnapshot(name);
  }
  await primary.group.settled();
  await pair.stream();
  await primary.write(0, 2, 4);
  await primary.group.refreshSnapshot('d');
  await primary.group.settled();
  await pair.resync(pair.all(), 'restart');
  const left = () => secondary.group.snapshots.map(({ name }) => name);
  t.same(left(), ['e']);
  await secondary.crash();
  t.same(left(), ['e']);
});

t.test('K10: one that was not is the same', async (t) => {
  const pair = await streaming();
  await detached(pair);
  await skipped(pair, () => pair.here.write(0, 3, 2));
  t.same(names(pair), ['d']);
  await restored(t, pair, 'by reference');
  t.same(pair.wire.regions, []);
});

t.test('S6: what was detached in a part of the log that never came is detached here, too', async (t) => {
  const pair = await streaming();
  await pair.here.group.createSnapshot('d');
  await pair.streaming();
  await skipped(pair, async () => {
    await pair.here.write(0, 2, 4);
    await pair.here.group.detachSnapshot('d');
  });
  t.match(pair.there.group.snapshots, [{ name: 'd', state: 'detached' }]);
  await pair.here.group.refreshSnapshot('d');
  await pair.here.write(0, 3, 2);
  await pair.streaming();
  await restored(t, pair, 'by reference');
  await pair.here.group.deleteSnapshot('d');
  await pair.streaming();
  t.same(names(pair), ['undo']);
});

t.test('S4: a deletion whose record a crash took is told at the hand-over', async (t) => {
  let lost = 0;
  for (let seed = 1; seed <= 6; seed++) {
    const pair = await streaming({ seed });
    await pair.here.group.createSnapshot('d');
    await pair.here.group.createSnapshot('e');
    await pair.streaming();
    pair.here.folder.hold('sync', 'log.ring');
    await pair.here.group.deleteSnapshot('d');
    const { endLsn } = pair.here.group.log;
    await pair.crashHere();
    if (pair.here.group.log.endLsn < endLsn) lost++;
    await pair.streaming();
    await pair.until(() => names(pair).length === 1, 'one is left');
    t.same(names(pair), ['e'], `seed ${seed}`);
    await pair.there.crash();
    t.same(names(pair), ['e'], `seed ${seed}, durably`);
    await pair.here.group.createSnapshot('d');
    await pair.here.write(0, 2, 3);
    await pair.streaming();
    t.same(names(pair), ['e', 'd']);
    await restored(t, pair, 'by reference');
  }
  t.ok(lost > 0);
});

t.test('S4: one that found no room in the log is told when there is', async (t) => {
  const logBytes = 256 * KIB;
  const pair = await streaming({ logBytes, secondary: { logBytes } }, { onFull: 'block' });
  await pair.here.group.createSnapshot('d');
  await pair.here.group.createSnapshot('e');
  await pair.streaming();
  const begun = () => pair.wire.calls.filter((call) => call === 'begin').length;
  const connections = begun();
  let release = () => {};
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  pair.wire.hold = (call) => (call === 'append' ? held : undefined);
  const fill = async (): Promise<void> => {
    for (let count = 0; count < 2000; count++)
      await pair.here.group
        .renameSnapshot('e', `e${count % 2}`)
        .catch(() => pair.here.group.renameSnapshot(`e${(count + 1) % 2}`, `e${count % 2}`));
  };
  await t.rejects(fill(), { code: 'unavailable', errno: 'ENOSPC' });
  await pair.here.group.deleteSnapshot('d');
  t.equal(pair.here.group.snapshots.length, 1);
  release();
  pair.wire.hold = undefined;
  await pair.streaming();
  await pair.until(() => names(pair).length === 1, 'one is left');
  t.equal(begun(), connections, 'in the session of before');
});

t.test('a forecast counts on nothing that lies inside a resync', async (t) => {
  const pair = await streaming();
  let release = () => {};
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  await skipped(pair, () => pair.here.write(0, 2, 4));
  pair.wire.hold = (call) => (call === 'writeRegions' ? held : undefined);
  await pair.here.group.links.resync('b', { full: true });
  await pair.until(() => pair.view.state === 'resync', 'a round');
  await pair.pass(3000);
  await pair.here.group.createSnapshot('d');
  await pair.here.write(0, 3, 2);
  const path = () => pair.here.group.links.forecastRestore(pair.here.group.planRestore('d'))[0]?.path;
  t.equal(path(), 'by regions');
  release();
  pair.wire.hold = undefined;
  await pair.streaming();
  t.equal(path(), names(pair).includes('d') ? 'by reference' : 'by regions');
});
