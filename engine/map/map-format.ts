import { EngineError } from '../errors.ts';
import {
  isSealed,
  MAP_ACTIVITY_MAGIC,
  MAP_BLOCK_BYTES,
  MAP_HEADERS,
  MAP_MAGIC,
  MAP_SECTOR_REGIONS,
  MAP_SECTORS_OFFSET_BYTES,
  MAP_VERSION,
  MAX_ZONES,
  type MapHeader,
  mapActivityLayout,
  mapHeaderLayout,
  mapSectorLayout,
  SECTOR_BYTES,
  seal,
} from '../formats.ts';
import { MIB } from '../units.ts';
import type { RegionMap } from './region-map.ts';

/** What a map file is the map of. */
export interface MapIdentity {
  /** Of the volume, a UUID as text. */
  readonly volumeId: string;
  readonly sizeBytes: number;
  readonly regionBytes: number;
}

/**
 * A zone is no smaller than that, in bytes. Each costs a sync at the first write into it; and after a crash that much of the
 * volume counts as written around each write of the last seconds.
 */
const MIN_ZONE_BYTES = 64 * MIB;

/** 32-bit words of the map in one sector of the file. */
const SECTOR_WORDS = MAP_SECTOR_REGIONS / 32;

export function regionCount(identity: MapIdentity): number {
  return Math.ceil(identity.sizeBytes / identity.regionBytes);
}

/** Regions of a zone: the smallest power of two with which the zones are neither too small nor too many. */
export function zoneRegions(identity: MapIdentity): number {
  let regions = Math.max(1, MIN_ZONE_BYTES / identity.regionBytes);
  while (Math.ceil(regionCount(identity) / regions) > MAX_ZONES) regions *= 2;
  return regions;
}

export function sectorCount(identity: MapIdentity): number {
  return Math.ceil(regionCount(identity) / MAP_SECTOR_REGIONS);
}

export function mapFileBytes(identity: MapIdentity): number {
  const bytes = MAP_SECTORS_OFFSET_BYTES + sectorCount(identity) * SECTOR_BYTES;
  return Math.ceil(bytes / MAP_BLOCK_BYTES) * MAP_BLOCK_BYTES;
}

/** The 16 bytes of a UUID. */
export function uuidBytes(id: string): Buffer {
  return Buffer.from(id.replaceAll('-', ''), 'hex');
}

/** Both headers, as they are written when a file is made: they differ in the sequence alone. */
export function encodeHeaders(identity: MapIdentity, flags: number): Buffer {
  const bytes = Buffer.alloc(MAP_HEADERS * MAP_BLOCK_BYTES);
  for (let slot = 0; slot < MAP_HEADERS; slot++) {
    const header = bytes.subarray(slot * MAP_BLOCK_BYTES, slot * MAP_BLOCK_BYTES + mapHeaderLayout.span);
    mapHeaderLayout.encode(
      {
        crc: 0,
        version: MAP_VERSION,
        magic: MAP_MAGIC,
        sequence: BigInt(slot + 1),
        volumeId: uuidBytes(identity.volumeId),
        volumeBytes: BigInt(identity.sizeBytes),
        regionBytes: identity.regionBytes,
        zoneRegions: zoneRegions(identity),
        flags,
        reserved: 0,
      },
      header,
    );
    seal(header);
  }
  return bytes;
}

/** The header that holds, or undefined when neither is intact. Throws `corrupt` when it is another volume's, or a later format. */
export function decodeHeaders(bytes: Buffer, identity: MapIdentity): MapHeader | undefined {
  let newest: MapHeader | undefined;
  for (let slot = 0; slot < MAP_HEADERS; slot++) {
    const header = bytes.subarray(slot * MAP_BLOCK_BYTES, slot * MAP_BLOCK_BYTES + mapHeaderLayout.span);
    if (!isSealed(header)) continue;
    const found = mapHeaderLayout.decode(header);
    if (!found.magic.equals(MAP_MAGIC)) continue;
    if (newest === undefined || found.sequence > newest.sequence) newest = found;
  }
  if (newest === undefined) return undefined;
  if (newest.version !== MAP_VERSION)
    throw new EngineError('unsupported', `the map file has version ${newest.version}; this program knows 1`);
  const fits =
    newest.volumeId.equals(uuidBytes(identity.volumeId)) &&
    newest.volumeBytes === BigInt(identity.sizeBytes) &&
    newest.regionBytes === identity.regionBytes &&
    newest.zoneRegions === zoneRegions(identity);
  if (!fits) throw new EngineError('corrupt', 'the map file belongs to another volume');
  return newest;
}

/** `bit(zone)` tells which zones are active. `target` is one sector. */
export function encodeActivity(target: Buffer, zones: number, bit: (zone: number) => boolean): void {
  const bits = Buffer.alloc(MAX_ZONES / 8);
  for (let zone = 0; zone < zones; zone++) {
    if (bit(zone)) bits.writeUInt8(bits.readUInt8(zone >>> 3) | (1 << (zone & 7)), zone >>> 3);
  }
  mapActivityLayout.encode({ crc: 0, reserved: 0, magic: MAP_ACTIVITY_MAGIC, zones: bits }, target);
  seal(target);
}

/** A bit for each zone, or undefined when the sector is not intact. */
export function decodeActivity(sector: Buffer): Buffer | undefined {
  if (!isSealed(sector)) return undefined;
  const activity = mapActivityLayout.decode(sector);
  return activity.magic.equals(MAP_ACTIVITY_MAGIC) ? activity.zones : undefined;
}

/** Puts the sectors from `firstSector` on, as the map has them now, into `target`, whole sectors. */
export function encodeSectors(target: Buffer, map: RegionMap, firstSector: number): void {
  const regions = Buffer.alloc(MAP_SECTOR_REGIONS / 8);
  for (let at = 0; at < target.length; at += SECTOR_BYTES) {
    const sector = firstSector + at / SECTOR_BYTES;
    for (let word = 0; word < SECTOR_WORDS; word++)
      regions.writeUInt32LE(map.word(sector * SECTOR_WORDS + word), word * 4);
    const bytes = target.subarray(at, at + SECTOR_BYTES);
    mapSectorLayout.encode({ crc: 0, number: (sector + 1) >>> 0, regions }, bytes);
    seal(bytes);
  }
}

/** A sector that was never written. Never written to. */
export const blankSector = Buffer.alloc(SECTOR_BYTES);

/**
 * Adds a sector's regions to the map. A blank sector was never written, and has none; one that is not intact, or lies in the wrong
 * place, counts as all written. Returns whether it was sound.
 */
export function decodeSector(sector: Buffer, map: RegionMap, number: number): boolean {
  if (sector.equals(blankSector)) return true;
  const firstRegion = number * MAP_SECTOR_REGIONS;
  if (!isSealed(sector) || mapSectorLayout.decode(sector).number !== (number + 1) >>> 0) {
    map.setRange(firstRegion, Math.min(map.length, firstRegion + MAP_SECTOR_REGIONS));
    return false;
  }
  const { regions } = mapSectorLayout.decode(sector);
  for (let word = 0; word < SECTOR_WORDS; word++) {
    const bits = regions.readUInt32LE(word * 4);
    if (bits !== 0) map.orWord(number * SECTOR_WORDS + word, bits);
  }
  return true;
}
