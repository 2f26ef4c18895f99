/**
 * The head of a log: the batch that takes records, and the positions *written* and *end*. A batch goes to the kernel when it is sealed, up to a page
 * boundary with zeroes; the next one begins over them.
 */
import { assert } from '../errors.ts';
import { type ByteOffset, LOG_SECTOR_BYTES, type Lsn } from '../units.ts';
import { BatchBuilder } from './batch-builder.ts';
import type { LogLimits } from './limits.ts';
import { LogBatch, type LogIdentity, type LogRecord } from './record.ts';
import { pageAligned, type Ring } from './ring.ts';
import { WriteAhead } from './write-ahead.ts';

/** Where a log goes on: after the batch that ends at `lsn`, of which `crc` is the checksum. */
export interface LogEnd {
  readonly lsn: Lsn;
  readonly crc: number;
}

export class LogHead {
  readonly #ring: Ring;
  readonly #builder: BatchBuilder;
  #ahead: WriteAhead | undefined;
  #writtenLsn: Lsn;
  #endLsn: Lsn;

  /** `firstLsn`: where the first round of the ring began, if it is known. */
  constructor(ring: Ring, limits: LogLimits, identity: LogIdentity, end: LogEnd, firstLsn?: Lsn) {
    this.#ring = ring;
    this.#builder = new BatchBuilder(identity, end.crc, limits);
    this.#writtenLsn = end.lsn;
    this.#endLsn = end.lsn;
    if (firstLsn !== undefined) this.#ahead = new WriteAhead(ring, firstLsn, end.lsn);
  }

  /** Below it everything is with the kernel. */
  get writtenLsn(): Lsn {
    return this.#writtenLsn;
  }

  /** LSN that the next batch gets once the open one is sealed. */
  get endLsn(): Lsn {
    return this.#endLsn;
  }

  /** Checksum of the batch before `writtenLsn`. */
  get crc(): number {
    return this.#builder.crc;
  }

  /** Memory held by payloads, in bytes. */
  get keptBytes(): number {
    return this.#builder.keptBytes;
  }

  /** Whether a batch is open: something is appended and not written. */
  get isOpen(): boolean {
    return this.#builder.open !== undefined;
  }

  /** Names this opening of the log in all batches from now on. */
  setRun(run: number): void {
    this.#builder.setRun(run);
  }

  /** Whether a record of so many bytes, its header included, joins the open batch. */
  joins(recordBytes: number): boolean {
    return this.#builder.joins(recordBytes);
  }

  /** Where the log would end with such a record. */
  endWith(recordBytes: number, joins: boolean): Lsn {
    const lsn = joins ? (this.#builder.open?.lsn ?? this.#endLsn) : this.#endLsn;
    return lsn + this.#builder.sectorsWith(recordBytes, joins);
  }

  /** Where it would end with a control record after what is open. */
  endWithControl(payloadBytes: number): Lsn {
    return this.#builder.controlEnd(this.#endLsn, payloadBytes);
  }

  /** Opens a batch that has room for a record of so many bytes. None is open. */
  begin(recordBytes: number): void {
    this.#builder.begin(this.#endLsn, recordBytes);
  }

  /** Copies a write into the open batch, which it joins. */
  addWrite(
    volumeIndex: number,
    offsetBytes: ByteOffset,
    source: Buffer,
    sourceStart: number,
    lengthBytes: number,
  ): LogRecord {
    const record = this.#builder.addWrite(volumeIndex, offsetBytes, source, sourceStart, lengthBytes);
    this.#endLsn = record.batch.endLsn;
    return record;
  }

  addZeroes(volumeIndex: number, offsetBytes: ByteOffset, lengthBytes: number, mayPunch: boolean): LogRecord {
    const record = this.#builder.addZeroes(volumeIndex, offsetBytes, lengthBytes, mayPunch);
    this.#endLsn = record.batch.endLsn;
    return record;
  }

  /** Seals the open batch and hands it to the kernel. Throws as `Ring.writeNow`. */
  writeOut(durableLsn: Lsn): void {
    const lsn = this.#writtenLsn;
    const { bytes, start, lengthBytes } = this.#builder.seal(durableLsn);
    this.#ring.writeNow(lsn, bytes, start, lengthBytes);
    this.#ahead?.reached(this.#endLsn, durableLsn);
    this.#writtenLsn = this.#endLsn;
  }

  /** Writes a control record. No batch is open. In one go, with no sync between its parts: see `BatchBuilder.sealControl`. Throws as `Ring.writeNow`. */
  putControl(payload: Buffer, durableLsn: Lsn): LogBatch {
    const lsn = this.#endLsn;
    const endLsn = this.endWithControl(payload.length);
    const { bytes, start, lengthBytes } = this.#builder.sealControl(lsn, payload, durableLsn);
    this.#ring.writeNow(lsn, bytes, start, lengthBytes);
    this.#endLsn = endLsn;
    this.#writtenLsn = endLsn;
    return new LogBatch(lsn, endLsn, payload);
  }

  /** Writes batches from elsewhere as they are, from `lsn` on, at the end or behind what was put there before. They count once `advance` says so. */
  async putRaw(lsn: Lsn, bytes: Buffer): Promise<void> {
    assert(lsn >= this.#endLsn && !this.isOpen, 'what is put follows');
    const endLsn = lsn + bytes.length / LOG_SECTOR_BYTES;
    // Up to a page, as all that is written.
    const padded = Buffer.alloc((pageAligned(endLsn) - lsn) * LOG_SECTOR_BYTES);
    bytes.copy(padded);
    await this.#ring.write(lsn, padded);
  }

  /** What was put is part of the log up to there. */
  advance({ lsn, crc }: LogEnd): void {
    this.#builder.follow(crc);
    this.#writtenLsn = lsn;
    this.#endLsn = lsn;
  }

  /** What lies beyond goes. What was written ahead of the head is not where it goes on. */
  cutTo(end: LogEnd): void {
    this.advance(end);
    this.#ahead = undefined;
  }

  /** Lets go of the memory of a batch that is written out. */
  forget(batch: LogBatch): void {
    this.#builder.forget(batch);
  }
}
