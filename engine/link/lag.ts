import type { Lsn } from '../units.ts';

/** Between two marks at least, at first; it doubles whenever there are too many. */
const SPACING_MS = 100;
const MAX_MARKS = 1024;

/** When records became durable: how old what waits is. Kept in memory; what was there at a start counts as of then. */
export class LagMarks {
  /** In order: what lies below `lsn` and not below that of the one before was durable at `atMs`. */
  #marks: { readonly lsn: Lsn; readonly atMs: number }[] = [];
  #spacingMs = SPACING_MS;

  /** The log is durable up to there. */
  note(lsn: Lsn, nowMs: number): void {
    const last = this.#marks.at(-1);
    if (last !== undefined && (lsn <= last.lsn || nowMs - last.atMs < this.#spacingMs)) {
      // It counts as of the mark before: older than it is, by the spacing at most.
      if (lsn > last.lsn) this.#marks[this.#marks.length - 1] = { lsn, atMs: last.atMs };
      return;
    }
    this.#marks.push({ lsn, atMs: nowMs });
    if (this.#marks.length < MAX_MARKS) return;
    this.#spacingMs *= 2;
    this.#marks = this.#marks.filter((_, index) => index % 2 === 1 || index === this.#marks.length - 1);
  }

  /** Nobody asks about what lies below it any more. */
  forget(lsn: Lsn): void {
    for (let first = this.#marks[0]; first !== undefined && first.lsn <= lsn; first = this.#marks[0])
      this.#marks.shift();
    if (this.#marks.length === 0) this.#spacingMs = SPACING_MS;
  }

  /** Age of the oldest record from `lsn` on, in ms; 0 when there is none. */
  ageMs(lsn: Lsn, nowMs: number): number {
    const oldest = this.#marks.find((mark) => mark.lsn > lsn);
    return oldest === undefined ? 0 : nowMs - oldest.atMs;
  }
}
