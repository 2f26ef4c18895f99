import { RegionMap } from '../map/region-map.ts';
import type { Lsn, RegionIndex } from '../units.ts';
import type { LogRecord } from './record.ts';

/** Memory of a record and its place in the index, in bytes, about. */
const ENTRY_BYTES = 320;

/** The regions that records between two neighbouring nodes of the chain touch. */
interface Epoch {
  /** Of the newest node when it began. */
  readonly nodeLsn: Lsn;
  /** LSNs of records: none of its own is outside. */
  readonly firstLsn: Lsn;
  lastLsn: Lsn;
  readonly regions: RegionMap;
}

/**
 * The records of one volume that are logged and not yet applied, by region: what every look-up lays over the volume (rule L2).
 *
 * A region's records are in the order of the log. One that a later record covers whole is left out, unless a node of the chain (a snapshot, a
 * restore) lies between the two: then somebody may look at the volume as it was in between.
 *
 * Nodes divide the records into epochs, each with a map of the regions that it touches: so that what is changed between two nodes, of a hundred
 * thousand regions, is found by words of 32 and not one by one.
 */
export class PendingIndex {
  readonly #regionBytes: number;
  readonly #regionCount: number;
  readonly #byRegion = new Map<RegionIndex, LogRecord[]>();
  /** Oldest first. All but the last have regions. */
  #epochs: Epoch[] = [];
  /** LSN of the newest node of the chain: records below it are not replaced. */
  #nodeLsn: Lsn = -1;
  #entries = 0;

  constructor(regionBytes: number, regionCount: number) {
    this.#regionBytes = regionBytes;
    this.#regionCount = regionCount;
  }

  get isEmpty(): boolean {
    return this.#byRegion.size === 0;
  }

  /** Memory that it takes, about, without payload. The maps of the epochs are left out: each is no more than those of the snapshots have. */
  get memoryBytes(): number {
    return this.#entries * ENTRY_BYTES;
  }

  /** A snapshot or restore was appended. */
  nodeAppended(lsn: Lsn): void {
    this.#nodeLsn = lsn;
  }

  /** Takes the newest record in. */
  add(record: LogRecord): void {
    const first = Math.floor(record.offsetBytes / this.#regionBytes);
    const last = Math.floor((record.offsetBytes + record.lengthBytes - 1) / this.#regionBytes);
    this.#epochOfNewest(record.batch.lsn).regions.setRange(first, last + 1);
    for (let region = first; region <= last; region++) {
      const records = this.#byRegion.get(region);
      if (records === undefined) {
        this.#byRegion.set(region, [record]);
        this.#entries++;
        continue;
      }
      const newest = records.at(-1);
      if (newest !== undefined && newest.batch.lsn > this.#nodeLsn && covers(record, newest))
        records[records.length - 1] = record;
      else {
        records.push(record);
        this.#entries++;
      }
    }
  }

  #epochOfNewest(lsn: Lsn): Epoch {
    const newest = this.#epochs.at(-1);
    if (newest?.nodeLsn === this.#nodeLsn) {
      newest.lastLsn = lsn;
      return newest;
    }
    if (newest?.regions.count === 0) this.#epochs.pop();
    const epoch: Epoch = {
      nodeLsn: this.#nodeLsn,
      firstLsn: lsn,
      lastLsn: lsn,
      regions: new RegionMap(this.#regionCount),
    };
    this.#epochs.push(epoch);
    return epoch;
  }

  /** The oldest record is applied: the volume itself shows it now. One that was replaced by a later one is not here any more. */
  remove(record: LogRecord): void {
    const first = Math.floor(record.offsetBytes / this.#regionBytes);
    const last = Math.floor((record.offsetBytes + record.lengthBytes - 1) / this.#regionBytes);
    const epoch = this.#epochs.find(({ lastLsn }) => lastLsn >= record.batch.lsn);
    for (let region = first; region <= last; region++) {
      const records = this.#byRegion.get(region);
      if (records === undefined || records[0] !== record) continue;
      this.#entries--;
      const next = records[1];
      if (next === undefined) this.#byRegion.delete(region);
      else records.shift();
      if (epoch !== undefined && (next === undefined || next.batch.lsn > epoch.lastLsn))
        epoch.regions.clear(region);
    }
    while (this.#epochs.length > 1 && this.#epochs[0]?.regions.count === 0) this.#epochs.shift();
  }

  /** Forgets all; who calls adds what is pending again, in order. */
  clear(): void {
    this.#byRegion.clear();
    this.#epochs = [];
    this.#entries = 0;
    this.#nodeLsn = -1;
  }

  /**
   * The records that show in a range, which lies in one region, to whom sees the LSNs `lsns`: pairs of bounds, both exclusive. In the order of
   * the log; empty when there are none.
   */
  inRegion(region: RegionIndex, lsns: readonly Lsn[], offsetBytes: number, lengthBytes: number): LogRecord[] {
    const records = this.#byRegion.get(region);
    if (records === undefined) return [];
    const endBytes = offsetBytes + lengthBytes;
    return records.filter(
      (record) =>
        record.offsetBytes < endBytes &&
        record.offsetBytes + record.lengthBytes > offsetBytes &&
        isWithin(record.batch.lsn, lsns),
    );
  }

  /** Whether any record touches a region. */
  has(region: RegionIndex): boolean {
    return this.#byRegion.has(region);
  }

  /**
   * Maps of the regions that records with an LSN between the two touch: they count as changed in every map (rule L2). The bounds, exclusive, are LSNs
   * of nodes, or beyond all. To be read only, and before a record comes or goes.
   */
  regionsBetween(above: Lsn, below: Lsn): RegionMap[] {
    return this.#epochs
      .filter(({ firstLsn, lastLsn }) => lastLsn > above && firstLsn < below)
      .map(({ regions }) => regions);
  }
}

function covers(record: LogRecord, other: LogRecord): boolean {
  return (
    record.offsetBytes <= other.offsetBytes &&
    record.offsetBytes + record.lengthBytes >= other.offsetBytes + other.lengthBytes
  );
}

function isWithin(lsn: Lsn, lsns: readonly Lsn[]): boolean {
  for (let at = 0; at < lsns.length; at += 2) {
    if (lsn > (lsns[at] ?? 0) && lsn < (lsns[at + 1] ?? 0)) return true;
  }
  return false;
}
