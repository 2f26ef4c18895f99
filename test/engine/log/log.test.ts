import t from 'tap';
import { MIN_LOG_BYTES } from '../../../engine/log/limits.ts';
import { Log } from '../../../engine/log/log.ts';
import { MAX_RECORD_BYTES } from '../../../engine/log/record.ts';
import { KIB, MIB } from '../../../engine/units.ts';
import { append, LogBench, settle } from '../../fixtures/logs.ts';
import { Random } from '../../fixtures/random.ts';

t.test('what is synced is there after a restart, in order', async (t) => {
  const firstLsn = 2 ** 44 - 5;
  const bench = await LogBench.make({ firstLsn });
  const log = await bench.openForWriting(firstLsn);
  const record = log.tryAppendWrite(3, 2 ** 50 + 1, Buffer.from('..hello'), 2, 5);
  t.match(record, { volumeIndex: 3, offsetBytes: 2 ** 50 + 1, lengthBytes: 5, zeroes: false });
  t.equal(record?.batch.bytes?.toString('latin1', record.dataStart, record.dataStart + 5), 'hello');
  const zeroes = log.tryAppendZeroes(0, 4096, 64 * MIB, true);
  t.equal(zeroes?.batch, record?.batch, 'it joins the open batch');
  t.same([log.writtenLsn, log.endLsn], [firstLsn, firstLsn + 1]);
  await log.sync();
  t.equal(log.durableLsn, firstLsn + 1);
  const control = log.appendControl(Buffer.alloc(1000, 7));
  t.same([control?.lsn, control?.endLsn, log.writtenLsn], [firstLsn + 1, firstLsn + 4, firstLsn + 4]);
  await log.close();
  const { log: again, batches, warnings } = await bench.open(firstLsn);
  t.same(warnings, []);
  t.equal(again.endLsn, firstLsn + 4);
  t.same(
    batches.map((batch) => [batch.lsn, batch.endLsn, batch.bytes, batch.control?.length]),
    [
      [firstLsn, firstLsn + 1, undefined, undefined],
      [firstLsn + 1, firstLsn + 4, undefined, 1000],
    ],
  );
  const [first] = batches;
  t.match(first?.records, [
    { volumeIndex: 3, offsetBytes: 2 ** 50 + 1, lengthBytes: 5, zeroes: false, mayPunch: false },
    { volumeIndex: 0, offsetBytes: 4096, lengthBytes: 64 * MIB, zeroes: true, mayPunch: true },
  ]);
  const target = Buffer.alloc(7, 0x2e);
  const start = first?.records[0]?.dataStart ?? 0;
  if (first !== undefined) await again.readPayload(first, start, target, 1, 5);
  t.equal(target.toString(), '.hello.');
  await again.close();
});

t.test('a killed process loses nothing that was written out, and all that was not', async (t) => {
  const bench = await LogBench.make();
  const log = await bench.openForWriting();
  append(log, 100);
  log.writeOut();
  append(log, 100);
  await bench.kill();
  const { batches } = await bench.open();
  t.equal(batches.length, 1);
});

t.test(
  'a log that has given its space keeps it; one that cannot get it says so, and takes nothing',
  async (t) => {
    const bench = await LogBench.make();
    const { log } = await bench.open();
    bench.folder.faults.spaceSectors = bench.folder.usedSectors() + 100;
    await t.rejects(log.allocate(), { code: 'disk', errno: 'ENOSPC' });
    t.equal(log.failure, undefined);
    t.equal(bench.folder.usedSectors(), 16, 'what it took is given back');
    t.throws(() => append(log, 10), /its space/);
    bench.folder.faults.spaceSectors = Number.POSITIVE_INFINITY;
    await Promise.all([log.allocate(), log.allocate()]);
    const used = bench.folder.usedSectors();
    t.equal(used, 16 + (256 * KIB) / 512);
    bench.folder.faults.spaceSectors = used;
    while (log.tryAppendWrite(0, 0, Buffer.alloc(5000), 0, 5000) !== undefined) await log.sync();
    await log.close();
    t.equal(bench.folder.usedSectors(), used);
    const again = await bench.open();
    await again.log.allocate();
    t.equal(again.batches.length, again.log.usedBytes / 5120 / 1, 'nothing was zeroed');
  },
);

t.test(
  'L12: a full ring refuses, and tells when there is room; the reserve is for control records',
  async (t) => {
    const bench = await LogBench.make();
    const log = await bench.openForWriting();
    let rooms = 0;
    log.onRoom = () => {
      rooms++;
    };
    const source = Buffer.alloc(4096);
    let appended = 0;
    let stuck = 0;
    while (stuck < 2) {
      if (log.tryAppendWrite(0, 0, source, 0, 4096) === undefined) stuck++;
      else {
        appended++;
        stuck = 0;
      }
      await log.sync();
    }
    // 9 sectors each; 64 KiB in reserve, and a page.
    t.equal(appended, Math.floor((512 - 128 - 8) / 9));
    t.equal(log.usedBytes, appended * 9 * 512);
    while (log.tryAppendZeroes(0, 0, 512, false) !== undefined) log.writeOut();
    t.equal(log.endLsn, 512 - 128 - 8, 'to the last sector');
    const before = log.endLsn;
    let controls = 0;
    while (log.appendControl(Buffer.alloc(440)) !== undefined) controls++;
    t.ok(controls > 100, `${controls} control records`);
    t.ok(log.endLsn <= 512 - 8, 'a page is left');
    t.equal(log.appendControl(Buffer.alloc(300 * KIB)), undefined);
    await log.sync();
    await settle();
    rooms = 0;
    t.equal(log.tryAppendZeroes(0, 0, 512, false), undefined);
    await log.free(before);
    t.ok(rooms > 0, 'it is told');
    t.ok(log.tryAppendZeroes(0, 0, 512, false));
    await log.close();
    const { batches } = await bench.open(before);
    t.equal(batches.length, controls + 1);
  },
);

t.test('L7: space is used again only after the superblock that frees it is durable', async (t) => {
  const bench = await LogBench.make();
  const log = await bench.openForWriting();
  const first = append(log, 50_000);
  await log.sync();
  const order: string[] = [];
  bench.folder.faults.decide = (operation) => {
    if (operation === 'write' || operation === 'sync') order.push(`${operation} ${log.tailLsn}`);
    return undefined;
  };
  await log.free(first.endLsn);
  t.same(order, ['write 0', 'sync 0', 'write 0'], 'slot, sync, copy: the tail stands until they are done');
  t.equal(log.tailLsn, first.endLsn);
  bench.folder.faults.decide = undefined;
  await t.rejects(log.free(log.durableLsn + 1), /durable/);
  await log.free(0);
  t.equal(log.tailLsn, first.endLsn);
  await log.close();
});

t.test('L7: a superblock that cannot be written frees nothing', async (t) => {
  const bench = await LogBench.make();
  const log = await bench.openForWriting();
  append(log, 5000);
  await log.sync();
  const endLsn = log.endLsn;
  append(log, 5000);
  log.writeOut();
  bench.folder.faults.decide = (operation) => (operation === 'read' ? 'EIO' : undefined);
  await t.rejects(log.free(endLsn), { code: 'disk', errno: 'EIO' });
  t.equal(log.failure, undefined, 'nothing is lost when a header could not be read');
  bench.folder.faults.decide = (operation) => (operation === 'write' ? 'EIO' : undefined);
  await t.rejects(log.free(endLsn), { code: 'disk', errno: 'EIO' });
  t.equal(log.tailLsn, 0);
  t.ok(log.failure);
  await log.close();
});

t.test('L6: after a failed sync nothing is appended, no sync is tried, and it is told once', async (t) => {
  const bench = await LogBench.make();
  const log = await bench.openForWriting();
  const first = append(log, 100);
  await log.sync();
  const told: unknown[] = [];
  log.onFailure = (error) => told.push(error);
  let syncs = 0;
  bench.folder.faults.decide = (operation) => {
    if (operation !== 'sync') return undefined;
    syncs++;
    return 'EIO';
  };
  append(log, 100);
  const all = [log.sync(), log.sync(), log.sync()];
  for (const sync of all)
    await t.rejects(sync, { code: 'disk', errno: 'EIO', message: /the log: a sync failed/ });
  bench.folder.faults.decide = undefined;
  await t.rejects(log.sync(), { code: 'disk' });
  t.equal(syncs, 1);
  t.same(told, [log.failure]);
  t.throws(() => append(log, 100), { code: 'disk' });
  t.throws(() => log.tryAppendZeroes(0, 0, 512, false), { code: 'disk' });
  t.throws(() => log.appendControl(Buffer.alloc(1)), { code: 'disk' });
  t.throws(() => log.writeOut(), { code: 'disk' });
  await t.rejects(log.free(first.endLsn), { code: 'disk' });
  t.equal(log.durableLsn, first.endLsn);
  await log.close();
  t.equal((await bench.open()).batches[0]?.lsn, first.lsn);
});

t.test('L6: a failed write is the end too; what is there can still be read', async (t) => {
  const bench = await LogBench.make();
  const log = await bench.openForWriting();
  const batch = append(log, 100, 5);
  await log.sync();
  append(log, 100, 6);
  bench.folder.faults.decide = (operation) => (operation === 'write' ? 'EIO' : undefined);
  t.throws(() => log.writeOut(), { code: 'disk', errno: 'EIO' });
  bench.folder.faults.decide = undefined;
  t.equal(log.writtenLsn, batch.endLsn);
  await t.rejects(log.sync(), { code: 'disk' });
  const target = Buffer.alloc(100);
  await log.readPayload(batch, 80, target, 0, 100);
  t.ok(target.every((byte) => byte === 5));
  await log.close();
});

t.test(
  'L6: what a failed sync left with the kernel, and not on the disk, is not taken for durable',
  async (t) => {
    for (let seed = 1; seed <= 20; seed++) {
      const bench = await LogBench.make({ random: new Random(seed) });
      bench.folder.faults.lostOnFailedSync = true;
      const log = await bench.openForWriting();
      append(log, 5000);
      await log.sync();
      bench.folder.faults.decide = (operation) => (operation === 'sync' ? 'EIO' : undefined);
      for (let count = 0; count < 5; count++) {
        append(log, 50, count);
        log.writeOut();
      }
      await t.rejects(log.sync(), { code: 'disk' });
      bench.folder.faults.decide = undefined;
      await bench.kill();
      // Another process reads what the kernel has, and says that it is durable.
      const { log: second } = await bench.open();
      const { durableLsn } = second;
      bench.folder.crash();
      const { log: third } = await bench.open();
      t.equal(third.durableLsn, durableLsn, `seed ${seed}`);
      await third.close();
    }
  },
);

t.test('L6: a sync that was under way when a write failed says nothing', async (t) => {
  const bench = await LogBench.make();
  const log = await bench.openForWriting();
  append(log, 100);
  const sync = log.sync();
  append(log, 100);
  bench.folder.faults.decide = (operation) => (operation === 'write' ? 'EIO' : undefined);
  t.throws(() => log.writeOut(), { code: 'disk' });
  await t.rejects(sync, { code: 'disk' });
  t.equal(log.durableLsn, 0);
  await log.close();
});

t.test('close tells of a failure that it meets, and closes all the same', async (t) => {
  const bench = await LogBench.make();
  const log = await bench.openForWriting();
  append(log, 100);
  bench.folder.faults.decide = (operation) => (operation === 'sync' ? 'EIO' : undefined);
  const closing = log.close();
  t.equal(log.close(), closing);
  await t.rejects(closing, { code: 'disk' });
  bench.folder.faults.decide = undefined;
  await bench.folder.open('log.ring').then((disk) => disk.close());
});

t.test('L9: a sync comes by itself after a few milliseconds', async (t) => {
  const bench = await LogBench.make();
  const log = await bench.openForWriting();
  await settle();
  let told = 0;
  log.onDurable = () => {
    told++;
  };
  const batch = append(log, 100);
  bench.clock.advance(4);
  await settle();
  t.equal(log.durableLsn, batch.lsn);
  bench.clock.advance(1);
  await settle();
  t.equal(log.durableLsn, batch.endLsn, 'also of what nobody wrote out');
  t.equal(told, 1);
  t.equal(bench.clock.timerCount, 0, 'an idle log has no timer');
  await log.close();
  t.equal(bench.clock.timerCount, 0);
});

t.test('L9: what was written during a sync is not forgotten', async (t) => {
  const bench = await LogBench.make();
  const log = await bench.openForWriting();
  append(log, 100);
  const sync = log.sync();
  append(log, 100);
  // The timer of the first finds the sync under way.
  bench.clock.advance(5);
  await sync;
  await settle();
  t.ok(log.durableLsn < log.endLsn);
  bench.clock.advance(5);
  await settle();
  t.equal(log.durableLsn, log.endLsn);
  await log.close();
});

t.test('after what is written there are zeroes up to the page', async (t) => {
  const bench = await LogBench.make();
  const log = await bench.openForWriting();
  const first = append(log, 8000, 9);
  log.writeOut();
  log.forget(first);
  // The same memory, and a place of the ring that had something else in it.
  for (let lsn = first.endLsn; lsn < first.endLsn + 16; lsn++) bench.setSector(lsn, Buffer.alloc(512, 7));
  const second = append(log, 100, 9);
  log.writeOut();
  t.equal(second.endLsn, 17);
  for (let lsn = 17; lsn < 24; lsn++)
    t.equal(
      bench.sector(lsn)?.every((byte) => byte === 0),
      true,
      `sector ${lsn}`,
    );
  t.equal(bench.sector(24)?.[0], 7, 'and no further');
  await log.close();
});

t.test(
  'L9: a sync comes by itself after a megabyte, and one after the other while writing goes on',
  async (t) => {
    const bench = await LogBench.make({ ringBytes: 32 * MIB });
    const log = await bench.openForWriting();
    for (let count = 0; count < 10; count++) {
      append(log, 100 * KIB);
      log.writeOut();
    }
    await settle();
    t.equal(log.durableLsn, 0);
    append(log, 100 * KIB);
    log.writeOut();
    append(log, 1200 * KIB);
    log.writeOut();
    await settle();
    t.equal(log.durableLsn, log.endLsn);
    await log.close();
  },
);

t.test('so much may be written and not durable; then a sync makes room by itself', async (t) => {
  const bench = await LogBench.make({ ringBytes: 1 * MIB });
  const log = await bench.openForWriting();
  let rooms = 0;
  log.onRoom = () => {
    rooms++;
  };
  const source = Buffer.alloc(30_000);
  let count = 0;
  while (log.tryAppendWrite(0, 0, source, 0, source.length) !== undefined) count++;
  t.ok(log.usedBytes <= 256 * KIB);
  t.equal(count, 8);
  t.equal(rooms, 0);
  await settle();
  t.equal(rooms, 1);
  t.equal(log.durableLsn, log.endLsn);
  t.ok(log.tryAppendWrite(0, 0, source, 0, source.length));
  await log.close();
});

t.test('while the kernel holds up writers appends wait, and go on when it does not', async (t) => {
  const bench = await LogBench.make();
  const log = await bench.openForWriting();
  let rooms = 0;
  log.onRoom = () => {
    rooms++;
  };
  bench.folder.faults.writersHeld = true;
  t.equal(log.tryAppendZeroes(0, 0, 512, false), undefined);
  t.equal(log.tryAppendZeroes(0, 0, 512, false), undefined);
  t.ok(log.appendControl(Buffer.alloc(10)), 'control records do not');
  for (let round = 0; round < 3; round++) {
    await settle();
    bench.clock.advance(5);
  }
  t.equal(log.tryAppendZeroes(0, 0, 512, false), undefined);
  rooms = 0;
  bench.folder.faults.writersHeld = false;
  await settle();
  bench.clock.advance(5);
  await settle();
  t.equal(rooms, 1);
  t.ok(log.tryAppendZeroes(0, 0, 512, false));
  bench.folder.faults.writersHeld = true;
  t.equal(log.tryAppendZeroes(0, 0, 512, false), undefined);
  await log.close();
  bench.clock.advance(100);
  await settle();
});

t.test('records of any size up to the largest; a small ring takes smaller ones', async (t) => {
  for (const ringBytes of [MIN_LOG_BYTES, MIN_LOG_BYTES + 4096, 1 * MIB, 16 * MIB + 4096, 64 * MIB]) {
    const bench = await LogBench.make({ ringBytes });
    const log = await bench.openForWriting();
    t.ok(log.maxRecordBytes % 4096 === 0 && log.maxRecordBytes >= ringBytes / 4 - 8192 - 1024 * 1024 * 12);
    t.ok(log.maxRecordBytes <= MAX_RECORD_BYTES);
    const source = new Random(2).bytes(1000);
    for (const lengthBytes of [log.maxRecordBytes, 1, log.maxRecordBytes - 1, 513]) {
      const payload = Buffer.alloc(lengthBytes, source);
      const record = log.tryAppendWrite(0, 0, payload, 0, lengthBytes);
      if (record === undefined) throw new Error('no room');
      await log.sync();
      const target = Buffer.alloc(lengthBytes);
      await log.readPayload(record.batch, record.dataStart, target, 0, lengthBytes);
      t.ok(target.equals(payload));
      log.forget(record.batch);
    }
    t.throws(() => append(log, log.maxRecordBytes + 1), /fits a batch/);
    t.throws(() => append(log, 0), /fits a batch/);
    t.equal(log.keptBytes, 0);
    await log.close();
  }
});

t.test('memory is held by batches that are not forgotten, and used again', async (t) => {
  const bench = await LogBench.make({ ringBytes: 1 * MIB });
  const log = await bench.openForWriting();
  t.equal(log.keptBytes, 0);
  const batches = [];
  for (let count = 0; count < 12; count++) {
    batches.push(append(log, 50 * KIB, count));
    await log.sync();
  }
  const most = log.keptBytes;
  t.ok(most >= 600 * KIB && most < 1.3 * MIB, `${most} bytes for 600 KiB`);
  for (const [index, batch] of batches.entries()) {
    t.ok(batch.bytes?.subarray(80, 80 + 50 * KIB).every((byte) => byte === index));
    t.equal(batch.bytes?.length, (batch.endLsn - batch.lsn) * 512);
    log.forget(batch);
    log.forget(batch);
    t.equal(batch.bytes, undefined);
    const target = Buffer.alloc(50 * KIB);
    await log.readPayload(batch, 80, target, 0, target.length);
    t.ok(target.every((byte) => byte === index));
  }
  t.equal(log.keptBytes, 0);
  const open = append(log, 10);
  t.ok(log.keptBytes > 0);
  t.throws(() => log.forget(open), /sealed/);
  await log.close();
});

t.test('the last LSNs: a log that would leave the safe integers is a bug', async (t) => {
  const firstLsn = 2 ** 53 - 40;
  const bench = await LogBench.make({ firstLsn });
  const log = await bench.openForWriting(firstLsn);
  append(log, 4096);
  await log.sync();
  t.throws(() => append(log, 16 * KIB), /safe integers/);
  await log.close();
  const { log: again, batches } = await bench.open(firstLsn);
  t.equal(batches.length, 1);
  t.equal(again.endLsn, firstLsn + 9);
});

t.test('create checks its caller', async (t) => {
  const bench = await LogBench.make();
  const small = await bench.folder.create('small', Log.bytesNeeded(128 * KIB));
  const options = { groupId: '00112233-4455-6677-8899-aabbccddeeff', generation: 1, firstLsn: 0 };
  await t.rejects(Log.create(small, options), /large enough/);
  await t.rejects(Log.create(small, { ...options, groupId: 'g' }), /UUID|large/);
  const large = await bench.folder.create('large', Log.bytesNeeded(1 * MIB) + 5000);
  await t.rejects(Log.create(large, { ...options, ringBytes: 2 * MIB }), /fits the disk/);
  await t.rejects(Log.create(large, { ...options, groupId: 'g' }), /UUID/);
  await Log.create(large, { ...options, ringBytes: 512 * KIB });
  const { log } = await Log.open(large, { groupId: options.groupId }, 0, bench.clock);
  t.equal(log.capacityBytes, 512 * KIB, 'a ring may be smaller than its disk');
  await log.close();
});
