/** A region map in sectors on a disk, as the map file, the stores and the restores keep it: see `mapSectorLayout`. */
import type { Disk } from '../disk/disk.ts';
import { MAP_BLOCK_BYTES, MAP_SECTOR_REGIONS, SECTOR_BYTES } from '../formats.ts';
import type { RegionIndex } from '../units.ts';
import { blankSector, decodeSector } from './map-format.ts';
import type { RegionMap, RegionRun } from './region-map.ts';

/** Sectors read or written at once: 1 MiB, and the extents asked for at once meanwhile. */
export const SECTORS_PER_CALL = 2048;
const EXTENTS_PER_CALL = 256;

export function sectorsOf(regionCount: number): number {
  return Math.ceil(regionCount / MAP_SECTOR_REGIONS);
}

/** What the sectors of a map take, in whole blocks, so that no other part of the file shares one with them. */
export function sectorsBytes(regionCount: number): number {
  return Math.ceil((sectorsOf(regionCount) * SECTOR_BYTES) / MAP_BLOCK_BYTES) * MAP_BLOCK_BYTES;
}

/** The regions whose bits lie in sectors `first` up to `end`, exclusive. */
export function regionsOfSectors(first: number, end: number, regionCount: number): RegionRun {
  const regions = (sector: number): RegionIndex => Math.min(regionCount, sector * MAP_SECTOR_REGIONS);
  return { first: regions(first), end: regions(end) };
}

/**
 * Adds what lies on the disk from `startBytes` on to a map. Holes are passed over: the map of a petabyte has gigabytes, most of which were
 * never written. Returns the numbers of the damaged sectors, whose regions are all set now.
 *
 * What it reads may be in the page cache alone, even after a sync: after one that failed the kernel may have called pages clean that it never
 * wrote (rule L6), and the process that knew is gone. So it is all written back; the caller syncs before it believes any of it.
 */
export async function loadSectors(disk: Disk, startBytes: number, map: RegionMap): Promise<number[]> {
  const endBytes = sectorsOf(map.length) * SECTOR_BYTES;
  const damaged: number[] = [];
  // Extents need not begin on sectors, so that two may share one.
  let nextSector = 0;
  for (let at = 0; at < endBytes; ) {
    const extents = await disk.extents(startBytes + at, endBytes - at, EXTENTS_PER_CALL);
    for (const extent of extents) {
      const stop = at + extent.lengthBytes;
      if (!extent.zero) {
        const first = Math.max(nextSector, Math.floor(at / SECTOR_BYTES));
        nextSector = Math.ceil(stop / SECTOR_BYTES);
        await loadRange(disk, startBytes, map, first, nextSector, damaged);
      }
      at = stop;
    }
  }
  return damaged;
}

async function loadRange(
  disk: Disk,
  startBytes: number,
  map: RegionMap,
  first: number,
  end: number,
  damaged: number[],
): Promise<void> {
  for (let sector = first; sector < end; sector += SECTORS_PER_CALL) {
    const count = Math.min(SECTORS_PER_CALL, end - sector);
    const from = startBytes + sector * SECTOR_BYTES;
    const bytes = Buffer.allocUnsafe(count * SECTOR_BYTES);
    await disk.read(bytes, 0, bytes.length, from);
    for (let i = 0; i < count; i++) {
      const one = bytes.subarray(i * SECTOR_BYTES, (i + 1) * SECTOR_BYTES);
      if (!decodeSector(one, map, sector + i)) damaged.push(sector + i);
    }
    await writeBack(disk, bytes, from);
  }
}

/** Writes the sectors that are not blank, from the first of them to the last. */
async function writeBack(disk: Disk, bytes: Buffer, offsetBytes: number): Promise<void> {
  const blank = (at: number) => bytes.subarray(at, at + SECTOR_BYTES).equals(blankSector);
  let start = 0;
  let end = bytes.length;
  while (start < end && blank(start)) start += SECTOR_BYTES;
  while (end > start && blank(end - SECTOR_BYTES)) end -= SECTOR_BYTES;
  if (start < end) await disk.write(bytes, start, end - start, offsetBytes + start);
}
