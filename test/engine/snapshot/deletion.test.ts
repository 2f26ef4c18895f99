import t from 'tap';
import { GroupBench } from '../../fixtures/group-bench.ts';

t.test('S4: the log fails while a name is taken away: it goes, durably, and no record tells', async (t) => {
  const bench = await GroupBench.logged();
  await bench.group.createSnapshot('kept');
  await bench.group.settled();
  const release = bench.folder.hold('sync', 'group.record', 1);
  const deleting = bench.group.deleteSnapshot('s');
  await bench.turns();
  bench.watch((operation, name) => (operation === 'sync' && name === 'log.ring' ? 'EIO' : undefined));
  await bench.write(0, 1);
  await t.rejects(bench.volume().flush(), { code: 'unavailable' });
  const { endLsn } = bench.group.log;
  release();
  await deleting;
  t.equal(bench.told.at(-1), 'snapshot.deleted');
  t.equal(bench.group.log.endLsn, endLsn, 'no record');
  t.equal(bench.group.snapshotVolume('s', 'v'), undefined);
  const names = ['kept'];
  t.same(
    bench.group.snapshots.map(({ name }) => name),
    names,
  );
  t.notOk(bench.durableRecord().nodes.some(({ name }) => name === 's'));
  await bench.crash();
  t.same(
    bench.group.snapshots.map(({ name }) => name),
    names,
  );
});

t.test('S4: what has left the chain while the lane was waited for loses its name all the same', async (t) => {
  const bench = await GroupBench.logged({ regions: 4 });
  await bench.group.createSnapshot('kept');
  await bench.group.settled();
  await bench.write(0, 1);
  const { id } = bench.group.snapshots[0] ?? { id: '' };
  const release = bench.folder.hold('sync', `v.changed-${id}`, 1);
  await bench.group.detachSnapshot('s');
  await bench.pass(100);
  t.equal(bench.group.snapshots[0]?.state, 'detaching', 'it is about to stand for itself');
  const deleting = bench.group.deleteSnapshot('s');
  await bench.turns();
  release();
  await deleting;
  t.ok(bench.told.includes('snapshot.detached'), 'it was detached before it went');
  const { nodes, detached } = bench.durableRecord();
  t.notOk([...nodes, ...detached].some(({ name }) => name === 's'));
  await bench.crash();
  await bench.group.settled();
  t.same(
    bench.group.snapshots.map(({ name }) => name),
    ['kept'],
  );
});
