/** A secondary that gets its primary's log: synchronised, followed, delayed, frozen. */
import t from 'tap';
import { KIB } from '../../../engine/units.ts';
import { ReplicaPair } from '../../fixtures/replica-pair.ts';

t.test('K9: before everything has come there is nothing to see', async (t) => {
  const pair = await ReplicaPair.make({ regions: 8, volumes: ['v', 'w'] });
  await pair.primary.write(0, 1, 5);
  const none = { code: 'unavailable', message: /not yet synchronised/ };
  await t.rejects(pair.secondary.fills(), none);
  t.match(await pair.begin(), { origin: null, resyncing: true, endLsn: 0, holding: null, role: 'secondary' });
  await t.rejects(pair.ship(), { code: 'unavailable', message: /no log of a primary/ });
  const round = await pair.round();
  t.match(pair.state, {
    origin: { groupId: pair.primary.group.id },
    holding: { roundId: round.id, lsn: round.lsn },
    resyncing: true,
    endLsn: round.lsn,
    horizonLsn: round.lsn,
    appliedLsn: round.lsn,
  });
  t.equal(pair.secondary.group.id, pair.primary.group.id);
  await pair.send(round, { v: [0, 1, 2, 3, 4] });
  await t.rejects(pair.secondary.fills(), none);
  await t.rejects(pair.secondary.group.createSnapshot('x', { local: true }), { code: 'unavailable' });
  await pair.secondary.crash();
  await t.rejects(pair.secondary.fills(), none);
  await pair.begin();
  const again = await pair.round('ship');
  await pair.send(again, { v: [0, 1, 2, 3, 4] });
  await pair.end(again);
  t.match(pair.state, { resyncing: false, holding: null });
  t.same(await pair.secondary.fills(), [1, 1, 1, 1, 1, 0, 0, 0]);
  await pair.stream();
  t.same((await pair.images()).secondary, (await pair.images()).primary);
  t.ok(pair.secondary.told.includes('resync.completed'));
});

t.test('what is shipped is shown up to the horizon, between batches, and survives', async (t) => {
  const pair = await ReplicaPair.synchronised({ regions: 8, volumes: ['v', 'w'] });
  const before = await pair.images();
  for (let count = 1; count <= 5; count++) {
    await pair.primary.write(count, count + 10);
    await pair.primary.write(0, count, 8, pair.primary.volume('w'));
    await pair.primary.group.volumes.get('v')?.flush();
  }
  await pair.ship();
  t.same((await pair.images()).secondary, before.secondary, 'received and durable is not shown');
  const { horizonLsn, endLsn } = pair.state;
  t.ok(horizonLsn < endLsn);
  await pair.secondary.crash();
  t.equal(pair.state.horizonLsn, horizonLsn, 'K12: a start goes no further than what was shown');
  t.same((await pair.images()).secondary, before.secondary);
  await pair.secondary.pass(100);
  const after = await pair.images();
  t.same(after.secondary, after.primary);
  t.equal(pair.state.horizonLsn, endLsn);
  await pair.secondary.crash();
  t.same((await pair.images()).secondary, after.primary);
  await pair.secondary.group.settled();
  t.equal(pair.state.appliedLsn, endLsn);
  t.same((await pair.images()).secondary, after.primary);
  await t.rejects(pair.secondary.write(0, 1), { code: 'unavailable', errno: 'EROFS' });
});

t.test('a ring smaller than the writes: it is applied, freed and filled again', async (t) => {
  const pair = await ReplicaPair.synchronised({ regions: 32, secondary: { logBytes: 256 * KIB } });
  for (let round = 1; round <= 12; round++) {
    await pair.primary.write(0, round, 32);
    await pair.ship(undefined, 1);
    await pair.primary.group.settled();
  }
  await pair.stream();
  const { primary, secondary } = await pair.images();
  t.same(secondary, primary);
  t.ok(pair.shipped > 1024 * KIB);
});

t.test('K12: frozen, and delayed', async (t) => {
  const pair = await ReplicaPair.synchronised({
    regions: 4,
    secondary: { replica: { applyDelaySeconds: 10 } },
  });
  await pair.secondary.pass(10_000);
  await pair.primary.write(0, 1, 4);
  await pair.stream();
  t.same(await pair.secondary.fills(), [0, 0, 0, 0]);
  t.match(pair.state.heldBack, /delayed/);
  await pair.secondary.pass(6000);
  await pair.primary.write(0, 2, 1);
  await pair.stream();
  t.same(await pair.secondary.fills(), [0, 0, 0, 0]);
  await pair.secondary.pass(6000);
  t.same(await pair.secondary.fills(), [1, 1, 1, 1]);
  await pair.secondary.group.replica?.freeze();
  await pair.secondary.pass(20_000);
  t.same(await pair.secondary.fills(), [1, 1, 1, 1]);
  t.match(pair.state.heldBack, /frozen/);
  await pair.secondary.crash();
  await pair.secondary.pass(20_000);
  t.same(await pair.secondary.fills(), [1, 1, 1, 1]);
  await pair.secondary.group.replica?.thaw();
  await pair.secondary.pass(100);
  t.same(await pair.secondary.fills(), [2, 1, 1, 1]);
  await pair.secondary.group.replica?.setApplyDelay(0);
  await pair.begin();
  await pair.primary.write(1, 3, 1);
  await pair.stream();
  t.same(await pair.secondary.fills(), [2, 3, 1, 1]);
});

t.test('a hand-over that comes to nothing leaves no session open', async (t) => {
  const pair = await ReplicaPair.synchronised({ regions: 4 });
  t.ok(pair.port.connected);
  const { faults } = pair.secondary.folder;
  faults.decide = (operation) => (operation === 'write' ? 'ENOSPC' : undefined);
  await t.rejects(pair.begin({ linkName: 'renamed' }), { code: 'disk', errno: 'ENOSPC' });
  t.notOk(pair.port.connected);
  await t.rejects(pair.port.sync(pair.session), { code: 'unavailable', message: /session is over/ });
  faults.decide = undefined;
  await pair.begin({ linkName: 'renamed' });
  t.ok(pair.port.connected);
  t.match(pair.port.upstream, { linkName: 'renamed' });
  await pair.primary.write(0, 7);
  await pair.stream();
  await pair.secondary.pass(100);
  t.same((await pair.images()).secondary, (await pair.images()).primary);
});

t.test('a restart that meets a step of the delay waits for what that lets in', async (t) => {
  const pair = await ReplicaPair.synchronised({
    regions: 8,
    secondary: { replica: { applyDelaySeconds: 10 } },
  });
  await pair.primary.write(3, 9);
  await pair.ship();
  await pair.secondary.pass(100);
  const { horizonLsn, endLsn } = pair.state;
  t.ok(horizonLsn < endLsn, 'it is delayed');
  const release = pair.secondary.folder.hold('write', 'group.record');
  await pair.secondary.pass(10_000);
  const restarted = pair.round('restart');
  await pair.secondary.turns(200);
  release();
  const round = await restarted;
  t.equal(pair.state.holding?.roundId, round.id);
  await pair.end(round);
  // For as long as the delay, readers keep the image from before.
  await pair.secondary.pass(11_000);
  t.same(await pair.secondary.fills(), [0, 0, 0, 9, 0, 0, 0, 0]);
});
