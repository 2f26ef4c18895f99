/** What a link asks its operator, and what it refuses. */
import t from 'tap';
import { type LinkedOptions, LinkedPair } from '../../fixtures/linked-pair.ts';

const link = { name: 'b', uri: 'nbd://b' };

/** In step, with regions 0 and 1 written. */
async function streaming(settings: object, options: LinkedOptions = {}): Promise<LinkedPair> {
  const pair = await LinkedPair.make({ regions: 8, ...options });
  await pair.here.write(0, 1, 2);
  await pair.here.group.links.add({ ...link, ...settings });
  await pair.streaming();
  pair.wire.regions.length = 0;
  return pair;
}

/** Detached, written, and resumed: its secondary lacks region 4. */
async function lacking(pair: LinkedPair): Promise<void> {
  const { links } = pair.here.group;
  await links.detach('b');
  await pair.until(() => pair.view.position.logLsn === null, 'no log');
  await pair.here.write(4, 5);
  await pair.here.group.settled();
  await links.resume('b');
}

async function same(pair: LinkedPair): Promise<boolean> {
  const { here, there } = await pair.fills();
  return JSON.stringify(here) === JSON.stringify(there);
}

t.test('a manual resync waits for its operator, but for the first, which link add asks for', async (t) => {
  const pair = await streaming({ resync: 'manual' });
  await lacking(pair);
  const waits = {
    state: 'resync',
    reason: 'its resync policy is manual, and 1 regions are to be copied',
    waitsFor: 'tidemark resync g --link b',
  };
  await pair.until(() => pair.here.told.includes('link.resync-waits'), 'it asks');
  await pair.here.write(5, 5);
  await pair.pass(60_000);
  await pair.here.group.settled();
  t.match(pair.view, { ...waits, reason: /manual, and 2 regions/ });
  t.same(pair.wire.regions, []);
  await pair.crashHere();
  await pair.until(() => pair.view.reason?.includes('manual') === true, 'it waits after a start, too');
  t.same(pair.wire.regions, []);
  await pair.here.group.links.resync('b');
  await pair.streaming();
  t.same(pair.wire.regions, ['v/4', 'v/5']);
  t.ok(await same(pair));
  pair.wire.regions.length = 0;
  await lacking(pair);
  await pair.until(
    () => pair.view.reason?.includes('manual') === true,
    'the next one has to be asked for again',
  );
  t.same(pair.wire.regions, []);
  await pair.here.group.links.set('b', { resync: 'auto' });
  await pair.streaming();
  t.ok(await same(pair));
});

t.test(
  'what its operator has said holds until that resync is complete, whatever comes in between',
  async (t) => {
    const pair = await streaming({ resync: 'manual' });
    await lacking(pair);
    await pair.until(() => pair.view.reason?.includes('manual') === true, 'it waits');
    let breaks = 0;
    pair.wire.hold = (call) => {
      if (call === 'syncRegions' && breaks++ < 2) pair.break();
      return undefined;
    };
    await pair.here.group.links.resync('b');
    await pair.until(() => breaks === 1, 'it breaks');
    await pair.crashHere();
    await pair.streaming();
    t.ok(breaks >= 2);
    t.ok(await same(pair));
  },
);

t.test(
  'a restore whose regions the secondary asks for waits as well; readers there keep what they see',
  async (t) => {
    const pair = await streaming({ resync: 'manual' });
    await pair.here.group.createSnapshot('s', { local: true });
    await pair.here.write(0, 7, 2);
    await pair.streaming();
    const { group } = pair.here;
    t.match(group.links.forecastRestore(group.planRestore('s')), [
      { path: 'by regions', note: /does not hold the snapshot; it waits for tidemark resync g --link b$/ },
    ]);
    await group.restore('s');
    await pair.until(() => pair.view.reason?.includes('manual') === true, 'it waits');
    await pair.pass(10_000);
    t.match(pair.view, { dcmRegions: 2, waitsFor: 'tidemark resync g --link b' });
    t.same((await pair.fills()).there, [[7, 7, 0, 0, 0, 0, 0, 0]]);
    await pair.here.group.links.resync('b');
    await pair.streaming();
    t.ok(await same(pair));
  },
);

t.test(
  '[0079]: a link that is set to ordered-only refuses what would have to be copied out of order',
  async (t) => {
    const pair = await streaming({ orderedOnly: true });
    const { group } = pair.here;
    await group.createSnapshot('both');
    await group.createSnapshot('mine', { local: true });
    await pair.here.write(0, 7, 2);
    await pair.streaming();
    const forecast = (name: string) => group.links.forecastRestore(group.planRestore(name))[0];
    t.match(forecast('both'), { path: 'by reference', refused: undefined });
    t.match(forecast('mine'), {
      path: 'by regions',
      refused: /ordered-only.*does not hold.*link detach g b.*--force/,
    });
    const before = group.log.endLsn;
    await t.rejects(group.restore('mine'), { code: 'in-use', message: /^link b: it is set to ordered-only/ });
    t.same([group.log.endLsn, group.snapshots.length], [before, 2], 'nothing is changed');
    // What is written through the snapshot is not on the secondary.
    await pair.here.write(1, 9, 1, pair.here.snapshot('both'));
    await t.rejects(group.restore('both'), { code: 'in-use', message: /written through the snapshot/ });
    await group.deleteSnapshot('both');
    await group.createSnapshot('both');
    await pair.here.write(0, 8);
    await pair.streaming();
    await group.restore('both');
    await pair.streaming();
    t.same(pair.wire.regions, [], 'by reference it goes');
    await group.links.set('b', { orderedOnly: false });
    await group.restore('mine');
    await pair.streaming();
    t.ok(await same(pair));
  },
);

t.test(
  '[0079]: … unless it is forced, or the link is detached, which has the secondary resynchronised',
  async (t) => {
    for (const how of ['force', 'detach']) {
      const pair = await streaming({ orderedOnly: true });
      const { group } = pair.here;
      await group.createSnapshot('mine', { local: true });
      await pair.here.write(0, 7, 2);
      await pair.streaming();
      if (how === 'detach') await group.links.detach('b');
      await group.restore('mine', how === 'force' ? { force: true } : {});
      if (how === 'detach') await group.links.resume('b');
      await pair.streaming();
      t.ok(await same(pair), how);
      t.same(pair.wire.regions, ['v/0', 'v/1'], how);
    }
  },
);

t.test(
  '[0079]: of a secondary that gets the log and cannot be asked nobody knows: that is refused, too',
  async (t) => {
    const pair = await streaming({ orderedOnly: true });
    const { group } = pair.here;
    await group.createSnapshot('both');
    await pair.here.write(0, 7, 2);
    await pair.streaming();
    pair.wire.up = false;
    pair.break();
    await pair.pass(500);
    await t.rejects(group.restore('both'), { code: 'in-use', message: /cannot be asked/ });
    await group.links.set('b', { orderedOnly: false });
    await group.restore('both');
    pair.wire.up = true;
    await pair.streaming();
    t.ok(await same(pair));
  },
);

t.test('[0079]: where the secondary has no room for a guard, what would need one is refused', async (t) => {
  const pair = await streaming({});
  const { group } = pair.here;
  await group.createSnapshot('mine', { local: true });
  await pair.here.write(0, 7, 2);
  await pair.streaming();
  const { folder } = pair.there;
  folder.faults.spaceSectors = folder.usedSectors() + 100;
  await pair.here.write(2, 7);
  await pair.until(() => {
    const forecast = group.links.forecastRestore(group.planRestore('mine'))[0];
    return forecast?.refused !== undefined;
  }, 'it tells');
  await t.rejects(group.restore('mine'), { code: 'in-use', message: /no room .* free space there/ });
  folder.faults.spaceSectors = Number.POSITIVE_INFINITY;
  await pair.pass(3000);
  await group.restore('mine');
  await pair.streaming();
  t.ok(await same(pair));
});

t.test('[0080]: a secondary is restored with its primary', async (t) => {
  const pair = await streaming({});
  await pair.here.group.createSnapshot('s');
  await pair.streaming();
  const { group } = pair.there;
  const up = {
    code: 'invalid',
    message: /takes what link b of its primary sends: restore the group on its primary/,
  };
  await t.rejects(group.restore('s'), up);
  await t.rejects(group.restore('s', { force: true }), up);
  t.throws(() => group.planRestore('s'), up);
  pair.wire.up = false;
  pair.break();
  await t.rejects(group.restore('s'), {
    code: 'unsupported',
    message: /its link is down.*once roles are there/,
  });
});

t.test('a policy that cannot be is refused', async (t) => {
  const pair = await LinkedPair.make({ regions: 8 });
  await t.rejects(pair.here.group.links.add({ ...link, resync: 'never' as 'auto' }), {
    code: 'invalid',
    message: /"never" is no policy for a resync/,
  });
});
