import t from 'tap';
import type { Log } from '../../../engine/log/log.ts';
import type { LogBatch } from '../../../engine/log/record.ts';
import { KIB } from '../../../engine/units.ts';
import { LogBench, settle } from '../../fixtures/logs.ts';
import { Random } from '../../fixtures/random.ts';

/**
 * Random appends, syncs, frees, kills, power cuts and failing disks against a list of what was appended. After each opening: what was durable
 * is there; what is there is a prefix of what was appended; and its contents are what they were.
 */

interface Written {
  readonly volumeIndex: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** Undefined: zeroes. */
  readonly payload: Buffer | undefined;
  readonly mayPunch: boolean;
}
interface Appended {
  readonly batch: LogBatch;
  readonly records: Written[];
  readonly control: Buffer | undefined;
}

class Run {
  readonly random: Random;
  readonly bench: LogBench;
  readonly firstLsn: number;
  log: Log | undefined;
  /** From the checkpoint on, in order. */
  appended: Appended[] = [];
  checkpointLsn: number;
  /** The highest LSN that was ever said to be durable. */
  durableLsn: number;
  restarts = 0;
  cuts = 0;

  private constructor(random: Random, bench: LogBench, firstLsn: number) {
    this.random = random;
    this.bench = bench;
    this.firstLsn = firstLsn;
    this.checkpointLsn = firstLsn;
    this.durableLsn = firstLsn;
  }

  static async make(seed: number): Promise<Run> {
    const random = new Random(seed);
    const firstLsn = random.pick([0, 2 ** 44 - 300, 2 ** 53 - 2 ** 20, random.below(2 ** 40)]);
    const ringBytes = random.pick([256 * KIB, 256 * KIB + 4096, 512 * KIB]);
    const bench = await LogBench.make({ random, ringBytes, firstLsn });
    bench.folder.faults.tryRefusal = 0.2;
    bench.folder.faults.lostOnFailedSync = random.chance(0.5);
    return new Run(random, bench, firstLsn);
  }

  async open(): Promise<Log> {
    const { log, batches } = await this.bench.open(this.checkpointLsn);
    const { appended } = this;
    if (batches.length > appended.length) throw new Error('there is more than was appended');
    for (const [index, batch] of batches.entries()) await this.#compare(log, batch, appended[index]);
    if (log.endLsn < this.durableLsn) throw new Error(`${log.endLsn} is below ${this.durableLsn}, durable`);
    if (log.endLsn !== (batches.at(-1)?.endLsn ?? this.checkpointLsn))
      throw new Error('the end is elsewhere');
    if (log.durableLsn !== log.endLsn) throw new Error('what was found is durable');
    if (batches.length < appended.length) this.cuts++;
    this.appended = appended
      .slice(0, batches.length)
      .map((old, index) => ({ ...old, batch: batches[index] ?? old.batch }));
    this.durableLsn = log.endLsn;
    await log.allocate();
    this.log = log;
    this.restarts++;
    return log;
  }

  async #compare(log: Log, batch: LogBatch, expected: Appended | undefined): Promise<void> {
    if (expected === undefined || batch.lsn !== expected.batch.lsn || batch.endLsn !== expected.batch.endLsn)
      throw new Error(`the batch at ${batch.lsn} is another one`);
    if (expected.control !== undefined && batch.control?.equals(expected.control) !== true)
      throw new Error(`the control record at ${batch.lsn} is another one`);
    if (batch.records.length !== expected.records.length) throw new Error(`records of ${batch.lsn}`);
    for (const [index, record] of batch.records.entries()) {
      const { payload, ...fields } = expected.records[index] ?? fail();
      const same =
        record.volumeIndex === fields.volumeIndex &&
        record.offsetBytes === fields.offsetBytes &&
        record.lengthBytes === fields.lengthBytes &&
        record.mayPunch === fields.mayPunch &&
        record.zeroes === (payload === undefined);
      if (!same) throw new Error(`a record of ${batch.lsn} is another one`);
      if (payload === undefined) continue;
      const target = Buffer.alloc(payload.length);
      await log.readPayload(batch, record.dataStart, target, 0, target.length);
      if (!target.equals(payload)) throw new Error(`a payload of ${batch.lsn} is another one`);
    }
  }

  appendWrite(log: Log): void {
    const { random } = this;
    const zeroes = random.chance(0.2);
    const most = random.pick([600, 600, 5000, log.maxRecordBytes]);
    const lengthBytes = random.between(1, Math.min(most, log.maxRecordBytes));
    const payload = zeroes ? undefined : Buffer.alloc(lengthBytes, random.bytes(7));
    const written = {
      volumeIndex: random.below(64),
      offsetBytes: random.below(2 ** 50),
      lengthBytes,
      payload,
      mayPunch: zeroes && random.chance(0.5),
    };
    const { volumeIndex, offsetBytes, mayPunch } = written;
    const record =
      payload === undefined
        ? log.tryAppendZeroes(volumeIndex, offsetBytes, lengthBytes, mayPunch)
        : log.tryAppendWrite(volumeIndex, offsetBytes, payload, 0, lengthBytes);
    if (record === undefined) return;
    const last = this.appended.at(-1);
    if (last?.batch === record.batch) last.records.push(written);
    else this.appended.push({ batch: record.batch, records: [written], control: undefined });
  }

  appendControl(log: Log): void {
    const { random } = this;
    const control = Buffer.alloc(random.between(1, random.pick([300, 5000, 150 * KIB])), random.bytes(5));
    const batch = log.appendControl(control);
    if (batch !== undefined) this.appended.push({ batch, records: [], control });
  }

  free(log: Log): Promise<void> {
    const free = this.appended.filter((one) => one.batch.endLsn <= log.durableLsn);
    if (free.length === 0) return Promise.resolve();
    const { batch } = this.random.pick(free);
    this.checkpointLsn = batch.endLsn;
    this.appended = this.appended.filter((one) => one.batch.lsn >= this.checkpointLsn);
    return log.free(this.checkpointLsn);
  }

  forget(log: Log): void {
    const { batch } = this.appended.length > 0 ? this.random.pick(this.appended) : { batch: undefined };
    if (batch !== undefined && batch.endLsn <= log.writtenLsn) log.forget(batch);
  }

  /** What is kept in memory is what was appended. */
  check(log: Log): void {
    const order = [log.tailLsn, log.durableLsn, log.writtenLsn, log.endLsn];
    for (let at = 1; at < order.length; at++)
      if ((order[at] ?? 0) < (order[at - 1] ?? 0)) throw new Error(`out of order: ${order.join(', ')}`);
    if (log.usedBytes > log.capacityBytes - 4096) throw new Error('the ring is too full');
    for (const { batch, records } of this.appended) {
      for (const [index, record] of batch.records.entries()) {
        const { payload } = records[index] ?? fail();
        const from = record.dataStart;
        if (
          payload !== undefined &&
          batch.bytes?.subarray(from, from + payload.length).equals(payload) === false
        )
          throw new Error(`the payload of ${batch.lsn} in memory is another one`);
      }
    }
  }

  async step(log: Log): Promise<void> {
    const { random } = this;
    const drawn = random.below(100);
    if (drawn < 55) this.appendWrite(log);
    else if (drawn < 60) this.appendControl(log);
    else if (drawn < 70) log.writeOut();
    else if (drawn < 76) await log.sync();
    else if (drawn < 80) void log.sync().catch(() => {});
    else if (drawn < 84) await this.free(log);
    else if (drawn < 87) void this.free(log).catch(() => {});
    else if (drawn < 92) this.forget(log);
    else if (drawn < 97) await settle(random.below(8));
    else this.bench.clock.advance(random.below(8));
    this.durableLsn = Math.max(this.durableLsn, log.durableLsn);
  }

  async end(log: Log): Promise<void> {
    const { faults } = this.bench.folder;
    this.durableLsn = Math.max(this.durableLsn, log.durableLsn);
    if (this.random.chance(0.2)) {
      await log.close().catch(() => {});
      if (log.failure === undefined) this.durableLsn = log.endLsn;
    } else if (this.random.chance(0.4)) await this.bench.kill();
    else this.bench.folder.crash();
    faults.decide = undefined;
    await settle(20);
  }
}

function fail(): never {
  throw new Error('there is nothing');
}

async function run(seed: number): Promise<Run> {
  const run = await Run.make(seed);
  const { random, bench } = run;
  for (let opening = 0; opening < 8; opening++) {
    const log = await run.open();
    const failing = random.chance(0.25) ? random.pick(['write', 'sync', 'read'] as const) : undefined;
    const steps = random.below(120);
    for (let step = 0; step < steps; step++) {
      if (failing !== undefined && step === steps - 10)
        bench.folder.faults.decide = (operation) => (operation === failing ? 'EIO' : undefined);
      try {
        await run.step(log);
      } catch (error) {
        if (bench.folder.faults.decide === undefined) throw error;
      }
      if (random.chance(0.1)) run.check(log);
    }
    await run.end(log);
  }
  return run;
}

t.test('random runs', async (t) => {
  let cuts = 0;
  let restarts = 0;
  for (let seed = 1; seed <= 150; seed++) {
    try {
      const done = await run(seed);
      cuts += done.cuts;
      restarts += done.restarts;
    } catch (error) {
      t.fail(`seed ${seed}: ${error instanceof Error ? error.stack : error}`);
      break;
    }
  }
  t.ok(cuts > 100, `${cuts} of ${restarts} openings found a shorter log`);
});
