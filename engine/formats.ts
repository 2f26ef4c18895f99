/**
 * Every format of the engine on disk, each once. `docs/formats.md` has the byte tables and says what each field means; the files
 * that read and write them say in which order that has to happen.
 *
 * All integers are little-endian. Each structure begins with the CRC-32 (`zlib.crc32`) of its bytes that follow the field, so that what
 * was torn or has rotted is known.
 */
import { crc32 } from 'node:zlib';
import { blob, struct, u8, u16, u32 } from 'buffer-layout';
import { type FixedLayout, u64le } from '../protocol/layouts.ts';

const CRC_BYTES = 4;

/** Fills in the checksum of a structure that lies at the start of `bytes` and ends with it. */
export function seal(bytes: Buffer): void {
  bytes.writeUInt32LE(crc32(bytes.subarray(CRC_BYTES)), 0);
}

export function isSealed(bytes: Buffer): boolean {
  return bytes.readUInt32LE(0) === crc32(bytes.subarray(CRC_BYTES));
}

/** Makes the checksum of a structure a wrong one. */
export function spoil(bytes: Buffer): void {
  bytes.writeUInt32LE(~crc32(bytes.subarray(CRC_BYTES)) >>> 0, 0);
}

// The group record, `group.record`: two slots of 1 MiB; each a header, and a payload of JSON.

export const GROUP_RECORD_MAGIC = Buffer.from('TDMKGRP\0', 'latin1');
/** Version 1 knew no log and no snapshots, version 2 no other members: they are read, and written as this one. */
export const GROUP_RECORD_VERSION = 3;
/** From this version on a group has a log, and its record has taken its space. */
export const GROUP_RECORD_LOG_VERSION = 2;
export const GROUP_RECORD_SLOTS = 2;
/** Room for header and payload of one slot, in bytes. A record of a group of many members and snapshots takes some KiB. */
export const GROUP_RECORD_SLOT_BYTES = 1024 * 1024;

/** The checksum covers the header after it, and the payload. */
export interface GroupRecordHeader {
  crc: number;
  version: number;
  magic: Buffer;
  /** Grows by one with each write; the valid slot with the higher one holds. */
  sequence: bigint;
  payloadBytes: number;
  reserved: number;
}
export const groupRecordHeaderLayout: FixedLayout<GroupRecordHeader> = struct<GroupRecordHeader>([
  u32('crc'),
  u32('version'),
  blob(8, 'magic'),
  u64le('sequence'),
  u32('payloadBytes'),
  u32('reserved'),
]);

// The map file, `maps/VOLUME.map`: two headers, the activity sector, then the map in sectors.

/** What a disk writes whole or not at all. */
export const SECTOR_BYTES = 512;
/** The parts of the map file begin on blocks of that size. */
export const MAP_BLOCK_BYTES = 4096;
export const MAP_MAGIC = Buffer.from('TDMKMAP\0', 'latin1');
export const MAP_VERSION = 1;
export const MAP_HEADERS = 2;
export const MAP_ACTIVITY_OFFSET_BYTES = MAP_HEADERS * MAP_BLOCK_BYTES;
export const MAP_SECTORS_OFFSET_BYTES = MAP_ACTIVITY_OFFSET_BYTES + MAP_BLOCK_BYTES;

/** All regions count as written, whatever the rest of the file says. */
export const MAP_FLAG_ALL_WRITTEN = 1;

export interface MapHeader {
  crc: number;
  version: number;
  magic: Buffer;
  /** The valid header with the higher one holds. */
  sequence: bigint;
  volumeId: Buffer;
  volumeBytes: bigint;
  regionBytes: number;
  /** Regions of a zone: a power of two. */
  zoneRegions: number;
  flags: number;
  reserved: number;
}
export const mapHeaderLayout: FixedLayout<MapHeader> = struct<MapHeader>([
  u32('crc'),
  u32('version'),
  blob(8, 'magic'),
  u64le('sequence'),
  blob(16, 'volumeId'),
  u64le('volumeBytes'),
  u32('regionBytes'),
  u32('zoneRegions'),
  u32('flags'),
  u32('reserved'),
]);

const ACTIVITY_HEADER_BYTES = 16;
/** Zones of a volume at most: as many as have a bit in the activity sector. */
export const MAX_ZONES = (SECTOR_BYTES - ACTIVITY_HEADER_BYTES) * 8;

export interface MapActivity {
  crc: number;
  reserved: number;
  magic: Buffer;
  /** Bit n of byte m is zone 8m + n; set: the zone is active. */
  zones: Buffer;
}
export const MAP_ACTIVITY_MAGIC = Buffer.from('TDMKACT\0', 'latin1');
export const mapActivityLayout: FixedLayout<MapActivity> = struct<MapActivity>([
  u32('crc'),
  u32('reserved'),
  blob(8, 'magic'),
  blob(MAX_ZONES / 8, 'zones'),
]);

/** Regions whose bits lie in one sector of the map. */
export const MAP_SECTOR_REGIONS = (SECTOR_BYTES - 8) * 8;

export interface MapSector {
  crc: number;
  /** The sector's number plus one, modulo 2^32: a sector that was never written is all zeroes, and valid. */
  number: number;
  /** Bit n of byte m is region 8m + n of the sector; set: written. */
  regions: Buffer;
}
export const mapSectorLayout: FixedLayout<MapSector> = struct<MapSector>([
  u32('crc'),
  u32('number'),
  blob(MAP_SECTOR_REGIONS / 8, 'regions'),
]);

// A store, `snapshots/ID/VOLUME.KIND`: a header, a map in sectors from the next block on, then the regions, each at its own offset.

export const STORE_MAGIC = Buffer.from('TDMKSTO\0', 'latin1');
export const STORE_VERSION = 1;
export const STORE_MAP_OFFSET_BYTES = MAP_BLOCK_BYTES;

export interface StoreHeader {
  crc: number;
  version: number;
  magic: Buffer;
  /** Of the snapshot. */
  ownerId: Buffer;
  volumeId: Buffer;
  volumeBytes: bigint;
  regionBytes: number;
  reserved: number;
}
export const storeHeaderLayout: FixedLayout<StoreHeader> = struct<StoreHeader>([
  u32('crc'),
  u32('version'),
  blob(8, 'magic'),
  blob(16, 'ownerId'),
  blob(16, 'volumeId'),
  u64le('volumeBytes'),
  u32('regionBytes'),
  u32('reserved'),
]);

// The log, `log.ring`: two superblocks, then the ring, in which batches of records follow each other and wrap.

export const LOG_MAGIC = Buffer.from('TDMKLOG\0', 'latin1');
export const LOG_VERSION = 1;
/** A superblock is a sector at the start of a slot. A slot is a page, so that writing one never reads a page in part. */
export const LOG_SLOT_BYTES = 4096;
export const LOG_SLOTS = 2;
export const LOG_RING_OFFSET_BYTES = LOG_SLOTS * LOG_SLOT_BYTES;
/** The ring has its space: nothing appended ever meets a full disk. */
export const LOG_FLAG_ALLOCATED = 1;

/** The checksum covers the rest of the sector. */
export interface LogSuperblock {
  crc: number;
  version: number;
  magic: Buffer;
  /** Grows by one with each write; the intact superblock with the higher one holds. */
  sequence: bigint;
  groupId: Buffer;
  ringBytes: bigint;
  generation: number;
  flags: number;
  /** Of the oldest batch that is still needed, or of the next one when there is none. */
  tailLsn: bigint;
  /** Everything below it was durable when this was written. */
  endLsn: bigint;
  /** Checksum of the batch before the tail. */
  tailCrc: number;
  reserved: number;
}
export const logSuperblockLayout: FixedLayout<LogSuperblock> = struct<LogSuperblock>([
  u32('crc'),
  u32('version'),
  blob(8, 'magic'),
  u64le('sequence'),
  blob(16, 'groupId'),
  u64le('ringBytes'),
  u32('generation'),
  u32('flags'),
  u64le('tailLsn'),
  u64le('endLsn'),
  u32('tailCrc'),
  u32('reserved'),
]);

/** The bytes `TDMB`. */
export const LOG_BATCH_MAGIC = 0x424d4454;
/** The batch is one control record, or a part of one. */
export const LOG_BATCH_CONTROL = 1;
/** The control record goes on in the next batch. */
export const LOG_BATCH_MORE = 2;

/** The checksum covers the header alone, and so the checksum of the body in it: a header can be judged without what follows it. */
export interface LogBatchHeader {
  crc: number;
  /** Of everything in the batch after its header, the zeroes at the end included. */
  bodyCrc: number;
  magic: number;
  version: number;
  flags: number;
  lsn: bigint;
  /** Everything below it was durable on the node that wrote this, when it did (rule L5). */
  durableLsn: bigint;
  /** The first bytes of the group's id: what another group left on the same device does not count. */
  groupTag: Buffer;
  generation: number;
  /** Sequence of the superblock with which the log was opened: two openings never write equal batches. */
  run: number;
  /** The `crc` of the batch before: the chain. */
  chain: number;
  sectors: number;
  /** Without the zeroes that fill up the last sector. */
  lengthBytes: number;
  records: number;
}
export const logBatchHeaderLayout: FixedLayout<LogBatchHeader> = struct<LogBatchHeader>([
  u32('crc'),
  u32('bodyCrc'),
  u32('magic'),
  u16('version'),
  u16('flags'),
  u64le('lsn'),
  u64le('durableLsn'),
  blob(8, 'groupTag'),
  u32('generation'),
  u32('run'),
  u32('chain'),
  u32('sectors'),
  u32('lengthBytes'),
  u32('records'),
]);

export const LOG_RECORD_WRITE = 1;
export const LOG_RECORD_ZEROES = 2;
/** The space of the zeroes may be given back. */
export const LOG_RECORD_MAY_PUNCH = 1;

/** Followed by `lengthBytes` of payload when it is a write. */
export interface LogRecordHeader {
  kind: number;
  flags: number;
  /** The volume's place in the group's record. */
  volumeIndex: number;
  lengthBytes: number;
  offsetBytes: bigint;
}
export const logRecordHeaderLayout: FixedLayout<LogRecordHeader> = struct<LogRecordHeader>([
  u8('kind'),
  u8('flags'),
  u16('volumeIndex'),
  u32('lengthBytes'),
  u64le('offsetBytes'),
]);
