/** Rule K12 of the design, as far as it is about a delay and a resync. */
import t from 'tap';
import { KIB } from '../../../engine/units.ts';
import { LinkedPair } from '../../fixtures/linked-pair.ts';
import { ReplicaPair } from '../../fixtures/replica-pair.ts';

const DELAY_MS = 10_000;

/** In step, ten seconds late, and showing ones; then resynchronised to twos, which came two seconds ago. */
async function resynced(options: { readonly logBytes?: number } = {}): Promise<ReplicaPair> {
  const pair = await ReplicaPair.make({
    regions: 4,
    secondary: { replica: { applyDelaySeconds: DELAY_MS / 1000 }, ...options },
  });
  await pair.primary.write(0, 1, 4);
  await pair.begin();
  await pair.resync(pair.all());
  await pair.secondary.pass(DELAY_MS);
  await pair.primary.write(0, 2, 4);
  await pair.resync({ v: [0, 1, 2, 3] });
  await pair.secondary.pass(2000);
  return pair;
}

async function shows(pair: ReplicaPair): Promise<number[]> {
  return await pair.secondary.fills();
}

t.test('K12: after a resync readers keep the image from before until the delay has passed', async (t) => {
  const pair = await resynced();
  t.match(pair.state, { resyncing: false, holding: null });
  t.match(pair.state.heldBack, /^resynced; the old image is shown until 20\d\d-.*Z$/);
  t.equal(pair.port.shows.image, 'guard');
  t.ok((pair.port.shows.lsn ?? 0) < pair.state.horizonLsn);
  t.same(await shows(pair), [1, 1, 1, 1]);
  t.same(pair.secondary.rawFills(), [2, 2, 2, 2], 'they are there');
  // What comes now is seen later than that.
  await pair.primary.write(0, 3);
  await pair.stream();
  await pair.secondary.pass(7000);
  t.same(await shows(pair), [1, 1, 1, 1]);
  await pair.secondary.pass(2000);
  t.same(await shows(pair), [2, 2, 2, 2]);
  t.match(pair.port.shows, { image: 'volumes', lsn: pair.state.horizonLsn, untilMs: undefined });
  t.ok(pair.secondary.told.includes('resync.shown'));
  await pair.secondary.pass(2000);
  t.same(await shows(pair), [3, 2, 2, 2]);
});

t.test('K12: … also across a restart, where the delay begins anew', async (t) => {
  const pair = await resynced();
  await pair.secondary.pass(6000);
  await pair.secondary.crash();
  t.match(pair.state.heldBack, /the old image is shown until/);
  await pair.secondary.pass(9000);
  t.same(await shows(pair), [1, 1, 1, 1]);
  await pair.secondary.group.settled();
  await pair.secondary.reopen();
  await pair.secondary.pass(9000);
  t.same(await shows(pair), [1, 1, 1, 1], 'after a clean one too');
  await pair.secondary.pass(2000);
  t.same(await shows(pair), [2, 2, 2, 2]);
  await pair.secondary.crash();
  t.same(await shows(pair), [2, 2, 2, 2]);
});

t.test('K12: before the first resync there is no image: readers are refused as long', async (t) => {
  const pair = await ReplicaPair.make({
    regions: 4,
    secondary: { replica: { applyDelaySeconds: DELAY_MS / 1000 } },
  });
  await pair.primary.write(0, 1, 4);
  await pair.begin();
  await pair.resync(pair.all());
  await t.rejects(shows(pair), { code: 'unavailable', message: /is synchronised, and can be read when/ });
  t.match(pair.port.shows, { image: 'nothing', lsn: null });
  await pair.secondary.crash();
  await pair.secondary.pass(DELAY_MS - 1000);
  await t.rejects(shows(pair), { code: 'unavailable' });
  await pair.secondary.pass(2000);
  t.same(await shows(pair), [1, 1, 1, 1]);
});

t.test('K12: … also where the log of the primary begins at 0', async (t) => {
  const pair = await LinkedPair.make({
    regions: 4,
    secondary: { replica: { applyDelaySeconds: DELAY_MS / 1000 } },
  });
  await pair.here.write(0, 1, 4);
  await pair.here.group.links.add({ name: 'b', uri: 'nbd://b' });
  await pair.until(() => pair.view.state === 'streaming', 'it streams');
  const { replica } = pair.there.group;
  t.match(replica?.state(), { horizonLsn: 0, resyncing: false });
  await pair.pass(DELAY_MS - 2000);
  t.equal(replica?.shows.image, 'nothing');
  await t.rejects(pair.there.fills(), { code: 'unavailable' });
  await pair.pass(2000);
  t.same(await pair.there.fills(), [1, 1, 1, 1]);
});

t.test('K12: thawing, a shorter delay and a full ring end it', async (t) => {
  const thawed = await resynced();
  await thawed.port.thaw();
  t.same(await shows(thawed), [2, 2, 2, 2]);
  await thawed.primary.write(0, 3);
  await thawed.stream();
  t.same(await shows(thawed), [2, 2, 2, 2], 'what comes is as late as before');

  const shorter = await resynced();
  await shorter.port.setApplyDelay(3);
  await shorter.secondary.pass(20);
  t.same(await shows(shorter), [1, 1, 1, 1]);
  await shorter.secondary.pass(2000);
  t.same(await shows(shorter), [2, 2, 2, 2]);

  const none = await resynced();
  await none.port.setApplyDelay(0);
  await none.secondary.pass(20);
  t.same(await shows(none), [2, 2, 2, 2]);

  const full = await resynced({ logBytes: 512 * KIB });
  const { untilMs = 0 } = full.port.shows;
  const begin = full.state.endLsn;
  let last = 0;
  for (let count = 0; count < 160; count++) {
    last = 3 + count;
    await full.primary.write(0, last);
    if (count % 10 === 9) await full.ship();
  }
  t.ok((full.state.endLsn - begin) * 512 > full.secondary.group.log.sizeBytes);
  t.ok(full.secondary.clock.nowMs() < untilMs, 'long before its time');
  t.equal(full.port.shows.image, 'volumes');
  const [first, ...others] = await shows(full);
  t.same(others, [2, 2, 2]);
  t.ok(first !== 1 && first !== last, `it shows ${first}: some of what is late, and not all`);
});

t.test('K12: frozen, it keeps what it shows', async (t) => {
  const pair = await resynced();
  await pair.port.freeze();
  t.match(pair.state.heldBack, /frozen/);
  await pair.secondary.pass(3 * DELAY_MS);
  t.same(await shows(pair), [1, 1, 1, 1]);
  await pair.port.thaw();
  t.same(await shows(pair), [2, 2, 2, 2]);
});

t.test('K12: of another resync in that time readers see nothing either', async (t) => {
  const pair = await resynced();
  const { lsn } = pair.port.shows;
  await pair.primary.write(0, 3, 4);
  const round = await pair.round();
  t.match(pair.state, { resyncing: true, holding: { lsn: round.lsn } });
  t.equal(pair.port.shows.lsn, lsn, 'it is the image that they had');
  await pair.secondary.crash();
  t.match(pair.state, { resyncing: true });
  t.same(await shows(pair), [1, 1, 1, 1]);
  await pair.begin();
  await pair.resync({ v: [0, 1, 2, 3] });
  await pair.secondary.pass(9000);
  t.same(await shows(pair), [1, 1, 1, 1]);
  await pair.secondary.pass(2000);
  t.same(await shows(pair), [3, 3, 3, 3]);
  await pair.secondary.group.settled();
  t.equal(pair.secondary.durableRecord().nodes.length, 0, 'no guard is left over');
});

t.test('K12: a snapshot of its own would show what readers may not see yet: it is refused', async (t) => {
  const pair = await resynced();
  const mine = () => pair.secondary.group.createSnapshot('mine', { local: true });
  await t.rejects(mine(), { code: 'unavailable', message: /until the apply delay has passed/ });
  await pair.secondary.pass(DELAY_MS);
  await mine();
  t.same(await pair.secondary.fills(pair.secondary.snapshot('mine')), [2, 2, 2, 2]);
});

t.test('a delay that cannot be is refused', async (t) => {
  const pair = await ReplicaPair.make({ regions: 4 });
  for (const seconds of [-1, 0.5, 2 ** 40, Number.NaN])
    await t.rejects(pair.port.setApplyDelay(seconds), { code: 'invalid' });
  t.equal(pair.port.applyDelaySeconds, 0);
});
