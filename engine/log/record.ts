/**
 * Batches of the log and the records in them: how they are laid out, written and read. The bytes are declared in `engine/formats.ts`; here
 * they are written by hand, because it happens for every request, and the tests hold this against the declarations.
 *
 * A batch is a header, records (or the payload of a control record), and zeroes up to a whole sector. Each header has the checksum of the header
 * before it: the chain, by which batches of earlier rounds of the ring, and of what was cut off, are told from those that follow (rule L5).
 */
import { crc32 } from 'node:zlib';
import { assert, EngineError } from '../errors.ts';
import {
  LOG_BATCH_CONTROL,
  LOG_BATCH_MAGIC,
  LOG_BATCH_MORE,
  LOG_RECORD_MAY_PUNCH,
  LOG_RECORD_WRITE,
  LOG_RECORD_ZEROES,
  LOG_VERSION,
  logBatchHeaderLayout,
  logRecordHeaderLayout,
} from '../formats.ts';
import { type ByteOffset, LOG_SECTOR_BYTES, type Lsn, MIB } from '../units.ts';
import type { Slab } from './slabs.ts';

/** A batch on disk at most, in bytes (rule L8). */
export const MAX_BATCH_BYTES = 8 * MIB;
/** Payload of a write record at most, in bytes; less in a small ring: see `Log.maxRecordBytes`. */
export const MAX_RECORD_BYTES = 4 * MIB;
/** Zeroes of a record at most, in bytes: one is applied as one step. */
export const MAX_ZEROES_BYTES = 64 * MIB;

export const BATCH_HEADER_BYTES = logBatchHeaderLayout.span;
export const RECORD_HEADER_BYTES = logRecordHeaderLayout.span;

const TWO_32 = 2 ** 32;

/** One write or zeroing. */
export interface LogRecord {
  readonly batch: LogBatch;
  /** The volume's place in the group's record. */
  readonly volumeIndex: number;
  readonly offsetBytes: ByteOffset;
  readonly lengthBytes: number;
  /** It has no payload; the range reads as zeroes. */
  readonly zeroes: boolean;
  /** Of zeroes: their space may be given back (rule L11). */
  readonly mayPunch: boolean;
  /** Where the payload begins in the bytes of the batch. */
  readonly dataStart: number;
}

/** What was logged as one: records, or a control record. Owned by the log; the others only read it. */
export class LogBatch {
  /** The LSN of each of its records. */
  readonly lsn: Lsn;
  /** Where it ends; it grows until the batch is sealed. Of a control record in several batches, the end of the last. */
  endLsn: Lsn;
  readonly records: LogRecord[] = [];
  /** The payload of a control record, whole. */
  readonly control: Buffer | undefined;
  /**
   * The batch from its header on while that is kept in memory, in a slab that is used again once the batch is forgotten. Undefined: have it from
   * `Log.readPayload`. A control record has it only in `control`.
   */
  bytes: Buffer | undefined;
  /** It is being applied: nobody else takes `bytes` away. */
  isApplying = false;
  /** Where `bytes` lies; the log's own business. */
  slab: Slab | undefined;

  constructor(lsn: Lsn, endLsn: Lsn, control?: Buffer) {
    this.lsn = lsn;
    this.endLsn = endLsn;
    this.control = control;
  }
}

/** Sectors that so many bytes take. */
export function sectorsOf(lengthBytes: number): number {
  return Math.ceil(lengthBytes / LOG_SECTOR_BYTES);
}

/** `kind` and `flags` are those of `engine/formats.ts`. */
export function writeRecordHeader(
  bytes: Buffer,
  at: number,
  kind: number,
  flags: number,
  volumeIndex: number,
  offsetBytes: ByteOffset,
  lengthBytes: number,
): void {
  bytes[at] = kind;
  bytes[at + 1] = flags;
  bytes.writeUInt16LE(volumeIndex, at + 2);
  bytes.writeUInt32LE(lengthBytes, at + 4);
  writeUInt53(bytes, at + 8, offsetBytes);
}

/** Whose batches they are. */
export interface LogIdentity {
  /** UUID of the group. */
  readonly groupId: string;
  readonly generation: number;
}

export function groupIdBytes(groupId: string): Buffer {
  const bytes = Buffer.from(groupId.replaceAll('-', ''), 'hex');
  assert(bytes.length === 16, 'the id of a group is a UUID');
  return bytes;
}

/** Seals batches one after the other, each chained to the one before. */
export class BatchSealer {
  readonly #tagLow: number;
  readonly #tagHigh: number;
  readonly #generation: number;
  /** Of this opening of the log; set before the first batch. */
  run = 0;
  /** Of the batch sealed last. */
  crc: number;

  constructor(identity: LogIdentity, crc: number) {
    const id = groupIdBytes(identity.groupId);
    this.#tagLow = id.readUInt32LE(0);
    this.#tagHigh = id.readUInt32LE(4);
    this.#generation = identity.generation;
    this.crc = crc;
  }

  /** Writes the header of the batch at `start`, of `lengthBytes` with it, and fills its last sector up with zeroes. */
  seal(
    bytes: Buffer,
    start: number,
    lengthBytes: number,
    records: number,
    flags: number,
    lsn: Lsn,
    durableLsn: Lsn,
  ): void {
    const sectors = sectorsOf(lengthBytes);
    const end = start + sectors * LOG_SECTOR_BYTES;
    bytes.fill(0, start + lengthBytes, end);
    bytes.writeUInt32LE(crc32(bytes.subarray(start + BATCH_HEADER_BYTES, end)), start + 4);
    bytes.writeUInt32LE(LOG_BATCH_MAGIC, start + 8);
    bytes.writeUInt16LE(LOG_VERSION, start + 12);
    bytes.writeUInt16LE(flags, start + 14);
    writeUInt53(bytes, start + 16, lsn);
    writeUInt53(bytes, start + 24, durableLsn);
    bytes.writeUInt32LE(this.#tagLow, start + 32);
    bytes.writeUInt32LE(this.#tagHigh, start + 36);
    bytes.writeUInt32LE(this.#generation, start + 40);
    bytes.writeUInt32LE(this.run, start + 44);
    bytes.writeUInt32LE(this.crc, start + 48);
    bytes.writeUInt32LE(sectors, start + 52);
    bytes.writeUInt32LE(lengthBytes, start + 56);
    bytes.writeUInt32LE(records, start + 60);
    this.crc = crc32(bytes.subarray(start + 4, start + BATCH_HEADER_BYTES));
    bytes.writeUInt32LE(this.crc, start);
  }
}

/** A header that is intact, and of the place where it was found. */
export interface FoundHeader {
  readonly crc: number;
  readonly bodyCrc: number;
  readonly lsn: Lsn;
  readonly durableLsn: Lsn;
  readonly chain: number;
  readonly sectors: number;
  readonly lengthBytes: number;
  readonly records: number;
  readonly control: boolean;
  readonly more: boolean;
}

/** Reads headers of one log. */
export class HeaderReader {
  readonly #identity: LogIdentity;
  readonly #tagLow: number;
  readonly #tagHigh: number;

  constructor(identity: LogIdentity) {
    this.#identity = identity;
    const id = groupIdBytes(identity.groupId);
    this.#tagLow = id.readUInt32LE(0);
    this.#tagHigh = id.readUInt32LE(4);
  }

  /**
   * The header at `at`, when it is intact, of this log, and of LSN `lsn`; else undefined. Throws `unsupported` when it is all that but of a later
   * version.
   */
  read(bytes: Buffer, at: number, lsn: Lsn): FoundHeader | undefined {
    if (bytes.readUInt32LE(at + 8) !== LOG_BATCH_MAGIC || readUInt53(bytes, at + 16) !== lsn)
      return undefined;
    const crc = bytes.readUInt32LE(at);
    if (crc32(bytes.subarray(at + 4, at + BATCH_HEADER_BYTES)) !== crc) return undefined;
    if (bytes.readUInt32LE(at + 32) !== this.#tagLow || bytes.readUInt32LE(at + 36) !== this.#tagHigh)
      return undefined;
    const version = bytes.readUInt16LE(at + 12);
    if (version !== LOG_VERSION)
      throw new EngineError(
        'unsupported',
        `the log holds a batch of version ${version}: use the tidemark that wrote it, or a later one`,
      );
    if (bytes.readUInt32LE(at + 40) !== this.#identity.generation) return undefined;
    const sectors = bytes.readUInt32LE(at + 52);
    const lengthBytes = bytes.readUInt32LE(at + 56);
    if (lengthBytes < BATCH_HEADER_BYTES || sectorsOf(lengthBytes) !== sectors) return undefined;
    if (lengthBytes > MAX_BATCH_BYTES) return undefined;
    const flags = bytes.readUInt16LE(at + 14);
    return {
      crc,
      bodyCrc: bytes.readUInt32LE(at + 4),
      lsn,
      durableLsn: readUInt53(bytes, at + 24),
      chain: bytes.readUInt32LE(at + 48),
      sectors,
      lengthBytes,
      records: bytes.readUInt32LE(at + 60),
      control: (flags & LOG_BATCH_CONTROL) !== 0,
      more: (flags & LOG_BATCH_MORE) !== 0,
    };
  }
}

/** Whether the batch at `at` is whole, by its header. */
export function isBodyIntact(bytes: Buffer, at: number, header: FoundHeader): boolean {
  const end = at + header.sectors * LOG_SECTOR_BYTES;
  return crc32(bytes.subarray(at + BATCH_HEADER_BYTES, end)) === header.bodyCrc;
}

/** The records of an intact batch at `at`. Throws `corrupt` when they are not what was ever written. */
export function decodeRecords(bytes: Buffer, at: number, header: FoundHeader): LogBatch {
  const batch = new LogBatch(header.lsn, header.lsn + header.sectors);
  let next = BATCH_HEADER_BYTES;
  for (let index = 0; index < header.records; index++) {
    if (next + RECORD_HEADER_BYTES > header.lengthBytes) throw malformed(header.lsn);
    const kind = bytes[at + next];
    const flags = bytes[at + next + 1] ?? 0;
    const zeroes = kind === LOG_RECORD_ZEROES;
    const record = {
      batch,
      volumeIndex: bytes.readUInt16LE(at + next + 2),
      offsetBytes: readUInt53(bytes, at + next + 8),
      lengthBytes: bytes.readUInt32LE(at + next + 4),
      zeroes,
      mayPunch: (flags & LOG_RECORD_MAY_PUNCH) !== 0,
      dataStart: next + RECORD_HEADER_BYTES,
    };
    next = record.dataStart + (zeroes ? 0 : record.lengthBytes);
    const known = zeroes || kind === LOG_RECORD_WRITE;
    if (!known || record.lengthBytes === 0 || next > header.lengthBytes) throw malformed(header.lsn);
    batch.records.push(record);
  }
  if (header.records === 0 || next !== header.lengthBytes) throw malformed(header.lsn);
  return batch;
}

export function malformed(lsn: Lsn): EngineError {
  return new EngineError(
    'corrupt',
    `the log's batch at LSN ${lsn} is intact but makes no sense: report this, and restore the log's file from a copy`,
  );
}

/** A safe integer as 64 bits: by halves, because a BigInt costs an allocation. */
function writeUInt53(bytes: Buffer, at: number, value: number): void {
  bytes.writeUInt32LE(value % TWO_32, at);
  bytes.writeUInt32LE(Math.floor(value / TWO_32), at + 4);
}

/** Not exact above 2^53, where it matches nothing that is asked for. */
function readUInt53(bytes: Buffer, at: number): number {
  return bytes.readUInt32LE(at) + bytes.readUInt32LE(at + 4) * TWO_32;
}
