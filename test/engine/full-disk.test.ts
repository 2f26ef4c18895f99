/** A disk that fills at a bad moment: what waits for space must not keep from ending what would make some, or what needs none. */
import t from 'tap';
import { Group } from '../../engine/group.ts';
import { KIB } from '../../engine/units.ts';
import { GroupBench } from '../fixtures/group-bench.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { MemoryFolder } from '../fixtures/memory-disk.ts';
import { Random } from '../fixtures/random.ts';

const isFull = (operation: string, name: string) =>
  operation === 'write' && name.endsWith('v.img') ? 'ENOSPC' : undefined;

t.test('S8: the only snapshot is given up, and the group goes on without its log', async (t) => {
  const bench = await GroupBench.make({ regions: 4, onFull: 'give-up' });
  await bench.write(0, 1, 4);
  await bench.group.createSnapshot('s');
  await bench.group.settled();
  bench.watch((operation, name) =>
    operation === 'write' && name.endsWith('.preserved') ? 'ENOSPC' : undefined,
  );
  await bench.write(0, 2, 3);
  await bench.pass(100);
  t.same(
    bench.events.filter(({ type }) => type === 'snapshot.given-up').map(({ data }) => data?.['snapshot']),
    ['s'],
  );
  t.equal(bench.group.log.appliedLsn, bench.group.log.endLsn, 'all is applied');
  t.same(bench.rawFills(), [2, 2, 2, 1]);
  t.same([bench.group.snapshots, bench.group.stall, bench.group.mode], [[], undefined, 'direct']);
});

t.test('a disk that fills while the group closes: those who wait are refused, and it closes', async (t) => {
  const bench = await GroupBench.logged({ regions: 64 });
  const release = bench.folder.hold('write', 'v.img');
  const model = Array<number>(64).fill(0);
  const outcomes: string[] = [];
  for (let region = 0; !bench.told.includes('log.full'); region++) {
    if (region > 60) throw new Error('the log is never full');
    void bench.write(region, 1 + region).then(
      () => {
        model[region] = 1 + region;
        outcomes.push('taken');
      },
      (error: { errno?: string }) => outcomes.push(error.errno ?? ''),
    );
    await bench.pass(2, 1);
  }
  const taken = outcomes.length;
  let isClosed = false;
  const closing = bench.group.close().finally(() => {
    isClosed = true;
  });
  await bench.turns();
  t.same([bench.group.stall, isClosed], [undefined, false], 'it waits for the applier');
  bench.watch(isFull);
  release();
  await bench.turns(1000);
  t.ok(isClosed);
  await closing;
  t.same([...new Set(outcomes.slice(taken))], ['ESHUTDOWN']);
  t.same(bench.folder.openNames, []);
  bench.folder.faults.decide = undefined;
  await bench.open();
  t.same(await bench.fills(), model, 'what was taken is there');
  await bench.group.settled();
  t.same(bench.rawFills(), model);
  await bench.group.close();
});

t.test('a disk that fills while the rest is applied for closing', async (t) => {
  const bench = await GroupBench.logged({ regions: 4 });
  await bench.write(0, 1, 4);
  const release = bench.folder.hold('write', 'v.img');
  let isClosed = false;
  const closing = bench.group.close().finally(() => {
    isClosed = true;
  });
  await bench.turns(1000);
  t.notOk(isClosed);
  bench.watch(isFull);
  release();
  await bench.turns(1000);
  t.ok(isClosed);
  await closing;
  t.same(bench.folder.openNames, []);
  bench.folder.faults.decide = undefined;
  await bench.open();
  t.same(await bench.fills(), [1, 1, 1, 1]);
  await bench.group.close();
});

t.test('L6: close tells of what could not be made durable while it closed, and closes all', async (t) => {
  const bench = await GroupBench.make({ regions: 4, volumes: ['v', 'w'] });
  await bench.write(0, 1, 4);
  const release = bench.folder.hold('sync', 'v.img', 1);
  const flushing = bench.volume().flush();
  const closing = bench.group.close();
  const closed = t.rejects(closing, { code: 'unavailable', errno: 'EIO', message: /volume v takes no more/ });
  bench.watch((operation, name) => (operation === 'sync' && name.endsWith('v.img') ? 'EIO' : undefined));
  release();
  await t.rejects(flushing, { code: 'unavailable', errno: 'EIO' });
  await closed;
  t.same(bench.folder.openNames, []);
});

t.test('L6: what was told before is not told again by close', async (t) => {
  const bench = await GroupBench.make({ regions: 4, volumes: ['v', 'w'] });
  await bench.write(0, 1, 4);
  bench.watch((operation, name) => (operation === 'sync' && name.endsWith('v.img') ? 'EIO' : undefined));
  await t.rejects(bench.volume().flush(), { code: 'unavailable', errno: 'EIO' });
  await bench.group.close();
  t.same(bench.folder.openNames, []);
});

t.test('a secondary for whose log there is no room is refused, and leaves nothing open', async (t) => {
  const folder = new MemoryFolder(new Random(1));
  const volumes = [{ name: 'v', sizeBytes: 16 * KIB }];
  const spec = { name: 'g', regionBytes: 4 * KIB, volumes, logBytes: 256 * KIB, replica: {} };
  const isRing = (operation: string, name: string) => operation === 'zero' && name === 'log.ring';
  const full = (operation: string, name: string) => (isRing(operation, name) ? 'ENOSPC' : undefined);
  folder.faults.decide = full;
  const noRoom = { code: 'disk', errno: 'ENOSPC' };
  await t.rejects(Group.create(folder, spec, new ManualClock()), noRoom);
  t.same([folder.openNames, [...folder.media.keys()]], [[], []], 'all or nothing');
  // The power goes when everything else of it is there.
  let isDead = false;
  folder.faults.decide = (operation, name) => {
    if (!isDead && isRing(operation, name)) {
      isDead = true;
      folder.crash();
    }
    return isDead ? 'EIO' : undefined;
  };
  await t.rejects(Group.create(folder, spec, new ManualClock()), { code: 'disk' });
  folder.faults.decide = full;
  await t.rejects(Group.open(folder, new ManualClock()), noRoom);
  t.same(folder.openNames, []);
  folder.faults.decide = undefined;
  const group = await Group.open(folder, new ManualClock());
  t.equal(group.role, 'secondary');
  await group.close();
  t.same(folder.openNames, []);
});
