/**
 * The append to a log: what every logged write costs before it may be acknowledged. First into memory that stands for the page cache,
 * which is what our own code costs; then into a file, with what the kernel costs; then durably.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bench, do_not_optimize, group, summary } from 'mitata';
import { systemClock } from '../../engine/clock.ts';
import type { Disk, DiskExtent } from '../../engine/disk/disk.ts';
import { FileFolder } from '../../engine/disk/file-folder.ts';
import { Log } from '../../engine/log/log.ts';
import { MIB } from '../../engine/units.ts';

const GROUP_ID = '00112233-4455-6677-8899-aabbccddeeff';
const RING_BYTES = 64 * MIB;
const WRITE_BYTES = 4096;
/** Appends in one measured call; all in one batch, or each in its own. */
const APPENDS = 32;

const source = Buffer.alloc(WRITE_BYTES, 0x5a);

/** As much of a disk as a log needs, in memory: writing is a copy, and everything is durable at once. */
class RamDisk implements Disk {
  readonly sizeBytes: number;
  readonly device = false;
  readonly failure = undefined;
  readonly blockBytes = 4096;
  readonly mayWriteInline = true;
  readonly #bytes: Buffer;

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
    this.#bytes = Buffer.alloc(sizeBytes);
  }

  tryRead(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): boolean {
    this.#bytes.copy(target, targetStart, offsetBytes, offsetBytes + lengthBytes);
    return true;
  }

  async read(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): Promise<void> {
    this.tryRead(target, targetStart, lengthBytes, offsetBytes);
  }

  tryWrite(from: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): boolean {
    from.copy(this.#bytes, offsetBytes, sourceStart, sourceStart + lengthBytes);
    return true;
  }

  writeNow(from: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): void {
    from.copy(this.#bytes, offsetBytes, sourceStart, sourceStart + lengthBytes);
  }

  async write(from: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): Promise<void> {
    this.writeNow(from, sourceStart, lengthBytes, offsetBytes);
  }

  async sync(): Promise<void> {}
  forgive(): void {}
  async punch(): Promise<void> {}
  async punchFast(): Promise<void> {}
  async zero(): Promise<void> {}
  async prefetch(): Promise<void> {}
  async close(): Promise<void> {}

  async extents(_offsetBytes: number, lengthBytes: number): Promise<DiskExtent[]> {
    return [{ lengthBytes, hole: false, zero: false }];
  }
}

async function openLog(disk: Disk): Promise<Log> {
  await Log.create(disk, { groupId: GROUP_ID, generation: 1, firstLsn: 0 });
  const { log } = await Log.open(disk, { groupId: GROUP_ID }, 0, systemClock);
  await log.allocate();
  return log;
}

/** What a writer does that is refused: it waits, and others apply what is logged. */
async function waitForRoom(log: Log): Promise<void> {
  await systemClock.turn();
  await log.sync();
  await log.free(log.durableLsn);
}

/** Some thousand appends pay for one sync and one superblock, as they do in earnest. */
async function appendAll(log: Log, eachAlone: boolean): Promise<number> {
  if (log.usedBytes > log.capacityBytes / 8) await waitForRoom(log);
  for (let count = 0; count < APPENDS; ) {
    const record = log.tryAppendWrite(0, 0, source, 0, WRITE_BYTES);
    if (record === undefined) {
      await waitForRoom(log);
      continue;
    }
    count++;
    if (!eachAlone && count < APPENDS) continue;
    log.writeOut();
    log.forget(record.batch);
  }
  return log.endLsn;
}

async function appendDurably(log: Log): Promise<void> {
  if (log.usedBytes > log.capacityBytes / 8) await waitForRoom(log);
  const record = log.tryAppendWrite(0, 0, source, 0, WRITE_BYTES);
  await log.sync();
  if (record !== undefined) log.forget(record.batch);
}

function benchAppends(where: string, log: Log): void {
  group(`${APPENDS} appends of 4 KiB, ${where}`, () => {
    summary(() => {
      bench('each in its own batch', async () => do_not_optimize(await appendAll(log, true))).baseline(true);
      bench('all in one batch', async () => do_not_optimize(await appendAll(log, false)));
    });
  });
}

/** Registers the benchmarks; call what it returns when they have run. */
export async function benchLogAppend(): Promise<() => Promise<void>> {
  const ram = await openLog(new RamDisk(Log.bytesNeeded(RING_BYTES)));
  benchAppends('into memory', ram);
  const path = await mkdtemp(join(tmpdir(), 'tidemark-micro-'));
  const folder = await FileFolder.open(path);
  const file = await openLog(await folder.create('log.ring', Log.bytesNeeded(RING_BYTES)));
  benchAppends('into a file', file);
  group('one append of 4 KiB, durable', () => {
    bench('append and sync', () => appendDurably(file));
  });
  return async () => {
    await ram.close();
    await file.close();
    await rm(path, { recursive: true });
  };
}
