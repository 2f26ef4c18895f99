/**
 * The log of a group: every write in order, in a ring on a disk (rules L1 to L9; `docs/formats.md` has the bytes).
 *
 * Four positions, always in this order, each moved by one thing only:
 *
 *   tail ≤ durable ≤ written ≤ end
 *
 *   end      an append copies a record into the open batch (`head.ts`)
 *   written  `writeOut` seals the open batch and hands it to the kernel: a killed process cannot lose it
 *   durable  a sync that began after the write-out has ended well: a power cut cannot lose it (`syncs.ts`)
 *   tail     a superblock that frees what is below is durable: that space may be written again (rule L7; `tail.ts`)
 *
 * What is written ends on a page boundary, with zeroes: the kernel then never reads a page in part, and the zeroes stand where the next header would.
 * So a page beyond the end is kept free. The batch after it overwrites them.
 *
 * Here is who may append and when, and what others ask of a log.
 */
import type { Clock } from '../clock.ts';
import type { Disk } from '../disk/disk.ts';
import { assert, EngineError, errnoOf } from '../errors.ts';
import { LOG_RING_OFFSET_BYTES } from '../formats.ts';
import { SharedRun } from '../shared-run.ts';
import { type ByteOffset, LOG_SECTOR_BYTES, type Lsn } from '../units.ts';
import { LogHead } from './head.ts';
import { type LogLimits, limitsOf, MIN_LOG_BYTES } from './limits.ts';
import {
  type LogBatch,
  type LogIdentity,
  type LogRecord,
  MAX_ZEROES_BYTES,
  RECORD_HEADER_BYTES,
} from './record.ts';
import { type RecoveredLog, readLog, rewriteEnd } from './recovery.ts';
import { restartDisk, spoilHeader } from './restart.ts';
import { PAGE_SECTORS, pageAligned, Ring } from './ring.ts';
import { LogRoom } from './room.ts';
import { Superblocks } from './superblock.ts';
import { LogSyncs } from './syncs.ts';
import { LogTail } from './tail.ts';

const PAGE_BYTES = PAGE_SECTORS * LOG_SECTOR_BYTES;

interface LogStart {
  readonly identity: LogIdentity;
  readonly lsn: Lsn;
  readonly chain: number;
}

export class Log {
  readonly #disk: Disk;
  readonly #ring: Ring;
  #tail: LogTail;
  #head: LogHead;
  readonly #limits: LogLimits;
  readonly #syncs: LogSyncs;
  readonly #room: LogRoom;
  /** Payload of a write record at most, in bytes: `MAX_RECORD_BYTES`, or what a small ring takes. A multiple of 4096. */
  readonly maxRecordBytes: number;
  /** Of a batch, with its header. */
  readonly maxBatchBytes: number;
  #allocated: boolean;

  readonly #superblockRun = new SharedRun(() => this.#writeSuperblock());
  #recordCount = 0;
  #full = false;
  #allocating: Promise<void> | undefined;
  #closed = false;
  #closing: Promise<void> | undefined;
  #failure: EngineError | undefined;
  /** The next write of the superblock begins another log. */
  #next: LogStart | undefined;

  /** Called once, when a write or sync of the log failed; see `failure`. */
  onFailure: ((error: EngineError) => void) | undefined;
  /** `durableLsn` has advanced. */
  onDurable: (() => void) | undefined;
  /** What was refused may be tried again: it may be refused again. */
  onRoom: (() => void) | undefined;

  private constructor(disk: Disk, clock: Clock, recovered: RecoveredLog, firstLsn: Lsn | undefined) {
    const { superblocks, state, endCrc } = recovered;
    this.#disk = disk;
    this.#ring = new Ring(disk, state.ringBytes);
    this.#tail = new LogTail(superblocks, this.#ring, state);
    this.#limits = limitsOf(state.ringBytes);
    const end = { lsn: state.endLsn, crc: endCrc };
    this.#head = new LogHead(this.#ring, this.#limits, superblocks.identity, end, firstLsn);
    this.maxRecordBytes = this.#limits.maxRecordBytes;
    this.maxBatchBytes = this.#limits.maxBatchBytes;
    this.#allocated = state.allocated;
    this.#room = new LogRoom(disk, clock, {
      writeAndSync: () => this.#superblockRun.join(),
      room: () => this.onRoom?.(),
    });
    this.#syncs = new LogSyncs(disk, clock, this, state.endLsn, {
      durable: () => this.onDurable?.(),
      ended: () => this.#room.tell(),
      failed: (error) => this.#fail('a sync', error),
    });
  }

  /** Size of a disk for a ring, in bytes. */
  static bytesNeeded(ringBytes: number): number {
    return LOG_RING_OFFSET_BYTES + ringBytes;
  }

  /**
   * Makes a log in a disk, of which the superblocks are written and the ring is left as it is. The ring takes the whole disk unless told. Durable
   * when the promise resolves.
   */
  static async create(
    disk: Disk,
    options: LogIdentity & { readonly firstLsn: Lsn; readonly ringBytes?: number },
  ): Promise<void> {
    const room = Math.floor((disk.sizeBytes - LOG_RING_OFFSET_BYTES) / PAGE_BYTES) * PAGE_BYTES;
    const ringBytes = options.ringBytes ?? room;
    assert(ringBytes % PAGE_BYTES === 0 && ringBytes <= room, 'the ring is made of pages and fits the disk');
    assert(ringBytes >= MIN_LOG_BYTES, 'the ring is large enough');
    const { firstLsn } = options;
    const state = { ringBytes, tailLsn: firstLsn, tailCrc: 0, endLsn: firstLsn, allocated: false };
    await Superblocks.create(disk, options, state);
  }

  /**
   * Opens a log, which owns the disk then. Returns the batches from `checkpointLsn` on, in order, without payload: see `readPayload`. All of them
   * are durable; what was torn is cut off, durably, before (rule L5). Where it rejects the disk stays the caller's. Throws `corrupt` where something is missing that was durable, or for another
   * group's log; `unsupported` for a later version; `disk`. `firstLsn`: where the log began, so that its first round is known. `shippedBelow`: see `readLog`.
   */
  static async open(
    disk: Disk,
    options: { readonly groupId: string; readonly firstLsn?: Lsn; readonly shippedBelow?: Lsn },
    checkpointLsn: Lsn,
    clock: Clock,
  ): Promise<{ log: Log; batches: LogBatch[]; warnings: string[] }> {
    const recovered = await readLog(disk, options.groupId, checkpointLsn, options.shippedBelow);
    const log = new Log(disk, clock, recovered, options.firstLsn);
    if (log.#allocated) await log.#begin(recovered.durableLsn);
    return { log, batches: recovered.batches, warnings: recovered.warnings };
  }

  /** Makes the end durable: what is beyond `durableLsn` may be in the page cache alone. */
  async #begin(durableLsn: Lsn): Promise<void> {
    await rewriteEnd(this.#ring, this.#tail.lsn, durableLsn, this.endLsn);
    await this.#superblockRun.join();
    this.#head.setRun(this.#tail.run);
  }

  /** For `LogReader`. */
  get ring(): Ring {
    return this.#ring;
  }

  /** Whose batches are in it. */
  get identity(): LogIdentity {
    return this.#tail.identity;
  }

  get tailLsn(): Lsn {
    return this.#tail.lsn;
  }

  /** Checksum of the batch before `tailLsn`. */
  get tailCrc(): number {
    return this.#tail.crc;
  }

  /** Checksum of the batch before `writtenLsn`. */
  get writtenCrc(): number {
    return this.#head.crc;
  }

  /** Below it everything is durable. */
  get durableLsn(): Lsn {
    return this.#syncs.durableLsn;
  }

  /** Below it everything is with the kernel. */
  get writtenLsn(): Lsn {
    return this.#head.writtenLsn;
  }

  /** LSN that the next batch gets once the open one is sealed. */
  get endLsn(): Lsn {
    return this.#head.endLsn;
  }

  /** Records that it took since it was opened: they lie below `endLsn`. */
  get recordCount(): number {
    return this.#recordCount;
  }

  get capacityBytes(): number {
    return this.#ring.sectors * LOG_SECTOR_BYTES;
  }

  get usedBytes(): number {
    return (this.endLsn - this.#tail.lsn) * LOG_SECTOR_BYTES;
  }

  /** What appends may still take, without the reserve. */
  get roomBytes(): number {
    return this.capacityBytes - this.#limits.reserveSectors * LOG_SECTOR_BYTES - this.usedBytes;
  }

  /** Whether the last append found the ring full, but for the reserve. */
  get isFull(): boolean {
    return this.#full;
  }

  /** Memory held by payloads, in bytes. */
  get keptBytes(): number {
    return this.#head.keptBytes;
  }

  /** Why nothing is appended any more: a write or a sync failed (rule L6). */
  get failure(): EngineError | undefined {
    return this.#failure;
  }

  /**
   * Gives the ring its space, so that no append and no sync ever meets a full disk. To be called before the first append; costs nothing once done. Rejects
   * with code `disk`; without harm, unless `failure` is set.
   */
  allocate(): Promise<void> {
    if (this.#allocated) return Promise.resolve();
    this.#allocating ??= this.#allocateRing().finally(() => {
      this.#allocating = undefined;
    });
    return this.#allocating;
  }

  async #allocateRing(): Promise<void> {
    assert(this.#tail.lsn === this.endLsn, 'a ring without its space is empty');
    await this.#ring.allocate();
    this.#tail.allocated();
    await this.#superblockRun.join();
    this.#head.setRun(this.#tail.run);
    this.#allocated = true;
  }

  /**
   * Copies a write into the open batch: bytes `sourceStart` and on, of which there are `lengthBytes`, 1 to `maxRecordBytes`. Undefined when there is no room now:
   * the ring is full but for the reserve, too much is not durable, or the kernel holds up writers; `onRoom` tells when to try again. Throws
   * `failure`.
   */
  tryAppendWrite(
    volumeIndex: number,
    offsetBytes: ByteOffset,
    source: Buffer,
    sourceStart: number,
    lengthBytes: number,
  ): LogRecord | undefined {
    assert(lengthBytes > 0 && lengthBytes <= this.maxRecordBytes, 'a record has a length that fits a batch');
    assert(sourceStart >= 0 && sourceStart + lengthBytes <= source.length, 'the source holds the range');
    if (!this.#makeRoom(RECORD_HEADER_BYTES + lengthBytes)) return undefined;
    this.#recordCount++;
    return this.#head.addWrite(volumeIndex, offsetBytes, source, sourceStart, lengthBytes);
  }

  /** As `tryAppendWrite`: the range reads as zeroes then, and its space may be given back if `mayPunch`. At most `MAX_ZEROES_BYTES`. */
  tryAppendZeroes(
    volumeIndex: number,
    offsetBytes: ByteOffset,
    lengthBytes: number,
    mayPunch: boolean,
  ): LogRecord | undefined {
    assert(lengthBytes > 0 && lengthBytes <= MAX_ZEROES_BYTES, 'zeroes have a length that fits a record');
    if (!this.#makeRoom(RECORD_HEADER_BYTES)) return undefined;
    this.#recordCount++;
    return this.#head.addZeroes(volumeIndex, offsetBytes, lengthBytes, mayPunch);
  }

  /** Has a batch open that takes a record of so many bytes. False, and nothing done, when there is no room now. */
  #makeRoom(recordBytes: number): boolean {
    this.#checkOpen();
    const joins = this.#head.joins(recordBytes);
    const endLsn = this.#head.endWith(recordBytes, joins);
    const { reserveSectors, maxUnsyncedSectors } = this.#limits;
    this.#full = !this.#hasRoom(endLsn, reserveSectors);
    if (this.#full || endLsn - this.#syncs.durableLsn > maxUnsyncedSectors) {
      this.#refuse();
      return false;
    }
    if (!this.#disk.mayWriteInline) {
      this.#refuse();
      this.#room.regainPace();
      return false;
    }
    if (joins) return true;
    this.writeOut();
    this.#head.begin(recordBytes);
    this.#syncs.startLater();
    return true;
  }

  #checkOpen(): void {
    if (this.#failure !== undefined) throw this.#failure;
    assert(!this.#closed, 'the log is open');
    assert(this.#allocated, 'the ring has its space');
  }

  /** Whether the ring takes batches up to `endLsn`, with a page beyond them, and leaves the reserve. */
  #hasRoom(endLsn: Lsn, reserveSectors: number): boolean {
    assert(endLsn <= Number.MAX_SAFE_INTEGER - 2 * PAGE_SECTORS, 'LSNs are safe integers');
    return pageAligned(endLsn) - this.#tail.lsn + PAGE_SECTORS <= this.#ring.sectors - reserveSectors;
  }

  /** Room comes with a sync, or with what is applied after one. */
  #refuse(): void {
    this.#room.want();
    if (this.endLsn > this.#syncs.durableLsn) this.#syncs.start();
  }

  /**
   * Logs a control record, in one batch or several, after what is open; it is written out on return. May use the reserve. Undefined when even that
   * has no room. Throws `failure`. The payload is the log's from then on.
   */
  appendControl(payload: Buffer): LogBatch | undefined {
    assert(payload.length > 0, 'a control record says something');
    this.#checkOpen();
    this.writeOut();
    if (!this.#hasRoom(this.#head.endWithControl(payload.length), 0)) {
      this.#refuse();
      return undefined;
    }
    const batch = this.#write(() => this.#head.putControl(payload, this.#syncs.durableLsn));
    this.#recordCount++;
    this.#syncs.startLater();
    return batch;
  }

  /**
   * Seals the open batch, if there is one, and hands it to the kernel, whatever that waits for: a killed process cannot lose it then. Throws
   * `failure`, also when it failed before.
   */
  writeOut(): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#head.isOpen) this.#write(() => this.#head.writeOut(this.#syncs.durableLsn));
  }

  #write<T>(write: () => T): T {
    try {
      const written = write();
      this.#syncs.wrote();
      return written;
    } catch (error) {
      throw this.#fail('a write', error);
    }
  }

  /** Whether the ring has room for batches from elsewhere that end at `endLsn`: they leave no reserve, as theirs was kept where they were made. */
  hasRoomUpTo(endLsn: Lsn): boolean {
    return this.#hasRoom(endLsn, 0);
  }

  /**
   * Writes batches from elsewhere as they are, from `lsn` on, where the end is or what was put before it ends. They are there once `advance` says
   * so. There is room for them. Rejects with `failure`.
   */
  async putRaw(lsn: Lsn, bytes: Buffer): Promise<void> {
    this.#checkOpen();
    assert(this.hasRoomUpTo(lsn + bytes.length / LOG_SECTOR_BYTES), 'what is put has room');
    try {
      await this.#head.putRaw(lsn, bytes);
    } catch (error) {
      throw this.#fail('a write', error);
    }
  }

  /** What was put is part of the log up to `endLsn`; `crc` is the checksum of its last batch, `records` how many came so. */
  advance(endLsn: Lsn, crc: number, records: number): void {
    this.#head.advance({ lsn: endLsn, crc });
    this.#recordCount += records;
    this.#syncs.wrote();
    this.#syncs.startLater();
  }

  /**
   * What lies from `lsn` on, where a batch begins, goes: the superblock says so first, then the header there is spoilt (rule L5). `crc`: of the batch
   * before. Nobody appends meanwhile. Rejects with `failure`.
   */
  async cut(lsn: Lsn, crc: number): Promise<void> {
    assert(lsn >= this.#tail.lsn && lsn <= this.endLsn, 'it is cut inside');
    await this.#standStill();
    this.#head.cutTo({ lsn, crc });
    this.#syncs.beginAt(lsn);
    await this.#superblockRun.join();
    try {
      await spoilHeader(this.#ring, lsn);
    } catch (error) {
      throw this.#fail('a write', error);
    }
    await this.#syncs.withSuperblock();
  }

  /**
   * The log goes on at `lsn`, after a batch with checksum `chain`, as that of `identity`, with nothing in it. Who calls has made durable before that
   * it is to be so, and carries it through after a crash (`restartDisk`). Nobody appends or reads meanwhile. Rejects with `failure`.
   */
  async restart(identity: LogIdentity, lsn: Lsn, chain: number): Promise<void> {
    await this.#standStill();
    this.#next = { identity, lsn, chain };
    await this.#superblockRun.join();
  }

  /** No sync is under way when it resolves, and none begins by itself. */
  async #standStill(): Promise<void> {
    do await this.sync();
    while (this.#syncs.isUnderWay);
  }

  async #restartNow({ identity, lsn, chain }: LogStart): Promise<void> {
    try {
      const { superblocks, state } = await restartDisk(this.#disk, identity, lsn, chain, this.capacityBytes);
      this.#tail = new LogTail(superblocks, this.#ring, state);
      this.#head = new LogHead(this.#ring, this.#limits, identity, { lsn, crc: chain });
      this.#allocated = state.allocated;
      this.#syncs.beginAt(lsn);
      this.#head.setRun(this.#tail.run);
    } catch (error) {
      throw this.#fail('a restart', error);
    }
  }

  /** Everything appended before the call is durable when the promise resolves: one sync for all that wait. Rejects with `failure`. */
  sync(): Promise<void> {
    return this.#syncs.join();
  }

  /** Reads bytes of a batch back from the ring, from `start` of the batch on. For batches that are written out, at or above `tailLsn`. */
  async readPayload(
    batch: LogBatch,
    start: number,
    target: Buffer,
    targetStart: number,
    lengthBytes: number,
  ): Promise<void> {
    assert(batch.lsn >= this.#tail.lsn && batch.endLsn <= this.writtenLsn, 'the batch is in the ring');
    const batchBytes = (batch.endLsn - batch.lsn) * LOG_SECTOR_BYTES;
    assert(start >= 0 && start + lengthBytes <= batchBytes, 'the range lies inside the batch');
    await this.#ring.read(batch.lsn, start, target, targetStart, lengthBytes);
  }

  /** The payload of a batch that is written out need not be kept any more: nobody looks at its `bytes` from now on. */
  forget(batch: LogBatch): void {
    this.#head.forget(batch);
  }

  /**
   * Batches below `upTo` are needed no more: their space is used again, after the superblock that says so is durable (rule L7). `upTo` is where
   * a batch begins, and durable. Rejects with code `disk`; then nothing is freed.
   */
  async free(upTo: Lsn): Promise<void> {
    assert(upTo <= this.#syncs.durableLsn, 'what is freed is durable');
    if (upTo <= this.#tail.lsn) return;
    this.#tail.free(upTo);
    await this.#superblockRun.join();
  }

  async #writeSuperblock(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    const next = this.#next;
    this.#next = undefined;
    if (next !== undefined) {
      await this.#restartNow(next);
      return;
    }
    await this.#tail.prepare(this.writtenLsn, this.writtenCrc);
    try {
      await this.#tail.write(this.#syncs.durableLsn, () => this.#syncs.withSuperblock());
    } catch (error) {
      throw this.#fail('a write of its superblock', error);
    }
    this.#room.tell();
  }

  /** Rule L6: nothing is appended after that, and no sync is tried again. */
  #fail(what: string, cause: unknown): EngineError {
    if (this.#failure !== undefined) return this.#failure;
    if (!(cause instanceof EngineError)) throw cause;
    const errno = errnoOf(cause) ?? 'EIO';
    const message = `the log: ${what} failed (${errno}), so that nothing more is written: mend its disk, then start again`;
    this.#failure = new EngineError('disk', message, { errno, cause });
    this.#syncs.stop();
    this.onFailure?.(this.#failure);
    return this.#failure;
  }

  /**
   * Makes everything durable, notes the end, and closes the disk. After a failure it only closes; rejects with `failure` when it comes now, with
   * the disk closed all the same. Appends after it are bugs.
   */
  close(): Promise<void> {
    this.#closing ??= this.#closeNow();
    return this.#closing;
  }

  async #closeNow(): Promise<void> {
    const failedBefore = this.#failure !== undefined;
    this.#closed = true;
    this.#syncs.stop();
    this.#room.stop();
    // Each waits for the run that is under way, also where it then rejects because the log has failed.
    await Promise.allSettled([this.#allocating]);
    await Promise.allSettled([this.sync()]);
    if (this.#allocated) await Promise.allSettled([this.#superblockRun.join()]);
    await this.#disk.close();
    if (this.#failure !== undefined && !failedBefore) throw this.#failure;
  }
}
