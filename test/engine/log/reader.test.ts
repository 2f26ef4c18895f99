/** What is read back from the ring, for those who were not there when it was appended. */
import t from 'tap';
import type { Log } from '../../../engine/log/log.ts';
import { LogReader } from '../../../engine/log/reader.ts';
import { KIB } from '../../../engine/units.ts';
import { append, LogBench } from '../../fixtures/logs.ts';
import { Random } from '../../fixtures/random.ts';

/** Batches of many lengths, and control records in one batch and in several; returns where each begins. */
async function filled(log: Log, random: Random, count: number): Promise<number[]> {
  const lsns: number[] = [];
  for (let index = 0; index < count; index++) {
    lsns.push(log.endLsn);
    if (random.chance(0.2)) log.appendControl(Buffer.alloc(random.between(1, 100 * KIB), index));
    else {
      append(log, random.between(1, 8000), index);
      log.writeOut();
    }
    await log.sync();
    if (log.usedBytes < 100 * KIB) continue;
    const keep = lsns.findIndex((lsn) => lsn > log.tailLsn + 20);
    await log.free(lsns[keep] ?? log.endLsn);
  }
  return lsns.filter((lsn) => lsn >= log.tailLsn);
}

t.test('it ships whole batches, as many as fit or one; and what it ships is decoded the same', async (t) => {
  for (let seed = 1; seed <= 30; seed++) {
    const random = new Random(seed);
    const bench = await LogBench.make({ random, ringBytes: 512 * KIB });
    const log = await bench.openForWriting();
    const lsns = await filled(log, random, 40);
    const reader = new LogReader(log);
    const ends = [...lsns.slice(1), log.writtenLsn];
    const all = await reader.ship(log.tailLsn, log.writtenLsn, 512 * KIB);
    t.equal(all.length, (log.writtenLsn - log.tailLsn) * 512);
    const decoded = await reader.batches(log.tailLsn, log.writtenLsn);
    t.same(
      decoded.map((batch) => [batch.lsn, batch.endLsn, batch.bytes]),
      lsns.map((lsn, index) => [lsn, ends[index], undefined]),
    );
    for (const from of lsns) {
      const maxBytes = random.between(1, 20 * KIB);
      const bytes = await reader.ship(from, log.writtenLsn, maxBytes);
      const fit = ends.filter((end) => end > from && (end - from) * 512 <= maxBytes).at(-1);
      const end = fit ?? ends[lsns.indexOf(from)] ?? 0;
      t.equal(bytes.length, (end - from) * 512, `seed ${seed}`);
      const place = (from - log.tailLsn) * 512;
      t.ok(bytes.equals(all.subarray(place, place + bytes.length)));
      const part = await reader.batches(from, log.writtenLsn, maxBytes);
      t.equal(part.at(-1)?.endLsn, end);
    }
    t.equal((await reader.ship(log.writtenLsn, log.writtenLsn, 1)).length, 0);
    t.same(await reader.batches(log.writtenLsn, log.writtenLsn), []);
  }
});

t.test('a batch that is longer than was asked for costs its own bytes, and no more', async (t) => {
  const bench = await LogBench.make({ ringBytes: 1024 * KIB });
  const log = await bench.openForWriting();
  for (let index = 0; index < 4; index++) {
    append(log, 60 * KIB, index);
    log.writeOut();
    await log.sync();
  }
  let readBytes = 0;
  const { ring } = log;
  const read = ring.read.bind(ring);
  ring.read = (...range) => {
    readBytes += range[4];
    return read(...range);
  };
  const reader = new LogReader(log);
  const bytes = await reader.ship(log.tailLsn, log.writtenLsn, 60 * KIB);
  t.ok(bytes.length > 60 * KIB && bytes.length < 62 * KIB, `${bytes.length} bytes`);
  t.equal(readBytes, bytes.length);
});

t.test('decoded batches have their records and control payloads', async (t) => {
  const bench = await LogBench.make();
  const log = await bench.openForWriting();
  append(log, 100, 5);
  const payload = Buffer.alloc(150 * KIB, 9);
  log.appendControl(payload);
  const [first, second] = await new LogReader(log).batches(0, log.writtenLsn);
  t.match(first?.records, [{ volumeIndex: 0, offsetBytes: 0, lengthBytes: 100, zeroes: false }]);
  t.ok(second?.control?.equals(payload));
  const read = Buffer.alloc(100);
  if (first !== undefined) await log.readPayload(first, first.records[0]?.dataStart ?? 0, read, 0, 100);
  t.ok(read.every((byte) => byte === 5));
});

t.test(
  'the chain is known at each place where a batch ends that is in the ring, and nowhere else',
  async (t) => {
    const random = new Random(5);
    const bench = await LogBench.make({ ringBytes: 512 * KIB });
    const log = await bench.openForWriting();
    const lsns = await filled(log, random, 60);
    const reader = new LogReader(log);
    t.equal(await reader.chainAt(log.writtenLsn), log.writtenCrc);
    t.equal(await reader.chainAt(log.tailLsn), log.tailCrc);
    t.ok(log.tailLsn > 0);
    t.equal(await reader.chainAt(log.tailLsn - 1), undefined);
    t.equal(await reader.chainAt(log.writtenLsn + 1), undefined);
    for (let lsn = log.tailLsn; lsn < log.writtenLsn; lsn++) {
      const chain = await reader.chainAt(lsn);
      if (lsns.includes(lsn)) t.ok(chain, `${lsn}`);
      else if (chain !== undefined) {
        const [batch] = await reader.batches(lsns.findLast((start) => start < lsn) ?? 0, log.writtenLsn, 1);
        t.ok(batch?.control, 'inside a control record only');
      }
    }
  },
);

t.test('what is not there any more is not shipped', async (t) => {
  const bench = await LogBench.make();
  const log = await bench.openForWriting();
  append(log, 1000);
  log.writeOut();
  bench.flip(bench.placeOf(1, 100));
  const reader = new LogReader(log);
  const gone = { code: 'corrupt', message: /no batch at LSN 0/ };
  await t.rejects(reader.ship(0, log.writtenLsn, 1), gone);
  await t.rejects(reader.batches(0, log.writtenLsn), gone);
  bench.flip(bench.placeOf(1, 100));
  bench.flip(bench.placeOf(0, 20));
  await t.rejects(reader.ship(0, log.writtenLsn, 1 << 20), gone);
});
