import { crc32 } from 'node:zlib';
import t from 'tap';
import { seal } from '../../../engine/formats.ts';
import { Log } from '../../../engine/log/log.ts';
import { KIB } from '../../../engine/units.ts';
import { append, GROUP_ID, LogBench } from '../../fixtures/logs.ts';
import { Random } from '../../fixtures/random.ts';

// Rule L5, and L8 where control records span batches.

/** A log with three synced batches and one more that is only written. */
async function fourBatches(firstLsn = 0): Promise<{ bench: LogBench; lsns: number[]; endLsn: number }> {
  const bench = await LogBench.make({ firstLsn });
  const log = await bench.openForWriting(firstLsn);
  const lsns: number[] = [];
  for (let index = 0; index < 4; index++) {
    if (index === 3) await log.sync();
    lsns.push(append(log, 700 + 500 * index, index + 1).lsn);
    log.writeOut();
  }
  await bench.kill();
  return { bench, lsns, endLsn: log.endLsn };
}

t.test('a batch torn at any byte is cut off, durably, and the next opening finds it so', async (t) => {
  const { bench, lsns, endLsn } = await fourBatches();
  const last = lsns[3] ?? 0;
  const before = bench.snapshot();
  // Byte 60 to 63 and so on: of each sector its ends, and the whole header.
  for (let byte = 0; byte < (endLsn - last) * 512; byte++) {
    if (byte >= 72 && byte % 512 > 1 && byte % 512 < 510) continue;
    bench.restore(before);
    bench.flip(bench.placeOf(last, byte), byte % 8);
    const first = await bench.open();
    t.same(
      first.batches.map((batch) => batch.lsn),
      lsns.slice(0, 3),
      `byte ${byte}`,
    );
    t.equal(first.log.endLsn, last);
    t.equal(first.log.durableLsn, last);
    t.equal(
      bench.sector(last)?.every((value) => value === 0),
      true,
      'the header is spoiled',
    );
    await bench.kill();
    // The power goes at once: what was cut is cut.
    bench.folder.crash();
    const again = await bench.open();
    t.equal(again.log.endLsn, last);
    t.same(again.warnings, []);
    await bench.kill();
  }
});

t.test('any of its sectors missing cuts it off', async (t) => {
  const { bench, lsns, endLsn } = await fourBatches(2 ** 44 - 7);
  const last = lsns[3] ?? 0;
  const before = bench.snapshot();
  for (let lsn = last; lsn < endLsn; lsn++) {
    bench.restore(before);
    bench.setSector(lsn, undefined);
    const { log, batches } = await bench.open(2 ** 44 - 7);
    t.equal(batches.length, 3);
    t.equal(log.endLsn, last);
    await bench.kill();
  }
});

t.test('damage below what was durable is refused, and changes nothing', async (t) => {
  const { bench, lsns } = await fourBatches();
  const before = bench.snapshot();
  for (const [index, lsn] of lsns.slice(0, 3).entries()) {
    for (const byte of [0, 40, 63, 64, 500]) {
      bench.restore(before);
      bench.flip(bench.placeOf(lsn, byte));
      const spoiled = bench.snapshot();
      await t.rejects(
        bench.open(),
        { code: 'corrupt', message: /damaged at LSN/ },
        `batch ${index}, ${byte}`,
      );
      t.same(bench.snapshot(), spoiled);
    }
  }
});

t.test('that something was durable is known from the header of a batch whose body is torn', async (t) => {
  const { bench, lsns } = await fourBatches();
  bench.flip(bench.placeOf(lsns[1] ?? 0, 70));
  bench.flip(bench.placeOf(lsns[3] ?? 0, 70));
  await t.rejects(bench.open(), { code: 'corrupt' });
});

t.test('the superblock says what is durable where no later batch does', async (t) => {
  const bench = await LogBench.make();
  const log = await bench.openForWriting();
  const { lsn } = append(log, 5000);
  await log.close();
  bench.flip(bench.placeOf(lsn, 100));
  await t.rejects(bench.open(), { code: 'corrupt', message: /was durable up to/ });
});

t.test('the checkpoint says it too', async (t) => {
  const bench = await LogBench.make();
  const log = await bench.openForWriting();
  const { lsn, endLsn } = append(log, 5000);
  await log.sync();
  await bench.kill();
  await t.rejects(bench.open(endLsn + 1), { code: 'corrupt' });
  await t.rejects(bench.open(lsn + 1), { code: 'corrupt', message: /no batch of the log begins/ });
  bench.flip(bench.placeOf(lsn, 100));
  await t.rejects(bench.open(endLsn), { code: 'corrupt' });
});

t.test('a checkpoint below the tail is refused', async (t) => {
  const bench = await LogBench.make();
  const log = await bench.openForWriting();
  append(log, 5000);
  await log.sync();
  await log.free(log.endLsn);
  await log.close();
  await t.rejects(bench.open(0), { code: 'corrupt' });
  const { batches } = await bench.open(log.endLsn);
  t.same(batches, []);
});

t.test('damage far before the end is known: headers lead the look ahead on', async (t) => {
  const bench = await LogBench.make({ ringBytes: 1024 * KIB });
  const log = await bench.openForWriting();
  const first = append(log, 60 * KIB);
  log.writeOut();
  // Nothing is durable, and all say so, for longer than a scan looks ahead in one go.
  while (log.endLsn * 512 < 230 * KIB) {
    append(log, 9 * KIB);
    log.writeOut();
  }
  t.ok(log.appendControl(Buffer.alloc(500 * KIB)));
  await log.sync();
  t.ok(log.appendControl(Buffer.alloc(1000)));
  await bench.kill();
  bench.flip(bench.placeOf(first.lsn, 100));
  await t.rejects(bench.open(), { code: 'corrupt' });
});

t.test('what was cut off never comes back, though the same is written again', async (t) => {
  const bench = await LogBench.make();
  let log = await bench.openForWriting();
  append(log, 1000, 1);
  await log.sync();
  // The second and third are written and not durable; the second is lost. It ends on a page, so that no zeroes follow it.
  const secondBytes = 5 * 512 - 80;
  const second = append(log, secondBytes, 2);
  log.writeOut();
  t.equal(second.endLsn, 8);
  append(log, 1000, 3);
  log.writeOut();
  await bench.kill();
  bench.flip(bench.placeOf(second.lsn, 100));
  log = (await bench.open()).log;
  t.equal(log.endLsn, second.lsn);
  t.equal(append(log, secondBytes, 2).lsn, second.lsn);
  log.writeOut();
  await bench.kill();
  const { batches } = await bench.open();
  t.equal(batches.length, 2, 'the third would follow, were it not for the run in the header');
});

t.test('what an earlier round left does not follow, though its place is right', async (t) => {
  const bench = await LogBench.make();
  const log = await bench.openForWriting();
  for (let round = 0; round < 3; round++) {
    for (let count = 0; count < 64; count++) {
      append(log, 8 * 512 - 80, count);
      await log.sync();
      await log.free(log.endLsn);
    }
    append(log, 8 * 512 - 80, round);
    await log.sync();
    await log.free(log.endLsn);
  }
  const { tailLsn } = log;
  await bench.kill();
  const { log: again } = await bench.open(tailLsn);
  t.equal(again.endLsn, tailLsn);
});

t.test('a control record in several batches is there whole or not at all', async (t) => {
  const bench = await LogBench.make();
  const log = await bench.openForWriting();
  const before = append(log, 1000, 1);
  await log.sync();
  const payload = new Random(3).bytes(150 * KIB);
  const control = log.appendControl(payload);
  if (control === undefined) throw new Error('no room');
  await bench.kill();
  const written = bench.snapshot();
  const whole = await bench.open();
  t.equal(whole.batches[1]?.control?.equals(payload), true);
  t.equal(whole.batches[1]?.endLsn, control.endLsn);
  t.equal(whole.batches[1]?.endLsn, whole.log.endLsn);
  await bench.kill();
  for (let lsn = control.lsn; lsn < control.endLsn; lsn += 1) {
    bench.restore(written);
    bench.setSector(lsn, Buffer.alloc(512, 0xaa));
    const { log: cut, batches, warnings } = await bench.open();
    t.same(
      batches.map((batch) => batch.lsn),
      [before.lsn],
      `cut at sector ${lsn - control.lsn}`,
    );
    t.equal(cut.endLsn, control.lsn);
    t.equal(
      warnings.length,
      lsn === control.lsn ? 0 : 1,
      'a header that is gone is not told from an older round',
    );
    // It goes on where the control record would have begun.
    const next = append(cut, 100, 9);
    t.equal(next.lsn, control.lsn);
    await cut.sync();
    await bench.kill();
    const again = await bench.open();
    t.equal(again.batches.length, 2);
    t.equal(again.batches[1]?.control, undefined);
    await bench.kill();
  }
});

t.test('batches wrap at any place of the ring', async (t) => {
  for (let offset = 0; offset < 24; offset++) {
    const firstLsn = 2 ** 53 - 2 ** 20 + offset - 12;
    const bench = await LogBench.make({ firstLsn });
    let log = await bench.openForWriting(firstLsn);
    // Once round: 512 sectors, in batches of 11.
    for (let round = 0; round < 50; round++) {
      append(log, 11 * 512 - 80, round);
      await log.sync();
      const batch = append(log, 13 * 512 - 80, round + 100);
      await log.sync();
      if (round % 7 === 0) {
        await bench.kill();
        const opened = await bench.open(log.tailLsn);
        t.equal(opened.log.endLsn, batch.endLsn);
        const target = Buffer.alloc(13 * 512 - 80);
        const last = opened.batches.at(-1);
        if (last === undefined) throw new Error('no batch');
        await opened.log.readPayload(last, 80, target, 0, target.length);
        t.ok(target.every((byte) => byte === ((round + 100) & 255)));
        log = opened.log;
      }
      await log.free(log.endLsn);
    }
    await log.close();
  }
});

t.test('superblocks: the bytes are those of the table', async (t) => {
  const bench = await LogBench.make({ firstLsn: 2 ** 44 });
  const log = await bench.openForWriting(2 ** 44);
  const { endLsn } = append(log, 3000);
  await log.sync();
  await log.free(endLsn);
  append(log, 3000);
  await log.close();
  const disk = await bench.folder.open('log.ring');
  const bytes = Buffer.alloc(8192);
  await disk.read(bytes, 0, 8192, 0);
  t.ok(bytes.subarray(0, 4096).equals(bytes.subarray(4096)), 'both slots say the same');
  t.equal(bytes.readUInt32LE(0), crc32(bytes.subarray(4, 512)));
  t.equal(bytes.readUInt32LE(4), 1);
  t.equal(bytes.toString('latin1', 8, 16), 'TDMKLOG\0');
  t.equal(bytes.readBigUInt64LE(16), 4n, 'created, allocated, freed, closed');
  t.equal(bytes.toString('hex', 24, 40), GROUP_ID.replaceAll('-', ''));
  t.equal(bytes.readBigUInt64LE(40), 256n * 1024n);
  t.same([bytes.readUInt32LE(48), bytes.readUInt32LE(52)], [1, 1]);
  t.equal(bytes.readBigUInt64LE(56), BigInt(endLsn));
  t.equal(bytes.readBigUInt64LE(64), BigInt(log.endLsn));
  t.equal(bytes.readUInt32LE(72), bench.sector(2 ** 44)?.readUInt32LE(0), 'the checksum of the first batch');
  t.equal(bytes.readUInt32LE(76), 0);
});

t.test('superblocks: one damaged is told, and the other holds; both are refused', async (t) => {
  const bench = await LogBench.make();
  const log = await bench.openForWriting();
  append(log, 3000);
  await log.sync();
  await log.free(log.endLsn);
  append(log, 3000);
  await log.close();
  const good = bench.snapshot();
  for (const slot of [0, 1]) {
    bench.restore(good);
    bench.flip(slot * 4096 + 40);
    const opened = await bench.open(log.tailLsn);
    t.match(opened.warnings, [new RegExp(`superblock ${slot} is damaged`)]);
    t.equal(opened.batches.length, 1);
    await opened.log.close();
    const again = await bench.open(log.tailLsn);
    t.same(again.warnings, [], 'it was written anew');
    await again.log.close();
  }
  bench.restore(good);
  bench.flip(40);
  bench.flip(4096 + 300);
  await t.rejects(bench.open(log.tailLsn), { code: 'corrupt', message: /neither superblock/ });
});

t.test(
  'superblocks: of another group, of a later version, of a disk cut short, of something else',
  async (t) => {
    const bench = await LogBench.make();
    const log = await bench.openForWriting();
    await log.close();
    const disk = await bench.folder.open('log.ring');
    const other = { groupId: GROUP_ID.replace('00', 'ff') };
    await t.rejects(Log.open(disk, other, 0, bench.clock), { code: 'corrupt', message: /another group/ });
    const page = Buffer.alloc(512);
    await disk.read(page, 0, 512, 4096);
    const write = async (change: (bytes: Buffer) => void) => {
      const bytes = Buffer.from(page);
      change(bytes);
      seal(bytes);
      for (const slot of [0, 1]) await disk.write(bytes, 0, 512, slot * 4096);
    };
    const open = () => Log.open(disk, { groupId: GROUP_ID }, 0, bench.clock);
    await write((bytes) => bytes.writeUInt32LE(2, 4));
    await t.rejects(open(), { code: 'unsupported', message: /version 2/ });
    await write((bytes) => bytes.writeBigUInt64LE(512n * 1024n, 40));
    await t.rejects(open(), { code: 'corrupt', message: /cut short/ });
    for (const ringBytes of [0n, 4096n, 256n * 1024n - 512n, 2n ** 60n]) {
      await write((bytes) => bytes.writeBigUInt64LE(ringBytes, 40));
      await t.rejects(open(), { code: 'corrupt' }, `a ring of ${ringBytes}`);
    }
    await write((bytes) => bytes.writeUInt8(0, 8));
    await t.rejects(open(), { code: 'corrupt', message: /neither/ });
    await write(() => {});
    await t.resolves(open());
  },
);

t.test('a batch of a later version is refused, where it stands in the chain', async (t) => {
  const { bench, lsns } = await fourBatches();
  const sector = Buffer.from(bench.sector(lsns[2] ?? 0) ?? []);
  sector.writeUInt16LE(9, 12);
  sector.writeUInt32LE(crc32(sector.subarray(4, 64)), 0);
  bench.setSector(lsns[2] ?? 0, sector);
  await t.rejects(bench.open(), { code: 'unsupported', message: /version 9/ });
});

t.test('a new log has nothing, and a ring that was never allocated is not read', async (t) => {
  const bench = await LogBench.make({ firstLsn: 12345 });
  const { log, batches, warnings } = await bench.open(12345);
  t.same([batches, warnings], [[], []]);
  t.same([log.tailLsn, log.durableLsn, log.writtenLsn, log.endLsn], [12345, 12345, 12345, 12345]);
  t.equal(log.usedBytes, 0);
  t.equal(log.capacityBytes, 256 * KIB);
  await log.close();
  t.equal(bench.folder.usedSectors(), 16, 'only the superblocks take space');
});
