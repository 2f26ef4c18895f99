import { assert } from '../errors.ts';
import {
  LOG_BATCH_CONTROL,
  LOG_BATCH_MORE,
  LOG_RECORD_MAY_PUNCH,
  LOG_RECORD_WRITE,
  LOG_RECORD_ZEROES,
} from '../formats.ts';
import { type ByteOffset, LOG_SECTOR_BYTES, type Lsn } from '../units.ts';
import type { LogLimits } from './limits.ts';
import {
  BATCH_HEADER_BYTES,
  BatchSealer,
  LogBatch,
  type LogIdentity,
  type LogRecord,
  RECORD_HEADER_BYTES,
  sectorsOf,
  writeRecordHeader,
} from './record.ts';
import { PAGE_SECTORS, pageAligned } from './ring.ts';
import { type Slab, SlabPool } from './slabs.ts';

const PAGE_BYTES = PAGE_SECTORS * LOG_SECTOR_BYTES;

/** Bytes to be written at the LSN of a batch, up to a page boundary. */
export interface SealedBytes {
  readonly bytes: Buffer;
  readonly start: number;
  readonly lengthBytes: number;
}

/**
 * Builds batches, one at a time, one behind the other in slabs of memory. A sealed batch is filled up with zeroes to a page for
 * writing; the next one begins over these zeroes, so it must have been written before.
 */
export class BatchBuilder {
  readonly #limits: LogLimits;
  readonly #sealer: BatchSealer;
  readonly #pool: SlabPool;
  /** The batch that takes records. */
  #open: LogBatch | undefined;
  #slab: Slab | undefined;
  /** Where in the slab the open batch begins, or the next one will; and how long the open one is. */
  #start = 0;
  #lengthBytes = 0;

  /** `crc` is the checksum of the last batch of the log. */
  constructor(identity: LogIdentity, crc: number, limits: LogLimits) {
    this.#limits = limits;
    this.#sealer = new BatchSealer(identity, crc);
    // A batch with the largest record, the rest of its last sector, and the zeroes up to a page.
    this.#pool = new SlabPool(limits.maxRecordBytes + 2 * PAGE_BYTES);
  }

  get open(): LogBatch | undefined {
    return this.#open;
  }

  /** Checksum of the batch sealed last. */
  get crc(): number {
    return this.#sealer.crc;
  }

  /** The next batch comes after one that was not sealed here. */
  follow(crc: number): void {
    assert(this.#open === undefined, 'no batch is open');
    this.#sealer.crc = crc;
  }

  /** Names this opening of the log in all batches from now on. */
  setRun(run: number): void {
    this.#sealer.run = run;
  }

  /** Memory held by batches that are not forgotten, in bytes. */
  get keptBytes(): number {
    return this.#pool.usedBytes;
  }

  /** Whether a record of so many bytes, its header included, joins the open batch. */
  joins(recordBytes: number): boolean {
    return this.#open !== undefined && this.#fits(this.#lengthBytes + recordBytes);
  }

  /** Sectors of a batch with such a record: of the open one if it joins it, else of a new one. */
  sectorsWith(recordBytes: number, joins: boolean): number {
    return sectorsOf((joins ? this.#lengthBytes : BATCH_HEADER_BYTES) + recordBytes);
  }

  /** Whether a batch at `#start` may grow to so many bytes. The zeroes up to a page have their place in the slab too. */
  #fits(lengthBytes: number): boolean {
    return (
      this.#slab !== undefined &&
      lengthBytes <= this.#limits.maxBatchBytes &&
      this.#start + sectorsOf(lengthBytes) * LOG_SECTOR_BYTES + PAGE_BYTES <= this.#slab.bytes.length
    );
  }

  /** Opens a batch that has room for a record of so many bytes. None is open. */
  begin(lsn: Lsn, recordBytes: number): void {
    assert(this.#open === undefined, 'the batch before is sealed');
    if (this.#slab?.batches === 0) this.#start = 0;
    if (!this.#fits(BATCH_HEADER_BYTES + recordBytes)) {
      // One with batches in it goes back to the pool with the last of them.
      if (this.#slab?.batches === 0) this.#pool.give(this.#slab);
      this.#slab = this.#pool.take();
      this.#start = 0;
    }
    const slab = this.#slab;
    assert(slab !== undefined, 'there is a slab');
    const batch = new LogBatch(lsn, lsn);
    batch.slab = slab;
    batch.bytes = slab.bytes.subarray(this.#start);
    this.#pool.enter(slab);
    this.#open = batch;
    this.#lengthBytes = BATCH_HEADER_BYTES;
  }

  /** Copies a write into the open batch, where it has room. */
  addWrite(
    volumeIndex: number,
    offsetBytes: ByteOffset,
    source: Buffer,
    sourceStart: number,
    lengthBytes: number,
  ): LogRecord {
    const record = this.#add(volumeIndex, offsetBytes, lengthBytes, false, false);
    const at = this.#start + record.dataStart;
    if (this.#slab !== undefined) source.copy(this.#slab.bytes, at, sourceStart, sourceStart + lengthBytes);
    return record;
  }

  addZeroes(volumeIndex: number, offsetBytes: ByteOffset, lengthBytes: number, mayPunch: boolean): LogRecord {
    return this.#add(volumeIndex, offsetBytes, lengthBytes, true, mayPunch);
  }

  #add(
    volumeIndex: number,
    offsetBytes: ByteOffset,
    lengthBytes: number,
    zeroes: boolean,
    mayPunch: boolean,
  ): LogRecord {
    const batch = this.#open;
    const bytes = this.#slab?.bytes;
    assert(batch !== undefined && bytes !== undefined, 'a batch is open');
    const kind = zeroes ? LOG_RECORD_ZEROES : LOG_RECORD_WRITE;
    const flags = mayPunch ? LOG_RECORD_MAY_PUNCH : 0;
    const at = this.#start + this.#lengthBytes;
    writeRecordHeader(bytes, at, kind, flags, volumeIndex, offsetBytes, lengthBytes);
    const dataStart = this.#lengthBytes + RECORD_HEADER_BYTES;
    const record = { batch, volumeIndex, offsetBytes, lengthBytes, zeroes, mayPunch, dataStart };
    batch.records.push(record);
    this.#lengthBytes = dataStart + (zeroes ? 0 : lengthBytes);
    batch.endLsn = batch.lsn + sectorsOf(this.#lengthBytes);
    return record;
  }

  /** Seals the open batch. The bytes are to be written before anything else is asked of the builder. */
  seal(durableLsn: Lsn): SealedBytes {
    const batch = this.#open;
    const bytes = this.#slab?.bytes;
    assert(batch !== undefined && bytes !== undefined, 'a batch is open');
    const start = this.#start;
    const end = start + (batch.endLsn - batch.lsn) * LOG_SECTOR_BYTES;
    const padded = end + (pageAligned(batch.endLsn) - batch.endLsn) * LOG_SECTOR_BYTES;
    this.#sealer.seal(bytes, start, this.#lengthBytes, batch.records.length, 0, batch.lsn, durableLsn);
    bytes.fill(0, end, padded);
    batch.bytes = bytes.subarray(start, end);
    this.#open = undefined;
    this.#start = end;
    return { bytes, start, lengthBytes: padded - start };
  }

  /** Where a control record that begins at `lsn` would end. */
  controlEnd(lsn: Lsn, payloadBytes: number): Lsn {
    const mostBytes = this.#limits.maxBatchBytes - BATCH_HEADER_BYTES;
    const full = Math.floor(payloadBytes / mostBytes);
    const rest = payloadBytes % mostBytes;
    return (
      lsn +
      full * sectorsOf(this.#limits.maxBatchBytes) +
      (rest > 0 ? sectorsOf(BATCH_HEADER_BYTES + rest) : 0)
    );
  }

  /**
   * Seals a control record, in memory of its own: one batch, or several one behind the other (rule L8). All of them say the same `durableLsn`, so that
   * none of them ever says that another one is durable while all may yet be cut off.
   */
  sealControl(lsn: Lsn, payload: Buffer, durableLsn: Lsn): SealedBytes {
    assert(this.#open === undefined, 'the batch before is sealed');
    const mostBytes = this.#limits.maxBatchBytes - BATCH_HEADER_BYTES;
    const endLsn = this.controlEnd(lsn, payload.length);
    const bytes = Buffer.alloc((pageAligned(endLsn) - lsn) * LOG_SECTOR_BYTES);
    let start = 0;
    for (let at = 0; at < payload.length; at += mostBytes) {
      const copied = payload.copy(
        bytes,
        start + BATCH_HEADER_BYTES,
        at,
        Math.min(payload.length, at + mostBytes),
      );
      const lengthBytes = BATCH_HEADER_BYTES + copied;
      const flags = LOG_BATCH_CONTROL | (at + mostBytes < payload.length ? LOG_BATCH_MORE : 0);
      this.#sealer.seal(bytes, start, lengthBytes, 0, flags, lsn + start / LOG_SECTOR_BYTES, durableLsn);
      start += sectorsOf(lengthBytes) * LOG_SECTOR_BYTES;
    }
    return { bytes, start: 0, lengthBytes: bytes.length };
  }

  /** Lets go of the memory of a sealed batch. */
  forget(batch: LogBatch): void {
    assert(batch !== this.#open, 'the batch is sealed');
    const { slab } = batch;
    if (slab === undefined) return;
    batch.slab = undefined;
    batch.bytes = undefined;
    if (this.#pool.leave(slab) && slab !== this.#slab) this.#pool.give(slab);
  }
}
