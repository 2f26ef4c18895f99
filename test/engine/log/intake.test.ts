/** Batches of another node's log, taken into a ring as they are. */
import { crc32 } from 'node:zlib';
import t from 'tap';
import { LogIntake } from '../../../engine/log/intake.ts';
import { Log } from '../../../engine/log/log.ts';
import { LogReader } from '../../../engine/log/reader.ts';
import { KIB } from '../../../engine/units.ts';
import { append, GROUP_ID, LogBench } from '../../fixtures/logs.ts';
import { Random } from '../../fixtures/random.ts';

interface Pair {
  readonly source: Log;
  readonly bench: LogBench;
  log: Log;
  intake: LogIntake;
}

/** A log with batches, and another that takes them. */
async function pair(options: { ringBytes?: number; firstLsn?: number; seed?: number } = {}): Promise<Pair> {
  const { ringBytes = 256 * KIB, firstLsn = 0, seed = 1 } = options;
  const from = await LogBench.make({ firstLsn, ringBytes: 1024 * KIB });
  const source = await from.openForWriting(firstLsn);
  const bench = await LogBench.make({ random: new Random(seed), firstLsn, ringBytes });
  const log = await bench.openForWriting(firstLsn);
  return { source, bench, log, intake: new LogIntake(log, () => {}) };
}

const rest = (source: Log, from: number, maxBytes = 1024 * KIB) =>
  new LogReader(source).ship(from, source.writtenLsn, maxBytes);

/** Opens what the medium has as a secondary does. */
async function reopen(pair: Pair, options: { checkpointLsn?: number; shippedBelow?: number } = {}) {
  const { checkpointLsn = 0, shippedBelow = checkpointLsn } = options;
  pair.bench.disk = await pair.bench.folder.open('log.ring');
  const found = await Log.open(
    pair.bench.disk,
    { groupId: GROUP_ID, shippedBelow },
    checkpointLsn,
    pair.bench.clock,
  );
  pair.log = found.log;
  pair.intake = new LogIntake(found.log, () => {});
  return found;
}

t.test('what was taken is byte for byte what was sent, and durable after a sync', async (t) => {
  for (const firstLsn of [0, 2 ** 44 - 3, 2 ** 53 - 5000]) {
    const both = await pair({ firstLsn });
    for (const bytes of [100, 5000, 1, 4096]) {
      append(both.source, bytes, bytes % 251);
      both.source.writeOut();
    }
    both.source.appendControl(Buffer.alloc(700, 7));
    const bytes = await rest(both.source, firstLsn);
    await both.intake.take(firstLsn, bytes);
    t.equal(both.log.endLsn, both.source.endLsn);
    t.equal(both.log.durableLsn, firstLsn);
    await both.log.sync();
    t.equal(both.log.durableLsn, both.source.endLsn);
    t.equal(both.log.writtenCrc, both.source.writtenCrc);
    both.bench.folder.crash();
    const { batches } = await reopen(both, { checkpointLsn: firstLsn });
    t.equal(batches.length, 5);
    t.ok((await rest(both.log, firstLsn)).equals(bytes));
    t.equal(both.log.durableLsn, both.source.endLsn);
  }
});

t.test('what does not belong there is refused, and nothing of it is taken', async (t) => {
  const both = await pair();
  append(both.source, 1000);
  both.source.writeOut();
  const second = both.source.endLsn;
  append(both.source, 1000, 2);
  both.source.writeOut();
  const bytes = await rest(both.source, 0);
  const one = second * 512;
  const refused = async (lsn: number, what: Buffer, why: RegExp) => {
    await t.rejects(both.intake.take(lsn, what), { code: 'invalid', message: why });
    t.equal(both.log.endLsn, 0);
  };
  await refused(second, bytes.subarray(one), /goes on at 0/);
  await refused(0, Buffer.alloc(0), /no whole batches/);
  await refused(0, bytes.subarray(0, 700), /no whole batches/);
  await refused(0, bytes.subarray(0, one + 512), /cut short/);
  await refused(0, bytes.subarray(one), /no batch of this group/);
  for (const at of [4, 70, 900, one + 20, one + 600]) {
    const flipped = Buffer.from(bytes);
    flipped[at] = (flipped[at] ?? 0) ^ 1;
    await refused(0, flipped, /no batch|damaged/);
  }
  // Of a kind that there is not, and sealed as if there were.
  const strange = Buffer.from(bytes.subarray(0, one));
  strange[64] = 3;
  strange.writeUInt32LE(crc32(strange.subarray(64)), 4);
  strange.writeUInt32LE(crc32(strange.subarray(4, 64)), 0);
  await refused(0, strange, /makes no sense/);
  const other = await pair();
  append(other.source, 999);
  other.source.writeOut();
  append(other.source, 1000, 2);
  other.source.writeOut();
  const others = await rest(other.source, 0);
  await refused(0, Buffer.concat([bytes.subarray(0, one), others.subarray(one)]), /does not follow/);
  const checked = new LogIntake(both.log, (batch) => {
    throw new Error(`not ${batch.lsn}`);
  });
  await t.rejects(checked.take(0, bytes), /not 0/);
  await both.intake.take(0, bytes);
  t.equal(both.log.endLsn, both.source.endLsn);
});

t.test('L8: a control record in several batches counts with its last one', async (t) => {
  for (const how of ['at once', 'in parts', 'cut by a crash', 'begun again'] as const) {
    const both = await pair();
    append(both.source, 100);
    // A quarter of the small ring a batch, so that the record of the source has several in neither.
    const small = await LogBench.make({ ringBytes: 256 * KIB });
    const source = await small.openForWriting();
    append(source, 100);
    source.appendControl(Buffer.alloc(150 * KIB, 3));
    const bytes = await rest(source, 0);
    const first = (await new LogReader(source).batches(0, source.writtenLsn))[0]?.endLsn ?? 0;
    const cuts = [0, first, first + 128, first + 256, bytes.length / 512];
    if (how === 'at once') await both.intake.take(0, bytes);
    else {
      for (let part = 0; part < 3; part++)
        await both.intake.take(
          cuts[part] ?? 0,
          bytes.subarray((cuts[part] ?? 0) * 512, (cuts[part + 1] ?? 0) * 512),
        );
      t.equal(both.log.endLsn, first);
      await both.log.sync();
      if (how === 'cut by a crash') {
        both.bench.folder.crash();
        await reopen(both);
        t.equal(both.log.endLsn, first, 'what had come of it does not count');
        await both.intake.take(first, bytes.subarray(first * 512));
      } else if (how === 'begun again') {
        both.intake.reset();
        await t.rejects(both.intake.take(cuts[3] ?? 0, bytes.subarray((cuts[3] ?? 0) * 512)), {
          code: 'invalid',
        });
        await both.intake.take(first, bytes.subarray(first * 512));
      } else {
        await t.rejects(both.intake.take(cuts[3] ?? 0, bytes.subarray(0, first * 512)), { code: 'invalid' });
        await both.intake.take(cuts[3] ?? 0, bytes.subarray((cuts[3] ?? 0) * 512));
      }
    }
    t.equal(both.log.endLsn, source.endLsn, how);
    await both.log.sync();
    both.bench.folder.crash();
    const { batches } = await reopen(both);
    t.equal(batches[1]?.control?.length, 150 * KIB);
  }
});

t.test('a full ring says so at once, and takes again when there is room', async (t) => {
  const both = await pair();
  for (let count = 0; count < 12; count++) {
    append(both.source, 50 * KIB, count + 1);
    await both.source.sync();
  }
  let lsn = 0;
  for (;;) {
    const bytes = await rest(both.source, lsn, 1);
    try {
      await both.intake.take(lsn, bytes);
    } catch (error) {
      t.match(error, { code: 'in-use', errno: 'ENOSPC' });
      break;
    }
    lsn = both.log.endLsn;
  }
  t.ok(lsn * 512 > 200 * KIB, `${lsn}`);
  await both.log.sync();
  await both.log.free(lsn);
  await both.intake.take(lsn, await rest(both.source, lsn, 1));
  t.ok(both.log.endLsn > lsn);
  await both.log.sync();
  await both.log.free(both.log.endLsn);
  const all = await rest(both.source, both.log.endLsn);
  await t.rejects(both.intake.take(both.log.endLsn, all), { code: 'invalid', message: /in all/ });
});

t.test('L5: what a header says of another node is nothing here', async (t) => {
  const both = await pair();
  const ends: number[] = [];
  for (let count = 0; count < 6; count++) {
    append(both.source, 300, count);
    await both.source.sync();
    ends.push(both.source.endLsn);
  }
  await both.intake.take(0, await rest(both.source, 0));
  // Nothing of it was synced here; the third batch never reached the disk.
  const [, second = 0] = ends;
  both.bench.setSector(second, undefined);
  await both.bench.kill();
  const found = await reopen(both);
  t.equal(found.log.endLsn, second);
  await both.bench.kill();
  both.bench.setSector(second - 1, Buffer.alloc(512));
  await t.rejects(reopen(both, { shippedBelow: second }), { code: 'corrupt', message: /damaged/ });
});

t.test(
  'L5: a cut, and a crash anywhere in it: the end is not below the new one, and there for good once it is told',
  async (t) => {
    for (let seed = 1; seed <= 60; seed++) {
      const both = await pair({ seed });
      for (let count = 0; count < 4; count++) {
        append(both.source, 700, count);
        both.source.writeOut();
      }
      const bytes = await rest(both.source, 0);
      await both.intake.take(0, bytes);
      await both.log.sync();
      await both.log.free(2);
      const reader = new LogReader(both.log);
      const at = 4;
      const crc = (await reader.chainAt(at)) ?? 0;
      let left = seed % 12;
      both.bench.folder.faults.decide = () => {
        if (left-- === 0) both.bench.folder.crash();
        return left < 0 ? 'EIO' : undefined;
      };
      const done = await both.log.cut(at, crc).then(
        () => true,
        () => false,
      );
      both.bench.folder.faults.decide = undefined;
      if (done) {
        t.equal(both.log.endLsn, at);
        t.equal(both.log.durableLsn, at);
      }
      both.bench.folder.crash();
      const { log } = await reopen(both, { checkpointLsn: 2 });
      if (done) t.equal(log.endLsn, at, 'what was cut is gone for good');
      else t.ok(log.endLsn >= at && log.endLsn <= both.source.endLsn, `seed ${seed}: ${log.endLsn}`);
      if (log.endLsn !== at) continue;
      await both.intake.take(at, bytes.subarray(at * 512));
      t.equal(log.writtenCrc, both.source.writtenCrc);
    }
  },
);

t.test('a log begins anew at another place, as another one', async (t) => {
  const both = await pair();
  append(both.source, 700);
  both.source.writeOut();
  await both.intake.take(0, await rest(both.source, 0));
  const other = '99887766-4455-6677-8899-aabbccddeeff';
  await both.log.restart({ groupId: other, generation: 4 }, 1003, 77);
  t.match(both.log, {
    endLsn: 1003,
    durableLsn: 1003,
    tailLsn: 1003,
    tailCrc: 77,
    writtenCrc: 77,
    identity: { groupId: other, generation: 4 },
  });
  await both.bench.kill();
  both.bench.disk = await both.bench.folder.open('log.ring');
  const { log, batches } = await Log.open(
    both.bench.disk,
    { groupId: other, shippedBelow: 1003 },
    1003,
    both.bench.clock,
  );
  t.same(batches, []);
  t.match(log, { endLsn: 1003, writtenCrc: 77 });
});
