/** The rules L1 to L6 of the design, each by its name, on the engine as a whole. `test/engine/log/` has the log alone. */
import t from 'tap';
import { KIB } from '../../../engine/units.ts';
import { GroupBench, inOrder, REGION, times } from '../../fixtures/group-bench.ts';

t.test('L1: a record is applied only once it is durable', async (t) => {
  const bench = await GroupBench.logged();
  const trace = bench.watch();
  await bench.write(0, 1);
  await bench.pass(60);
  t.ok(inOrder(trace, ['write log.ring', 'sync log.ring', 'write v.img']), 'written, synced, applied');
  t.equal(trace.indexOf('write v.img') > trace.indexOf('sync log.ring'), true);
  // The next is durable, and the one after it never is: both are in the queue when the applier looks.
  await bench.write(1, 2);
  const flushed = bench.volume().flush();
  let syncs = 0;
  bench.watch((operation, name) =>
    operation === 'sync' && name === 'log.ring' && ++syncs > 1 ? 'EIO' : undefined,
  );
  await bench.turns(1);
  await bench.write(2, 3);
  await flushed;
  await bench.pass(100);
  t.match(bench.group.failure, /a sync failed/);
  t.same(bench.rawFills(), [1, 2, 0, 0, 0, 0, 0, 0]);
});

t.test('L1: a group has one appender: all volumes write into one order', async (t) => {
  const bench = await GroupBench.logged({ volumes: ['v', 'w'] });
  for (let round = 1; round <= 3; round++) {
    await Promise.all([bench.write(0, round), bench.write(0, round, 1, bench.volume('w'))]);
    await bench.group.createSnapshot(`s${round}`);
  }
  for (let round = 1; round <= 3; round++)
    for (const name of ['v', 'w'])
      t.equal((await bench.fills(bench.snapshot(`s${round}`, name)))[0], round, `${name} at ${round}`);
});

for (const memoryBytes of [undefined, 64 * KIB])
  t.test(`L2: every look-up has an LSN (memory: ${memoryBytes ?? 'plenty'})`, async (t) => {
    const bench = await GroupBench.make({
      regions: 4,
      group: memoryBytes === undefined ? {} : { memoryBytes },
    });
    const { group } = bench;
    await bench.write(0, 1, 4);
    await group.createSnapshot('a');
    await group.settled();
    const release = bench.folder.hold('write', 'v.img');
    await bench.write(0, 2);
    await group.createSnapshot('b');
    await bench.write(0, 3, 2);
    const look = async (stage: string) => {
      t.same(await bench.fills(bench.snapshot('a')), [1, 1, 1, 1], `${stage}: a sees nothing of it`);
      t.same(await bench.fills(bench.snapshot('b')), [2, 1, 1, 1], `${stage}: b sees what is below it`);
    };
    await look('written');
    t.same(await bench.fills(), [3, 3, 1, 1], 'the volume sees all that is pending');
    t.same(group.changedRuns('v', 'a', undefined, 0, 4), [{ first: 0, end: 2 }]);
    t.same(group.changedRuns('v', 'b', undefined, 0, 4), [{ first: 0, end: 2 }]);
    t.same(group.changedRuns('v', 'a', 'b', 0, 4), [{ first: 0, end: 1 }]);
    t.same(
      group.snapshots.map(({ volumes }) => volumes[0]?.preservedRegions),
      [2, 2],
      'pending counts as changed',
    );
    await group.restore('a');
    t.same(await bench.fills(), [1, 1, 1, 1], 'a restore hides what is below its record');
    await bench.write(2, 4);
    await bench.put(bench.volume(), Buffer.alloc(100, 5), 3 * REGION + 50);
    t.same(await bench.fills(), [1, 1, 4, -1], 'and shows what is above it');
    t.same(await bench.fills(bench.snapshot('undo')), [3, 3, 1, 1]);
    await look('restored');
    t.same(bench.rawFills(), [1, 1, 1, 1], 'nothing of all this was applied');
    release();
    await group.settled();
    t.same(await bench.fills(), [1, 1, 4, -1]);
    t.same(await bench.fills(bench.snapshot('undo')), [3, 3, 1, 1]);
    await look('applied');
    t.same(bench.rawFills(), [1, 1, 4, -1]);
  });

t.test(
  'L3: the copier writes once the checkpoint is beyond all that is older than its restore',
  async (t) => {
    const bench = await GroupBench.make();
    await bench.write(0, 1, 2);
    await bench.group.createSnapshot('a');
    await bench.write(0, 2, 2);
    const restored = await bench.group.restore('a');
    const checkpoints: number[] = [];
    bench.watch((operation, name) => {
      if (operation === 'write' && name.endsWith('v.img') && bench.rawFills()[0] === 2)
        checkpoints.push(bench.durableRecord().checkpointLsn);
      return undefined;
    });
    const cutAt = async (): Promise<void> => {
      while (bench.rawFills()[0] !== 1 || checkpoints.length === 0) await bench.turns(1);
    };
    await cutAt();
    t.ok(
      checkpoints.every((lsn) => lsn > restored.undo.lsn),
      'the record of the restore will not be replayed',
    );
    await bench.crash();
    await bench.group.settled();
    t.same(await bench.fills(), [1, 1, 0, 0, 0, 0, 0, 0], 'nothing older was put back');
  },
);

t.test('L3: a direct write comes only when nothing is left to replay', async (t) => {
  const bench = await GroupBench.logged();
  await bench.write(0, 1);
  bench.folder.faults.decide = (operation, name) =>
    operation === 'write' && name.endsWith('v.img') ? 'ENOSPC' : undefined;
  await bench.pass(100);
  t.match(bench.group.stall, /ENOSPC/);
  await bench.group.deleteSnapshot('s');
  await bench.pass(200);
  t.equal(bench.group.mode, 'logged', 'not while a record waits to be applied');
  bench.folder.faults.decide = undefined;
  await bench.pass(2000);
  await bench.group.settled();
  t.equal(bench.group.mode, 'direct');
  t.equal(bench.durableRecord().checkpointLsn, bench.group.log.endLsn);
  await bench.write(0, 2);
  await bench.volume().flush();
  await bench.crash();
  await bench.group.settled();
  t.equal((await bench.fills())[0], 2);
});

t.test('L4: a group without a snapshot does not log, and a flush syncs its files', async (t) => {
  const bench = await GroupBench.make();
  const trace = bench.watch();
  for (let region = 0; region < 8; region++) await bench.write(region, region + 1);
  t.equal(bench.group.mode, 'direct');
  await bench.volume().flush();
  await bench.volume().trim(0, REGION);
  t.same(
    trace.filter((entry) => /log|record/.test(entry)),
    [],
  );
  t.equal(trace.lastIndexOf('sync v.img') > trace.lastIndexOf('write v.img'), true);
});

t.test('L4: direct mode is left in this order: to the log, in flight, synced, applied', async (t) => {
  const bench = await GroupBench.make();
  const { group } = bench;
  await bench.write(7, 9);
  const trace = bench.watch();
  const release = bench.folder.hold('write', 'v.img', 1);
  const direct = bench.write(0, 1);
  const ended: string[] = [];
  const snapshot = group.createSnapshot('s').then(() => ended.push('snapshot'));
  await bench.turns();
  t.equal(group.mode, 'logged');
  await bench.write(1, 2);
  const flush = bench
    .volume()
    .flush()
    .then(() => ended.push('flush'));
  await bench.pass(100);
  t.same(ended, [], 'snapshot and flush wait for what was written directly');
  t.same(
    trace.filter((entry) => entry.endsWith('v.img')),
    [],
    'nothing is applied, nothing synced meanwhile',
  );
  release();
  await Promise.all([direct, snapshot, flush]);
  await group.settled();
  const own = trace.filter((entry) => entry.endsWith('v.img'));
  t.same(own.slice(0, 3), ['write v.img', 'sync v.img', 'write v.img']);
  t.same((await bench.fills(bench.snapshot('s'))).slice(0, 3), [1, 2, 0]);
});

t.test('L4: what was written directly is durable when the snapshot is', async (t) => {
  for (let seed = 1; seed <= 10; seed++) {
    const bench = await GroupBench.make({ seed });
    for (let region = 0; region < 8; region++) await bench.write(region, region + 1);
    await bench.group.createSnapshot('s');
    await bench.crash();
    await bench.group.settled();
    t.same(await bench.fills(bench.snapshot('s')), [1, 2, 3, 4, 5, 6, 7, 8], `seed ${seed}`);
  }
});

t.test('L4: the mode is entered with an empty log, and survives a restart', async (t) => {
  const bench = await GroupBench.logged();
  await bench.write(0, 1);
  await bench.group.deleteSnapshot('s');
  await bench.group.settled();
  t.equal(bench.group.mode, 'direct');
  t.equal(bench.durableRecord().checkpointLsn, bench.group.log.endLsn);
  await bench.crash();
  t.equal(bench.group.mode, 'direct');
  await bench.group.createSnapshot('t');
  t.equal(bench.group.mode, 'logged');
  await bench.reopen();
  t.equal(bench.group.mode, 'logged');
});

t.test('L5: what was torn is dropped, and what was flushed is there', async (t) => {
  let torn = 0;
  for (let seed = 1; seed <= 30; seed++) {
    const bench = await GroupBench.logged({ seed });
    const release = bench.folder.hold('write', 'v.img');
    await bench.write(0, 1);
    await bench.volume().flush();
    bench.folder.hold('sync', 'log.ring');
    for (let region = 1; region < 8; region++) await bench.write(region, 1);
    release();
    await bench.crash();
    const fills = await bench.fills();
    const end = fills.includes(0) ? fills.indexOf(0) : 8;
    t.ok(
      end >= 1 && fills.every((fill, region) => fill === (region < end ? 1 : 0)),
      `seed ${seed}: ${fills}`,
    );
    if (bench.group.warnings.some((warning) => /torn/.test(warning))) torn++;
    await bench.group.settled();
    t.same(await bench.fills(), fills);
  }
  t.ok(torn > 3, `${torn} were torn`);
});

t.test('L5: a gap below what is known durable is refused, and nothing is changed', async (t) => {
  const bench = await GroupBench.logged();
  bench.folder.hold('write', 'v.img');
  const { endLsn } = bench.group.log;
  for (const fill of [1, 2]) {
    await bench.write(0, fill);
    await bench.volume().flush();
  }
  bench.cut();
  const ring = bench.folder.media.get('log.ring');
  const sector = 16 + (endLsn % 512);
  const bytes = Buffer.from(ring?.now.get(sector) ?? Buffer.alloc(512));
  bytes[20] = (bytes[20] ?? 0) ^ 1;
  ring?.now.set(sector, bytes);
  const before = [...bench.folder.media].map(([name, { now }]) => [name, new Map(now)] as const);
  await t.rejects(bench.open(), { code: 'corrupt', message: /the log is damaged at LSN/ });
  for (const [name, now] of before) t.strictSame(bench.folder.media.get(name)?.now, now, name);
});

t.test(
  'L5: at start every file is synced, and the end of the log is durable before anything is applied',
  async (t) => {
    const bench = await GroupBench.logged();
    await bench.write(0, 1);
    await bench.group.settled();
    await bench.write(1, 2);
    await bench.volume().flush();
    bench.cut();
    const trace: string[] = [];
    bench.folder.faults.decide = (operation, name) => {
      trace.push(`${operation} ${name.replace(/[0-9a-f-]{36}/, 'ID')}`);
      return undefined;
    };
    await bench.open();
    await bench.group.settled();
    for (const name of ['group.record', 'log.ring', 'maps/v.map', 'snapshots/ID/v.preserved']) {
      const synced = trace.indexOf(`sync ${name}`);
      t.ok(synced >= 0 && synced < trace.indexOf('write volumes/v.img'), `${name} is synced first`);
      // The record is written again instead, before it counts.
      const read = trace.indexOf(`read ${name}`);
      t.ok(synced < read || (name === 'group.record' && trace.indexOf(`write ${name}`) < synced), name);
    }
    t.ok(inOrder(trace, ['read log.ring', 'write log.ring', 'sync log.ring', 'write volumes/v.img']));
  },
);

t.test('L6: after a failed sync of the log the group takes no writes, and says so', async (t) => {
  const bench = await GroupBench.logged();
  await bench.write(0, 1);
  await bench.volume().flush();
  await bench.write(1, 1);
  const trace = bench.watch((operation, name) =>
    operation === 'sync' && name === 'log.ring' ? 'EIO' : undefined,
  );
  await t.rejects(bench.volume().flush(), { code: /unavailable|disk/, errno: 'EIO' });
  await t.rejects(bench.volume().write(Buffer.alloc(8), 0, 8, 0), { code: 'unavailable', errno: 'EIO' });
  t.throws(() => bench.volume().tryWrite(Buffer.alloc(8), 0, 8, 0), { code: 'unavailable' });
  await t.rejects(bench.volume().flush(), { code: 'unavailable' });
  await t.rejects(bench.group.createSnapshot('x'), { code: /unavailable|disk/ });
  t.match(bench.group.failure, /takes no more writes/);
  t.equal(times(bench.told as string[], 'group.failed'), 1);
  t.equal(times(trace, 'sync log.ring!'), 1, 'it is not repeated');
  t.same((await bench.fills()).slice(0, 2), [1, 1], 'it is read on');
  await bench.group.close().catch(() => {});
  await bench.crash();
  t.equal((await bench.fills())[0], 1, 'what was flushed is there');
  await bench.write(0, 2);
});

t.test('L6: after a failed sync of a volume all since the checkpoint is written again', async (t) => {
  for (let seed = 1; seed <= 20; seed++) {
    const bench = await GroupBench.logged({ seed });
    bench.folder.faults.lostOnFailedSync = true;
    await bench.write(0, 1, 4);
    await bench.pass(60);
    t.same(bench.rawFills().slice(0, 5), [1, 1, 1, 1, 0], 'applied, no checkpoint yet');
    const { checkpointLsn } = bench.group.log;
    let failed = false;
    bench.watch((operation, name) => {
      if (failed || operation !== 'sync' || !name.endsWith('v.img')) return undefined;
      failed = true;
      return 'EIO';
    });
    await bench.pass(1100);
    t.equal(failed, true);
    t.same(await bench.fills(), [1, 1, 1, 1, 0, 0, 0, 0], 'readers miss nothing');
    if (bench.group.stall !== undefined)
      t.equal(bench.durableRecord().checkpointLsn, checkpointLsn, 'the checkpoint stays');
    await bench.write(4, 1, 4);
    await bench.pass(4000);
    await bench.group.settled();
    t.ok(bench.durableRecord().checkpointLsn > checkpointLsn);
    await bench.crash();
    await bench.group.settled();
    t.same(await bench.fills(), [1, 1, 1, 1, 1, 1, 1, 1], `seed ${seed}`);
    t.same(await bench.fills(bench.snapshot('s')), [0, 0, 0, 0, 0, 0, 0, 0]);
  }
});

t.test('L6: after a failed sync of a store or map what it was to keep is copied again', async (t) => {
  for (let seed = 1; seed <= 30; seed++) {
    const bench = await GroupBench.make({ seed });
    for (let region = 0; region < 8; region++) await bench.write(region, region + 1);
    await bench.group.createSnapshot('s');
    bench.folder.faults.lostOnFailedSync = true;
    let left = 1 + (seed % 4);
    bench.watch((operation, name) =>
      operation === 'sync' && name.endsWith('.preserved') && --left === 0 ? 'EIO' : undefined,
    );
    await bench.write(0, 9, 4);
    await bench.pass(100);
    await bench.write(4, 9, 4);
    await bench.pass(3000);
    await bench.group.settled();
    t.ok(left <= 0);
    await bench.crash();
    t.same(await bench.fills(bench.snapshot('s')), [1, 2, 3, 4, 5, 6, 7, 8], `seed ${seed}`);
    t.same(await bench.fills(), Array(8).fill(9));
  }
});
