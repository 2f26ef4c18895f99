/** Detached snapshots of a primary, on its secondary, which may be behind with what it does in the background (rules S5, S6, T3, K10). */
import t, { type Test } from 'tap';
import { KIB } from '../../../engine/units.ts';
import { ReplicaPair } from '../../fixtures/replica-pair.ts';

const SLOW = { secondary: { group: { copyBytesPerSecond: 1 } } };

async function equal(t: Pick<Test, 'same'>, pair: ReplicaPair, name: string, what = ''): Promise<void> {
  const { primary, secondary } = await pair.images();
  t.same(secondary, primary, what);
  const snapshot = pair.secondary.snapshot(name);
  t.same(
    await pair.secondary.fills(snapshot),
    await pair.primary.fills(pair.primary.snapshot(name)),
    `${what}, of ${name}`,
  );
}

const shared = ({ group }: ReplicaPair['primary']) =>
  group.snapshots.filter(({ local }) => !local).map(({ name, id, imageId }) => [name, id, imageId]);

/** A secondary whose restore from the detached snapshot `a` goes on for ever, and a refresh of that on the primary. */
async function refreshedUnderRestore(): Promise<ReplicaPair> {
  const pair = await ReplicaPair.synchronised({ regions: 8, ...SLOW });
  const { primary } = pair;
  await primary.write(0, 1, 8);
  await primary.group.createSnapshot('a');
  await primary.group.detachSnapshot('a');
  await primary.group.settled();
  await pair.stream();
  await primary.write(0, 2, 8);
  await primary.group.restore('a');
  await primary.group.settled();
  await pair.ship();
  await pair.secondary.pass(200);
  await primary.write(3, 9);
  await primary.group.refreshSnapshot('a');
  await primary.group.settled();
  await pair.ship();
  return pair;
}

t.test('T3: a restore goes on reading what its source was before a refresh', async (t) => {
  const pair = await refreshedUnderRestore();
  t.ok(pair.secondary.group.operations.some(({ kind }) => kind === 'restore'));
  // Neither waits for the other.
  pair.secondary.folder.faults.decide = (operation, name) =>
    operation === 'write' && name.endsWith('.copied') ? 'ENOSPC' : undefined;
  await pair.secondary.pass(200);
  t.ok(pair.secondary.group.operations.some(({ kind }) => kind === 'restore'));
  await equal(t, pair, 'a', 'while both are under way');
  await pair.secondary.crash();
  await equal(t, pair, 'a', 'and after a start');
  pair.secondary.folder.faults.decide = undefined;
  // A region of the restore in more than an hour.
  await pair.secondary.pass(10_000_000, 1_000_000);
  t.ok(pair.secondary.group.operations.some(({ kind }) => kind === 'restore'));
  t.match(pair.secondary.group.snapshots, [{ name: 'undo' }, { name: 'a', state: 'detached' }]);
  await equal(t, pair, 'a', 'when the refresh has ended');
  await pair.begin();
  await pair.primary.write(5, 4);
  await pair.ship();
  await pair.secondary.pass(200);
  await equal(t, pair, 'a', 'when more was written');
  await pair.secondary.pass(100_000_000, 1_000_000);
  t.same(pair.secondary.group.operations, []);
  await equal(t, pair, 'a', 'at the end');
  t.same(shared(pair.secondary), shared(pair.primary));
  t.same(pair.secondary.rawFills(), (await pair.images()).primary[0]);
  t.same(pair.secondary.group.failure, undefined);
});

t.test(
  'S6: a refresh waits until the snapshot is detached here, and what it waits for hurries',
  async (t) => {
    const pair = await ReplicaPair.synchronised({ regions: 8, ...SLOW });
    const { primary, secondary } = pair;
    await primary.write(0, 1, 8);
    await primary.group.createSnapshot('a');
    await primary.write(0, 2, 8);
    await primary.group.restore('a');
    await primary.group.settled();
    await primary.group.detachSnapshot('a');
    await primary.group.settled();
    await pair.ship();
    await secondary.pass(200);
    t.equal(secondary.group.snapshots.find(({ name }) => name === 'a')?.state, 'detaching');
    await primary.write(3, 9);
    await primary.group.refreshSnapshot('a');
    await primary.write(4, 8);
    secondary.folder.faults.decide = (operation, name) =>
      operation === 'write' && name.startsWith('restores/') ? 'ENOSPC' : undefined;
    await pair.ship();
    await secondary.pass(200);
    t.match(pair.state.heldBack, /snapshot a of the primary: .* not detached here yet/);
    t.equal((await secondary.fills())[4], 1);
    secondary.folder.faults.decide = undefined;
    await secondary.pass(2000);
    await equal(t, pair, 'a');
    t.same(shared(secondary), shared(primary));
    await primary.group.renameSnapshot('a', 'b');
    await pair.stream();
    t.same(shared(secondary), shared(primary));
    await primary.group.deleteSnapshot('b');
    await pair.stream();
    t.same(shared(secondary), shared(primary));
  },
);

t.test('S5: where that cannot end the snapshot is given up, and what follows is applied', async (t) => {
  const pair = await ReplicaPair.synchronised({ regions: 8 });
  const { primary, secondary } = pair;
  await primary.write(0, 1, 8);
  await primary.group.createSnapshot('a');
  await pair.stream();
  secondary.folder.faults.decide = (operation, name) =>
    operation === 'write' && name.endsWith('.copied') ? 'ENOSPC' : undefined;
  await primary.group.detachSnapshot('a');
  await primary.group.settled();
  await primary.write(0, 2, 4);
  await primary.group.refreshSnapshot('a');
  await primary.write(0, 3, 2);
  await pair.ship();
  await secondary.pass(1000);
  t.same(await secondary.fills(), [2, 2, 2, 2, 1, 1, 1, 1], 'it waits');
  await secondary.pass(8000);
  t.same((await pair.images()).secondary, (await pair.images()).primary);
  t.same(secondary.group.snapshots, []);
  t.ok(secondary.told.includes('snapshot.absent'));
  await primary.group.restore('a');
  await pair.stream();
  t.match(pair.state, { resyncing: true, needs: 1 });
  t.same(pair.needs(), { v: [0, 1] });
});

t.test('S6: a refresh waits for the one before it', async (t) => {
  const regions = 300;
  const pair = await ReplicaPair.synchronised({ regions, logBytes: 65_536 * KIB });
  const { primary, secondary } = pair;
  await primary.write(0, 1, regions);
  await primary.group.createSnapshot('a');
  await primary.group.detachSnapshot('a');
  await primary.group.settled();
  await pair.stream();
  await primary.write(0, 2, regions);
  await primary.group.refreshSnapshot('a');
  await primary.group.settled();
  const next = () => secondary.folder.hold('sync', '.copied', 1);
  let release = next();
  await pair.ship();
  await secondary.pass(200);
  await primary.write(0, 3, 2);
  await primary.group.refreshSnapshot('a');
  await primary.group.settled();
  await pair.ship();
  // A part of it at a time: what comes next is looked at in between.
  for (let part = 1; part <= 3; part++) {
    const open = release;
    release = next();
    open();
    await secondary.pass(200);
  }
  release();
  await secondary.group.settled();
  await equal(t, pair, 'a');
  await secondary.reopen();
  await equal(t, pair, 'a');
});

t.test('one that was refreshed before its detaching had begun is an attached one on both', async (t) => {
  const pair = await ReplicaPair.synchronised({ regions: 8 });
  const { primary, secondary } = pair;
  await primary.write(0, 1, 8);
  await primary.group.createSnapshot('a');
  await pair.stream();
  await primary.write(0, 2, 4);
  const detaching = primary.group.detachSnapshot('a');
  const refreshing = primary.group.refreshSnapshot('a');
  await Promise.all([detaching, refreshing]);
  await primary.group.settled();
  t.match(primary.group.snapshots, [{ name: 'log' }, { name: 'a', state: 'attached' }]);
  await pair.stream();
  t.same(shared(secondary), shared(primary));
  await equal(t, pair, 'a');
  await secondary.crash();
  await secondary.group.settled();
  t.same(shared(secondary), shared(primary));
  await equal(t, pair, 'a');
});
