/**
 * A region map on a disk, of which memory shows exactly what is durable (rules S1, T3: a bit that sends readers elsewhere is set for them only
 * once no crash can take it back, and it points to something). `set` and `clear` go to the disk first.
 *
 * Some maps have to be durable only before a checkpoint passes (what changed on a detached snapshot, rule S6): `mark` and `unmark` change memory
 * at once, and `flush` makes that durable. A map is used the one way or the other; where both happen nothing breaks, but memory is ahead.
 *
 * After a change that failed, the disk may have any part of it. The sectors concerned count as dirty, so that the next `flush` puts them back to
 * what memory has. A damaged sector counts as all set, its regions are `doubtful`, and it stays damaged whatever is written into it: the doubt
 * must not be gone at the next start.
 */
import type { Disk } from '../disk/disk.ts';
import { turnstile } from '../disk/turnstile.ts';
import { assert, EngineError } from '../errors.ts';
import { MAP_SECTOR_REGIONS, SECTOR_BYTES, seal, spoil } from '../formats.ts';
import type { RegionIndex } from '../units.ts';
import { encodeSectors } from './map-format.ts';
import { loadSectors, regionsOfSectors, SECTORS_PER_CALL, sectorsBytes, sectorsOf } from './map-sectors.ts';
import { RegionMap, type RegionMapView, type RegionRun } from './region-map.ts';

/** Where the bits of a sector begin, behind its checksum and its number. */
const BITS_OFFSET_BYTES = SECTOR_BYTES - MAP_SECTOR_REGIONS / 8;

export class DurableMap {
  readonly #disk: Disk;
  readonly #startBytes: number;
  readonly #map: RegionMap;
  /** A bit a sector: memory is ahead of the disk there, or a change of it failed. */
  #dirty: RegionMap;
  readonly #damaged: ReadonlySet<number>;
  /** Changes go one after the other, each on what the one before it left. */
  readonly #inTurn = turnstile(1);

  private constructor(disk: Disk, startBytes: number, map: RegionMap, damaged: readonly number[]) {
    this.#disk = disk;
    this.#startBytes = startBytes;
    this.#map = map;
    this.#dirty = new RegionMap(sectorsOf(map.length));
    this.#damaged = new Set(damaged);
  }

  /** What the map takes of the disk, in whole blocks. */
  static bytesFor(regionCount: number): number {
    return sectorsBytes(regionCount);
  }

  /** An empty map where the disk reads as zeroes. Nothing has to be written for that. */
  static blank(disk: Disk, startBytes: number, regionCount: number): DurableMap {
    return new DurableMap(disk, startBytes, new RegionMap(regionCount), []);
  }

  /** Reads a map, and makes sure that what it read is durable. `doubtful`: the regions of damaged sectors. Throws `corrupt` when it was cut short. */
  static async load(
    disk: Disk,
    startBytes: number,
    regionCount: number,
  ): Promise<{ map: DurableMap; doubtful: RegionRun[] }> {
    const endBytes = startBytes + DurableMap.bytesFor(regionCount);
    if (disk.sizeBytes < endBytes) {
      const what = `the file of a region map has ${disk.sizeBytes} bytes, and had ${endBytes}: put the whole back`;
      throw new EngineError('corrupt', what);
    }
    const bits = new RegionMap(regionCount);
    const damaged = await loadSectors(disk, startBytes, bits);
    await disk.sync();
    const map = new DurableMap(disk, startBytes, bits, damaged);
    const doubtful = damaged.map((sector) => regionsOfSectors(sector, sector + 1, regionCount));
    return { map, doubtful };
  }

  /** The durable bits; and those that were marked since the last flush. */
  get view(): RegionMapView {
    return this.#map;
  }

  /** Whether `flush` has anything to do. */
  get dirty(): boolean {
    return this.#dirty.count > 0;
  }

  /** Sets regions, in any order: on disk, durably, then in memory. Rejects with code `disk`, and memory is as it was. */
  set(regions: readonly RegionIndex[]): Promise<void> {
    return this.#inTurn(() => this.#change(runsOf(regions), true));
  }

  /** As `set`. The runs are in order and do not overlap. */
  setRuns(runs: readonly RegionRun[]): Promise<void> {
    return this.#inTurn(() => this.#change(runs, true));
  }

  /** Clears regions, in any order: on disk, durably, then in memory. Rejects with code `disk`, and memory is as it was. */
  clear(regions: readonly RegionIndex[]): Promise<void> {
    return this.#inTurn(() => this.#change(runsOf(regions), false));
  }

  /** As `clear`. The runs are in order and do not overlap. */
  clearRuns(runs: readonly RegionRun[]): Promise<void> {
    return this.#inTurn(() => this.#change(runs, false));
  }

  /** Sets regions `first` up to `end`, exclusive, in memory. */
  mark(first: RegionIndex, end: RegionIndex): void {
    if (this.#map.hasAll(first, end)) return;
    this.#map.setRange(first, end);
    this.#touch({ first, end });
  }

  /** Clears regions `first` up to `end`, exclusive, in memory. */
  unmark(first: RegionIndex, end: RegionIndex): void {
    if (this.#map.countRange(first, end) === 0) return;
    this.#map.clearRange(first, end);
    this.#touch({ first, end });
  }

  /** Makes durable what memory has. Rejects with code `disk`; everything that it had to do it still has to do then. */
  flush(): Promise<void> {
    return this.#inTurn(async () => {
      if (!this.dirty) return;
      // What is marked from here on is of the next flush.
      const due = this.#dirty;
      this.#dirty = new RegionMap(due.length);
      try {
        for (const sectors of due.runs()) await this.#write(sectors.first, sectors.end, [], true);
        await this.#disk.sync();
      } catch (error) {
        this.#dirty.or(due);
        throw error;
      }
    });
  }

  #touch(run: RegionRun): void {
    if (run.first === run.end) return;
    const { first, end } = sectorsTouched(run);
    this.#dirty.setRange(first, end);
  }

  async #change(runs: readonly RegionRun[], on: boolean): Promise<void> {
    const map = this.#map;
    const due = runs.filter(({ first, end }) =>
      on ? !map.hasAll(first, end) : map.countRange(first, end) > 0,
    );
    if (due.length === 0) return;
    try {
      for (const group of bySectors(due)) await this.#write(group.first, group.end, group.runs, on);
      await this.#disk.sync();
    } catch (error) {
      for (const run of due) this.#touch(run);
      throw error;
    }
    for (const { first, end } of due) {
      if (on) map.setRange(first, end);
      else map.clearRange(first, end);
    }
  }

  /** Writes sectors `first` up to `end`, exclusive, as memory has them, with the runs set or cleared. */
  async #write(first: number, end: number, runs: readonly RegionRun[], on: boolean): Promise<void> {
    // Each piece begins with the first run that reaches into it.
    let from = 0;
    for (let sector = first; sector < end; sector += SECTORS_PER_CALL) {
      const count = Math.min(SECTORS_PER_CALL, end - sector);
      const bytes = Buffer.alloc(count * SECTOR_BYTES);
      encodeSectors(bytes, this.#map, sector);
      const piece = regionsOfSectors(sector, sector + count, this.#map.length);
      while ((runs[from]?.end ?? piece.end) <= piece.first) from++;
      for (let at = from; at < runs.length; at++) {
        const run = runs[at];
        if (run === undefined || run.first >= piece.end) break;
        applyRun(bytes, piece, run, on);
      }
      for (let i = 0; i < count; i++) {
        const one = bytes.subarray(i * SECTOR_BYTES, (i + 1) * SECTOR_BYTES);
        if (runs.length > 0) seal(one);
        if (this.#damaged.has(sector + i)) spoil(one);
      }
      const offsetBytes = this.#startBytes + sector * SECTOR_BYTES;
      if (!this.#disk.tryWrite(bytes, 0, bytes.length, offsetBytes))
        await this.#disk.write(bytes, 0, bytes.length, offsetBytes);
    }
  }
}

/** The sectors that a run's bits lie in, `end` exclusive. */
function sectorsTouched(run: RegionRun): { first: number; end: number } {
  const first = Math.floor(run.first / MAP_SECTOR_REGIONS);
  return { first, end: Math.floor((run.end - 1) / MAP_SECTOR_REGIONS) + 1 };
}

/** Regions in any order, as runs. */
function runsOf(regions: readonly RegionIndex[]): RegionRun[] {
  const runs: { first: RegionIndex; end: RegionIndex }[] = [];
  for (const region of [...regions].sort((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last !== undefined && region <= last.end) last.end = region + 1;
    else runs.push({ first: region, end: region + 1 });
  }
  return runs;
}

interface SectorGroup {
  readonly first: number;
  end: number;
  readonly runs: RegionRun[];
}

/** Runs in order, grouped by stretches of adjacent sectors: each is one write. */
function bySectors(runs: readonly RegionRun[]): SectorGroup[] {
  const groups: SectorGroup[] = [];
  let lastRegion = 0;
  for (const run of runs) {
    assert(run.first >= lastRegion && run.end > run.first, 'the runs are in order');
    lastRegion = run.end;
    const { first, end } = sectorsTouched(run);
    const last = groups.at(-1);
    if (last === undefined || first > last.end) groups.push({ first, end, runs: [run] });
    else {
      last.end = Math.max(last.end, end);
      last.runs.push(run);
    }
  }
  return groups;
}

/** Sets or clears the bits of a run in encoded sectors that begin with region `piece.first`. */
function applyRun(bytes: Buffer, piece: RegionRun, run: RegionRun, on: boolean): void {
  const end = Math.min(run.end, piece.end) - piece.first;
  for (let at = Math.max(run.first, piece.first) - piece.first; at < end; ) {
    const sector = Math.floor(at / MAP_SECTOR_REGIONS);
    const bit = at - sector * MAP_SECTOR_REGIONS;
    const byte = sector * SECTOR_BYTES + BITS_OFFSET_BYTES + (bit >>> 3);
    if ((bit & 7) === 0 && end - at >= 8) {
      bytes[byte] = on ? 0xff : 0;
      at += 8;
    } else {
      const mask = 1 << (bit & 7);
      bytes[byte] = on ? (bytes[byte] ?? 0) | mask : (bytes[byte] ?? 0) & ~mask;
      at++;
    }
  }
}
