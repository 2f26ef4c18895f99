import { KIB, LOG_SECTOR_BYTES, MIB } from '../units.ts';
import {
  BATCH_HEADER_BYTES,
  MAX_BATCH_BYTES,
  MAX_RECORD_BYTES,
  RECORD_HEADER_BYTES,
  sectorsOf,
} from './record.ts';
import { PAGE_SECTORS } from './ring.ts';

/** The smallest ring, in bytes: the least in which the shares below come to something. */
export const MIN_LOG_BYTES = 256 * KIB;

/** Share of the ring that one batch may take, and that may be written and not durable. */
const RING_SHARE = 4;
/** Written and not durable, in bytes, at most: beyond it appends wait. It bounds what a power cut loses, and how far a scan looks ahead. */
const MAX_UNSYNCED_BYTES = 16 * MIB;
/** Of the ring, kept for control records: those that free space must find some (rule L7). */
const MIN_RESERVE_BYTES = 64 * KIB;
const RESERVE_SHARE = 16;

/** What a ring of a size takes. */
export interface LogLimits {
  /** Of a batch, with its header. */
  readonly maxBatchBytes: number;
  /** Payload of a write record: a multiple of a page. */
  readonly maxRecordBytes: number;
  readonly maxUnsyncedSectors: number;
  readonly reserveSectors: number;
}

export function limitsOf(ringBytes: number): LogLimits {
  const maxBatchBytes = Math.min(MAX_BATCH_BYTES, ringBytes / RING_SHARE);
  const pageBytes = PAGE_SECTORS * LOG_SECTOR_BYTES;
  const pages = Math.floor((maxBatchBytes - BATCH_HEADER_BYTES - RECORD_HEADER_BYTES) / pageBytes);
  return {
    maxBatchBytes,
    maxRecordBytes: Math.min(MAX_RECORD_BYTES, pages * pageBytes),
    maxUnsyncedSectors: sectorsOf(Math.min(MAX_UNSYNCED_BYTES, ringBytes / RING_SHARE)),
    reserveSectors: sectorsOf(Math.max(MIN_RESERVE_BYTES, ringBytes / RESERVE_SHARE)),
  };
}
