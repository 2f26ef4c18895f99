/**
 * The map of the regions written since a volume was created, kept on disk so that after any crash or power cut it is a **superset**
 * of what was written; and nearly free on the path of a write.
 *
 * The map itself (*sectors*) is written in the background. What makes it sound is the **activity sector**: the volume is
 * divided into zones, and a zone's bit is durable before the first write into the zone. After a crash every region of an
 * active zone counts as written. So a write costs a look at its zone, and one sync (shared by all that wait) when the zone
 * was quiet.
 *
 * Two things hold at all times, and everything here serves them:
 *
 *   1. A zone that is active in memory is active on disk.
 *   2. Every bit set in a zone that is *not* active is durable in its sector of the map.
 *
 * Hence a write may mark and go on at once when its zone is active (1), or when all its bits are set already (2).
 *
 * A zone is retired in this order: (a) its pages are written as they stand, (b) the file is synced, (c) if none of
 * the pages has changed since (a) the zone is made inactive in memory, so that the next write has to ask, (d) the
 * activity sector is written and synced. Marks are set before their write begins, and bits are never cleared, so no write
 * in flight can be missed in (c). Activations and (d) go through one run at a time, each of which takes the state as it is then.
 *
 * A disk writes a sector whole or not at all, so that a sector is torn only by damage; then its checksum fails and
 * it counts as all written: a sector of the map for its regions, the activity sector or the headers for the whole volume.
 */
import type { Clock, Timer } from '../clock.ts';
import type { Disk } from '../disk/disk.ts';
import { EngineError } from '../errors.ts';
import {
  MAP_ACTIVITY_OFFSET_BYTES,
  MAP_BLOCK_BYTES,
  MAP_FLAG_ALL_WRITTEN,
  MAP_HEADERS,
  MAP_SECTOR_REGIONS,
  MAP_SECTORS_OFFSET_BYTES,
  SECTOR_BYTES,
} from '../formats.ts';
import { SharedRun } from '../shared-run.ts';
import type { RegionIndex } from '../units.ts';
import {
  decodeActivity,
  decodeHeaders,
  encodeActivity,
  encodeHeaders,
  encodeSectors,
  type MapIdentity,
  mapFileBytes,
  regionCount,
  zoneRegions,
} from './map-format.ts';
import { loadSectors, regionsOfSectors } from './map-sectors.ts';
import { PAGE_REGIONS, RegionMap, type RegionMapView, type RegionRun } from './region-map.ts';

/** Pause between two rounds of the background writer. */
const ROUND_DELAY_MS = 2000;
/** Pages of the map written in one round: 1.3 MB, and half a terabyte of volume at 64 KiB a region. */
const PAGES_PER_ROUND = 256;

export class MapFile {
  readonly #disk: Disk;
  readonly #clock: Clock;
  readonly #map: RegionMap;
  readonly #zoneRegions: number;
  readonly #zones: number;
  /** A byte for each zone: 1 when it is active, in memory and on disk. */
  readonly #active: Uint8Array;
  #activeCount = 0;
  /** Zones that writers wait for; bounded by the number of zones. */
  readonly #wanted = new Set<number>();
  readonly #activityRun = new SharedRun(() => this.#writeActivity());
  /** The last write of the activity sector failed: what is on disk may call zones active that are not. */
  #activityStale = false;
  readonly #activitySector = Buffer.alloc(SECTOR_BYTES);
  #timer: Timer | undefined;
  #round: Promise<unknown> | undefined;
  #closed = false;
  readonly #warnings: string[] = [];
  /** How often a failed sync was forgiven: what was written before is no more known to be durable after the next sync. */
  #forgiven = 0;
  #told = false;
  /** Called once when the map can no longer be kept durable, until it is forgiven; see `failure`. */
  onFailure: ((reason: string) => void) | undefined;

  private constructor(disk: Disk, identity: MapIdentity, clock: Clock) {
    this.#disk = disk;
    this.#clock = clock;
    this.#map = new RegionMap(regionCount(identity));
    this.#zoneRegions = zoneRegions(identity);
    this.#zones = Math.ceil(this.#map.length / this.#zoneRegions);
    this.#active = new Uint8Array(this.#zones);
  }

  /**
   * Makes a map in a new, blank disk of `mapFileBytes`. `allWritten` for a volume whose content is older than its map. Durable when the
   * promise resolves.
   */
  static async create(
    disk: Disk,
    identity: MapIdentity,
    clock: Clock,
    options: { allWritten: boolean },
  ): Promise<MapFile> {
    const file = new MapFile(disk, identity, clock);
    await file.#writeHeaders(identity, options.allWritten ? MAP_FLAG_ALL_WRITTEN : 0);
    await file.#writeActivity();
    if (options.allWritten) file.#setAll();
    return file;
  }

  /** Opens a map. Throws `corrupt` when it is another volume's; damage makes it larger, and is told in `warnings`. */
  static async open(disk: Disk, identity: MapIdentity, clock: Clock): Promise<MapFile> {
    if (disk.sizeBytes < mapFileBytes(identity))
      throw new EngineError('corrupt', `the map file has ${disk.sizeBytes} bytes, too few for its volume`);
    const file = new MapFile(disk, identity, clock);
    // What this process reads may still be in the page cache only, from one that was killed.
    await disk.sync();
    const headers = Buffer.alloc(MAP_HEADERS * MAP_BLOCK_BYTES);
    await disk.read(headers, 0, headers.length, 0);
    const header = decodeHeaders(headers, identity);
    if (header === undefined) await file.#startOver(identity);
    else if ((header.flags & MAP_FLAG_ALL_WRITTEN) !== 0) file.#setAll();
    else await file.#load();
    file.#arm();
    return file;
  }

  get written(): RegionMapView {
    return this.#map;
  }

  /** Damage found when the file was opened, a line each. */
  get warnings(): readonly string[] {
    return this.#warnings;
  }

  /** Why no zone can be made active any more (rule L6), or undefined. */
  get failure(): EngineError | undefined {
    return this.#disk.failure;
  }

  /**
   * Lets the map be tried again after a sync that failed, where a mark that failed can be asked for again (rule L6). Sound, because everything that
   * was under way then counts as failed, and is written again: the activity sector is always written whole.
   */
  forgive(): void {
    this.#told = false;
    this.#forgiven++;
    this.#disk.forgive();
    this.#arm();
  }

  /** Marks regions `first` up to `end`, exclusive. False, and nothing done, when that has to wait for the disk: take `mark`. */
  tryMark(first: RegionIndex, end: RegionIndex): boolean {
    const lastZone = Math.floor((end - 1) / this.#zoneRegions);
    for (let zone = Math.floor(first / this.#zoneRegions); zone <= lastZone; zone++) {
      if (this.#active[zone] === 0) return this.#map.hasAll(first, end);
    }
    this.#map.setRange(first, end);
    return true;
  }

  /** As `tryMark`, after making the zones active. Rejects with code `disk` when the file cannot be written. */
  mark(first: RegionIndex, end: RegionIndex): Promise<void> {
    return this.markAll([{ first, end }]);
  }

  /** Marks all of these, with one wait for the disk, whatever the number of their zones. */
  async markAll(runs: readonly RegionRun[]): Promise<void> {
    for (let left = runs; ; ) {
      left = left.filter(({ first, end }) => !this.tryMark(first, end));
      if (left.length === 0) return;
      for (const run of left) this.#want(run);
      await this.#activityRun.join();
    }
  }

  #want({ first, end }: RegionRun): void {
    const lastZone = Math.floor((end - 1) / this.#zoneRegions);
    for (let zone = Math.floor(first / this.#zoneRegions); zone <= lastZone; zone++) {
      if (this.#active[zone] === 0) this.#wanted.add(zone);
    }
  }

  /** Writes the activity sector as it has to be now, with the zones that are wanted, and makes those active. */
  async #writeActivity(): Promise<void> {
    const wanted = [...this.#wanted];
    const forgiven = this.#forgiven;
    this.#activityStale = true;
    const bit = (zone: number) => this.#active[zone] === 1 || this.#wanted.has(zone);
    encodeActivity(this.#activitySector, this.#zones, bit);
    await this.#disk.write(this.#activitySector, 0, SECTOR_BYTES, MAP_ACTIVITY_OFFSET_BYTES);
    await this.#sync(forgiven);
    this.#activityStale = false;
    for (const zone of wanted) {
      this.#wanted.delete(zone);
      this.#setActive(zone, 1);
    }
    this.#arm();
  }

  #setActive(zone: number, active: 0 | 1): void {
    if (this.#active[zone] === active) return;
    this.#active[zone] = active;
    this.#activeCount += active === 1 ? 1 : -1;
  }

  /** Makes durable what was written since `#forgiven` was `forgiven`. */
  async #sync(forgiven: number): Promise<void> {
    try {
      await this.#disk.sync();
    } catch (error) {
      const first = !this.#told;
      this.#told = true;
      if (first) this.onFailure?.(error instanceof Error ? error.message : String(error));
      throw error;
    }
    if (forgiven !== this.#forgiven)
      throw new EngineError('disk', 'a sync of the region map failed meanwhile', { errno: 'EIO' });
  }

  /** Whether the next start would take more for written than was. */
  get #unsettled(): boolean {
    return this.#activeCount > 0 || this.#map.dirtyPageCount > 0 || this.#activityStale;
  }

  /** Has a round run soon, while there is something to write or to retire. */
  #arm(): void {
    if (this.#timer !== undefined || this.#closed || this.failure !== undefined) return;
    if (!this.#unsettled) return;
    this.#timer = this.#clock.after(ROUND_DELAY_MS, () => {
      this.#timer = undefined;
      this.#round ??= this.#runRound(true).finally(() => {
        this.#round = undefined;
        this.#arm();
      });
    });
  }

  /**
   * Writes some of the pages that changed, and retires zones: those that were quiet in this round when `onlyQuiet`, because one that is
   * being written would be needed again at once. A disk that refuses rejects nothing here: what could not be written stays active,
   * which is sound, and is tried in the next round; a failed sync was told by `onFailure`. False when it refused.
   */
  async #runRound(onlyQuiet: boolean): Promise<boolean> {
    const pages = this.#map.takeDirty(PAGES_PER_ROUND);
    const forgiven = this.#forgiven;
    try {
      for (const page of pages) await this.#writePage(page);
      if (pages.length > 0) await this.#sync(forgiven);
      const busy = new Set(onlyQuiet ? pages : []);
      if (this.#retire(busy) || this.#activityStale) await this.#activityRun.join();
      return true;
    } catch (error) {
      for (const page of pages) this.#map.markDirty(page);
      if (!(error instanceof EngineError)) throw error;
      return false;
    }
  }

  /** Step (c) above. Returns whether any zone was retired. */
  #retire(busy: ReadonlySet<number>): boolean {
    let any = false;
    for (let zone = 0; zone < this.#zones && this.#activeCount > 0; zone++) {
      if (this.#active[zone] === 0 || !this.#isQuiet(zone, busy)) continue;
      this.#setActive(zone, 0);
      any = true;
    }
    return any;
  }

  #isQuiet(zone: number, busy: ReadonlySet<number>): boolean {
    const firstRegion = zone * this.#zoneRegions;
    const lastRegion = Math.min(this.#map.length, firstRegion + this.#zoneRegions) - 1;
    const lastPage = Math.floor(lastRegion / PAGE_REGIONS);
    for (let page = Math.floor(firstRegion / PAGE_REGIONS); page <= lastPage; page++) {
      if (this.#map.isDirty(page) || busy.has(page)) return false;
    }
    return true;
  }

  /** Writes the sectors that a page's regions lie in: nine or ten of them. */
  async #writePage(page: number): Promise<void> {
    const firstRegion = page * PAGE_REGIONS;
    const lastRegion = Math.min(this.#map.length, firstRegion + PAGE_REGIONS) - 1;
    const first = Math.floor(firstRegion / MAP_SECTOR_REGIONS);
    const last = Math.floor(lastRegion / MAP_SECTOR_REGIONS);
    const bytes = Buffer.alloc((last - first + 1) * SECTOR_BYTES);
    encodeSectors(bytes, this.#map, first);
    await this.#disk.write(bytes, 0, bytes.length, MAP_SECTORS_OFFSET_BYTES + first * SECTOR_BYTES);
  }

  async #writeHeaders(identity: MapIdentity, flags: number): Promise<void> {
    const headers = encodeHeaders(identity, flags);
    await this.#disk.write(headers, 0, headers.length, 0);
    await this.#sync(this.#forgiven);
  }

  /** Neither header is intact, so nothing in the file can be believed. */
  async #startOver(identity: MapIdentity): Promise<void> {
    this.#warnings.push('the map file is damaged: every region counts as written from now on');
    await this.#writeHeaders(identity, MAP_FLAG_ALL_WRITTEN);
    this.#setAll();
  }

  /** Every region is written, and on disk the header says so: nothing is left to keep. */
  #setAll(): void {
    this.#map.setRange(0, this.#map.length);
    this.#map.takeDirty(this.#map.pageCount);
  }

  async #load(): Promise<void> {
    const sector = Buffer.alloc(SECTOR_BYTES);
    await this.#disk.read(sector, 0, SECTOR_BYTES, MAP_ACTIVITY_OFFSET_BYTES);
    const active = decodeActivity(sector);
    if (active === undefined)
      this.#warnings.push("the map file's activity sector is damaged: every region counts as written");
    await this.#loadMap();
    for (let zone = 0; zone < this.#zones; zone++) {
      const bits = active?.[zone >>> 3] ?? 0xff;
      if (((bits >>> (zone & 7)) & 1) === 0) continue;
      this.#setActive(zone, 1);
      const firstRegion = zone * this.#zoneRegions;
      this.#map.setRange(firstRegion, Math.min(this.#map.length, firstRegion + this.#zoneRegions));
    }
    // A damaged sector is not durably active, as (1) wants it; an intact one may be in the page cache alone, after a sync that failed in a
    // process that is gone (rule L6). This makes both durable, and the sectors that were read as well.
    await this.#writeActivity();
  }

  /** Loads the map as it was written last. */
  async #loadMap(): Promise<void> {
    const damaged = await loadSectors(this.#disk, MAP_SECTORS_OFFSET_BYTES, this.#map);
    // The bits that were read will be durable as they stand; those that stand for damage are to be written.
    this.#map.takeDirty(this.#map.pageCount);
    for (const number of damaged) {
      const { first, end } = regionsOfSectors(number, number + 1, this.#map.length);
      this.#map.markDirty(Math.floor(first / PAGE_REGIONS));
      this.#map.markDirty(Math.floor((end - 1) / PAGE_REGIONS));
    }
    if (damaged.length > 0)
      this.#warnings.push(`${damaged.length} sectors of the map are damaged: their regions count as written`);
  }

  /**
   * Writes what is left and retires all zones, so that the next start knows the map exactly; then closes the disk. Where that is not
   * possible the zones stay active, and the next start takes more for written than was. The caller has awaited its marks.
   */
  async close(): Promise<void> {
    this.#closed = true;
    this.#timer?.cancel();
    await this.#round;
    let going = this.failure === undefined;
    while (going && this.#unsettled) going = await this.#runRound(false);
    await this.#disk.close();
  }
}
