/**
 * Every format of the engine on disk, each once. `docs/formats.md` has the byte tables and says what each field means; the files
 * that read and write them say in which order that has to happen.
 *
 * All integers are little-endian. Each structure begins with the CRC-32 (`zlib.crc32`) of its bytes that follow the field, so that what
 * was torn or has rotted is known.
 */
import { crc32 } from 'node:zlib';
import { blob, struct, u32 } from 'buffer-layout';
import { type FixedLayout, u64le } from '../protocol/layouts.ts';

const CRC_BYTES = 4;

/** Fills in the checksum of a structure that lies at the start of `bytes` and ends with it. */
export function seal(bytes: Buffer): void {
  bytes.writeUInt32LE(crc32(bytes.subarray(CRC_BYTES)), 0);
}

export function isSealed(bytes: Buffer): boolean {
  return bytes.readUInt32LE(0) === crc32(bytes.subarray(CRC_BYTES));
}

// The group record, `group.record`: two slots of 1 MiB; each a header, and a payload of JSON.

export const GROUP_RECORD_MAGIC = Buffer.from('TDMKGRP\0', 'latin1');
export const GROUP_RECORD_VERSION = 1;
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
