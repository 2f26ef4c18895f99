import type { Lsn } from '../units.ts';

const MAX_PLACES = 1024;

interface Place {
  readonly lsn: Lsn;
  /** Records below it, since the log was opened. */
  readonly records: number;
}

/**
 * How many records of the log lie where. Exact at the places that are noted; in between it is told by the share of the bytes. So it is wrong by what lies
 * between two places at most: what one sync has made durable, or, once there are too many places, a five-hundredth of all that anybody has still to get.
 */
export class RecordCounts {
  #places: Place[];
  /** Between two places at least, in sectors, but for the last. */
  #spacing = 0;

  /** Of what the log has by then nothing is known. */
  constructor(endLsn: Lsn, records: number) {
    this.#places = [{ lsn: endLsn, records }];
  }

  /** The log ends there, after so many records. */
  note(endLsn: Lsn, records: number): void {
    const last = this.#places.at(-1);
    const before = this.#places.at(-2);
    if (last !== undefined && endLsn <= last.lsn) return;
    if (last !== undefined && before !== undefined && last.lsn - before.lsn < this.#spacing)
      this.#places.pop();
    this.#places.push({ lsn: endLsn, records });
    if (this.#places.length > MAX_PLACES) this.#thin();
  }

  #thin(): void {
    const [first, end] = [this.#places[0], this.#places.at(-1)];
    if (first === undefined || end === undefined) return;
    this.#spacing = (end.lsn - first.lsn) / (MAX_PLACES / 2);
    let kept = first.lsn - this.#spacing;
    this.#places = this.#places.filter((place) => {
      if (place.lsn - kept < this.#spacing && place !== end) return false;
      kept = place.lsn;
      return true;
    });
  }

  /** Nobody asks about what lies below it any more. */
  forget(lsn: Lsn): void {
    const above = this.#places.findIndex((place) => place.lsn > lsn);
    const kept = above === -1 ? this.#places.length - 1 : above - 1;
    if (kept > 0) this.#places.splice(0, kept);
    if (this.#places.length === 1) this.#spacing = 0;
  }

  /** Records from `lsn` on, of a log that ends at `endLsn` after `records`. Undefined: it was there before the log was opened. */
  from(lsn: Lsn, endLsn: Lsn, records: number): number | undefined {
    if (lsn >= endLsn) return 0;
    const above = this.#places.findIndex((place) => place.lsn > lsn);
    const before = above === -1 ? this.#places.at(-1) : this.#places[above - 1];
    if (before === undefined) return undefined;
    const after = this.#places[above] ?? { lsn: endLsn, records };
    const share = (lsn - before.lsn) / (after.lsn - before.lsn);
    return Math.max(0, records - before.records - Math.round((after.records - before.records) * share));
  }
}
