/** Restores of the primary, on its secondary (rule K10; the patent's Fig. 5), and its other control records. */
import t, { type Test } from 'tap';
import { ReplicaPair } from '../../fixtures/replica-pair.ts';

/** The undo snapshot, and where it is taken from, are the same on both. */
async function sameSnapshots(t: Pick<Test, 'same'>, pair: ReplicaPair): Promise<void> {
  const names = (group: { snapshots: readonly { name: string; local: boolean; id: string }[] }) =>
    group.snapshots.filter(({ local }) => !local).map(({ name, id }) => [name, id]);
  t.same(names(pair.secondary.group), names(pair.primary.group));
  for (const { name, local } of pair.primary.group.snapshots) {
    if (local) continue;
    t.same(
      await pair.secondary.fills(pair.secondary.snapshot(name)),
      await pair.primary.fills(pair.primary.snapshot(name)),
      name,
    );
  }
}

t.test('K10: what the secondary holds is restored by reference: only the record has travelled', async (t) => {
  const pair = await ReplicaPair.synchronised({ regions: 16 });
  await pair.primary.write(0, 1, 16);
  await pair.primary.group.createSnapshot('a');
  await pair.primary.write(3, 2, 9);
  await pair.stream();
  // What users of the secondary write to their copy of it is theirs.
  await pair.secondary.write(4, 9, 1, pair.secondary.snapshot('a'));
  const { endLsn } = pair.state;
  const sent = pair.sent.length;
  await pair.primary.group.restore('a');
  await pair.stream();
  const { primary, secondary } = await pair.images();
  t.same(primary, [new Array(16).fill(1)]);
  t.same(secondary, primary);
  t.ok((pair.state.endLsn - endLsn) * 512 <= 1536, 'a record, and no data');
  t.equal(pair.sent.length, sent);
  t.match(pair.state, { resyncing: false, needs: 0, restoredByReferenceLsn: endLsn });
  await pair.secondary.crash();
  t.same((await pair.images()).secondary, primary);
  await pair.secondary.group.settled();
  t.same((await pair.images()).secondary, primary);
  t.same(pair.secondary.rawFills(), primary[0]);
  t.same(
    await pair.secondary.fills(pair.secondary.snapshot('undo')),
    await pair.primary.fills(pair.primary.snapshot('undo')),
  );
  t.equal((await pair.secondary.fills(pair.secondary.snapshot('a')))[4], 9);
});

t.test(
  'K10: pending on the secondary, what was written to its snapshot is not seen through the restore',
  async (t) => {
    const pair = await ReplicaPair.synchronised({
      regions: 8,
      secondary: { group: { copyBytesPerSecond: 1 } },
    });
    await pair.primary.write(0, 1, 8);
    await pair.primary.group.createSnapshot('a');
    await pair.primary.write(0, 2, 8);
    await pair.primary.group.restore('a');
    await pair.ship();
    await pair.secondary.pass(200);
    t.ok(pair.secondary.group.operations.some(({ kind }) => kind === 'restore'));
    t.same(await pair.secondary.fills(), new Array(8).fill(1));
    await pair.secondary.write(2, 7, 3, pair.secondary.snapshot('a'));
    t.same(await pair.secondary.fills(), new Array(8).fill(1));
    await pair.secondary.crash();
    t.same(await pair.secondary.fills(), new Array(8).fill(1));
  },
);

t.test(
  'K10, K9: what was written to the snapshot on the primary is asked for, and nothing else',
  async (t) => {
    const pair = await ReplicaPair.synchronised({ regions: 16 });
    await pair.primary.write(0, 1, 16);
    await pair.primary.group.createSnapshot('a');
    await pair.primary.write(5, 8, 2, pair.primary.snapshot('a'));
    await pair.primary.write(3, 2, 9);
    await pair.stream();
    await pair.primary.group.restore('a');
    const before = (await pair.images()).secondary;
    await pair.primary.write(0, 3);
    await pair.stream();
    t.match(pair.state, { resyncing: true, needs: 1 });
    t.same(pair.needs(), { v: [5, 6] });
    const part = (from: number, most: number) => pair.port.needs(pair.session, 'v', from, most);
    t.same(part(6, 9), [{ first: 6, end: 7 }], 'and of a part, what is in it');
    t.same(part(0, 0), []);
    t.same((await pair.images()).secondary, before, 'readers see it as it was before the restore');
    await t.rejects(pair.secondary.group.createSnapshot('x', { local: true }), /resynchronised/);
    await pair.secondary.crash();
    t.same((await pair.images()).secondary, before);
    t.match(pair.state, { resyncing: true, needs: 1 });
    await pair.begin();
    t.same(pair.needs(), { v: [5, 6] }, 'asked for at every hand-over');
    const round = await pair.round();
    await pair.send(round, { v: [5] });
    t.same(pair.needs(), { v: [6] });
    await pair.end(round);
    t.match(pair.state, { resyncing: true, needs: 1 }, 'complete is what has all that it needs');
    t.same((await pair.images()).secondary, before);
    await pair.resync({ v: [6] });
    t.match(pair.state, { resyncing: false, needs: 0 });
    await pair.stream();
    const { primary, secondary } = await pair.images();
    t.same(secondary, primary);
    t.same(secondary[0]?.slice(0, 8), [3, 1, 1, 1, 1, 8, 8, 1]);
    await pair.secondary.group.settled();
    t.same(pair.secondary.rawFills(), primary[0]);
    t.same(
      await pair.secondary.fills(pair.secondary.snapshot('undo')),
      [1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1],
    );
    t.equal(
      pair.secondary.durableRecord().nodes.filter(({ kind, name }) => kind === 'snapshot' && name === null)
        .length,
      0,
      'the guard is gone',
    );
  },
);

t.test('K10: where it has no such snapshot, the restoration map is asked for', async (t) => {
  const pair = await ReplicaPair.synchronised({ regions: 16, volumes: ['v', 'w'] });
  await pair.primary.write(0, 1, 16);
  await pair.primary.group.createSnapshot('a');
  await pair.stream();
  await pair.secondary.group.deleteSnapshot('a');
  await pair.primary.write(3, 2, 2);
  await pair.primary.write(9, 2, 1, pair.primary.volume('w'));
  await pair.stream();
  await pair.primary.group.restore('a');
  await pair.stream();
  t.same(pair.needs(), { v: [3, 4], w: [9] });
  t.match(pair.state, { restoredByReferenceLsn: null });
  await pair.resync(pair.needs());
  await pair.stream();
  const { primary, secondary } = await pair.images();
  t.same(secondary, primary);
  t.match(pair.state, { resyncing: false, needs: 0 });
});

t.test('another restore during a resync: what is held is taken by reference all the same', async (t) => {
  const pair = await ReplicaPair.synchronised({ regions: 8 });
  await pair.primary.write(0, 1, 8);
  await pair.primary.group.createSnapshot('a');
  await pair.primary.group.createSnapshot('b');
  await pair.primary.write(0, 5, 2, pair.primary.snapshot('b'));
  await pair.primary.write(0, 2, 8);
  await pair.primary.group.restore('b');
  await pair.primary.write(4, 3, 2);
  await pair.primary.group.createSnapshot('inside');
  await pair.primary.group.restore('a');
  await pair.stream();
  t.same(pair.needs(), { v: [0, 1] });
  t.ok(pair.secondary.told.includes('snapshot.absent'));
  t.equal(pair.secondary.group.snapshotVolume('inside', 'v'), undefined);
  await pair.resync(pair.needs());
  await pair.primary.group.restore('inside');
  await pair.stream();
  const lacking = pair.needs();
  t.ok((lacking['v']?.length ?? 0) > 0, 'a snapshot from inside the resync is not held');
  await pair.resync(lacking);
  await pair.stream();
  const { primary, secondary } = await pair.images();
  t.same(secondary, primary);
  t.same(await pair.secondary.fills(pair.secondary.snapshot('a')), new Array(8).fill(1));
});

t.test('snapshots of the primary are here too, by identity; local ones and rounds are not', async (t) => {
  const pair = await ReplicaPair.synchronised({ regions: 8 });
  await pair.primary.write(0, 1, 8);
  await pair.primary.group.createSnapshot('a');
  await pair.primary.group.createSnapshot('theirs', { local: true });
  await pair.primary.write(0, 2, 4);
  await pair.primary.group.createSnapshot('b');
  await pair.primary.group.renameSnapshot('b', 'c');
  await pair.primary.write(2, 3, 4);
  await pair.stream();
  await sameSnapshots(t, pair);
  t.equal(pair.secondary.group.snapshotVolume('theirs', 'v'), undefined);
  await pair.primary.group.refreshSnapshot('a');
  await pair.primary.group.detachSnapshot('c');
  await pair.primary.group.settled();
  await pair.stream();
  await sameSnapshots(t, pair);
  t.match(
    pair.secondary.group.snapshots.find(({ name }) => name === 'c'),
    { state: 'detached' },
  );
  await pair.primary.write(0, 4, 8);
  await pair.primary.group.refreshSnapshot('c');
  await pair.primary.group.settled();
  await pair.stream();
  await sameSnapshots(t, pair);
  await pair.primary.group.restore('c');
  await pair.stream();
  t.same((await pair.images()).secondary, (await pair.images()).primary);
  await pair.primary.group.deleteSnapshot('a');
  await pair.stream();
  await sameSnapshots(t, pair);
  await pair.secondary.crash();
  await sameSnapshots(t, pair);
});

t.test('S5: one that clashes with a local snapshot is absent, and what names it later is void', async (t) => {
  const pair = await ReplicaPair.synchronised({ regions: 4 });
  await pair.primary.write(0, 1, 4);
  await pair.stream();
  const { endLsn } = pair.state;
  await pair.secondary.group.createSnapshot('a', { local: true });
  t.equal(pair.state.endLsn, endLsn, 'S7: it is in no record');
  t.same(pair.state.snapshots, []);
  await pair.primary.write(0, 2, 4);
  await pair.primary.group.createSnapshot('a');
  await pair.primary.group.createSnapshot('b');
  await pair.primary.group.renameSnapshot('a', 'd');
  await pair.primary.group.refreshSnapshot('d');
  await pair.primary.group.deleteSnapshot('d');
  await pair.primary.write(0, 3, 2);
  await pair.stream();
  t.ok(pair.secondary.told.includes('snapshot.absent'));
  t.same(
    pair.secondary.group.snapshots.map(({ name }) => name),
    ['a', 'b'],
  );
  t.same(await pair.secondary.fills(pair.secondary.snapshot('a')), [1, 1, 1, 1]);
  t.same(await pair.secondary.fills(pair.secondary.snapshot('b')), [2, 2, 2, 2]);
  await pair.secondary.crash();
  t.same(await pair.secondary.fills(pair.secondary.snapshot('a')), [1, 1, 1, 1]);
  await pair.secondary.write(1, 7, 1, pair.secondary.snapshot('a'));
  t.same(await pair.secondary.fills(pair.secondary.snapshot('a')), [1, 7, 1, 1]);
  await pair.secondary.group.detachSnapshot('a');
  await pair.secondary.group.settled();
  t.match(pair.secondary.group.snapshots[0], { name: 'a', state: 'detached', local: true });
  await pair.secondary.group.deleteSnapshot('a');
  await pair.secondary.group.deleteSnapshot('b');
  t.same(pair.secondary.group.snapshots, []);
  const refused = { code: 'invalid', message: /on its primary/ };
  await t.rejects(pair.secondary.group.createSnapshot('x'), refused);
  await t.rejects(pair.secondary.group.restore('x'), { code: 'unsupported', message: /its link is down/ });
  await t.rejects(pair.secondary.group.renameSnapshot('x', 'y'), refused);
  await t.rejects(pair.secondary.group.refreshSnapshot('x'), refused);
});
