import type { Lsn, RegionIndex } from '../units.ts';
import type { LogRecord } from './record.ts';

/**
 * The records of one volume that are logged and not yet applied, by region: what every look-up lays over the volume (rule L2).
 *
 * A region's records are in the order of the log. One that a later record covers whole is left out, unless a node of the chain (a snapshot, a
 * restore) lies between the two: then somebody may look at the volume as it was in between.
 */
/** Memory of a record and its place in the index, in bytes, about. */
const ENTRY_BYTES = 320;

export class PendingIndex {
  readonly #regionBytes: number;
  readonly #byRegion = new Map<RegionIndex, LogRecord[]>();
  /** LSN of the newest node of the chain: records below it are not replaced. */
  #nodeLsn: Lsn = -1;
  #entries = 0;

  constructor(regionBytes: number) {
    this.#regionBytes = regionBytes;
  }

  get isEmpty(): boolean {
    return this.#byRegion.size === 0;
  }

  /** Memory that it takes, about, without payload. */
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

  /** The oldest record is applied: the volume itself shows it now. One that was replaced by a later one is not here any more. */
  remove(record: LogRecord): void {
    const first = Math.floor(record.offsetBytes / this.#regionBytes);
    const last = Math.floor((record.offsetBytes + record.lengthBytes - 1) / this.#regionBytes);
    for (let region = first; region <= last; region++) {
      const records = this.#byRegion.get(region);
      if (records === undefined || records[0] !== record) continue;
      this.#entries--;
      if (records.length === 1) this.#byRegion.delete(region);
      else records.shift();
    }
  }

  /** Forgets all; who calls adds what is pending again, in order. */
  clear(): void {
    this.#byRegion.clear();
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

  /** The regions that records above `lsn` touch, in no order: they count as changed in every map (rule L2). */
  *regionsAbove(lsn: Lsn): IterableIterator<RegionIndex> {
    for (const [region, records] of this.#byRegion) {
      const newest = records.at(-1);
      if (newest !== undefined && newest.batch.lsn > lsn) yield region;
    }
  }

  /** Whether a record with an LSN between the two (exclusive) touches the region. */
  touches(region: RegionIndex, above: Lsn, below: Lsn): boolean {
    const records = this.#byRegion.get(region);
    return records?.some((record) => record.batch.lsn > above && record.batch.lsn < below) ?? false;
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
