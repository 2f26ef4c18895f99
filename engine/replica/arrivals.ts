import type { Lsn } from '../units.ts';

/** Marks kept: an hour's delay is told to the second or so. */
const MAX_MARKS = 4096;

/** When what is in the log came: a bounded list of marks. Where two become one, the later time holds for both: nothing is applied too early. */
export class Arrivals {
  #marks: { readonly lsn: Lsn; readonly ms: number }[] = [];

  /** Everything below `lsn` has come by now. */
  note(lsn: Lsn, nowMs: number): void {
    if (this.#marks.at(-1)?.ms === nowMs) this.#marks.pop();
    this.#marks.push({ lsn, ms: nowMs });
    if (this.#marks.length > MAX_MARKS)
      this.#marks = this.#marks.filter((_, index) => index % 2 === 1 || index === this.#marks.length - 1);
  }

  /** The log goes on at `lsn`, as something that comes now. */
  restart(lsn: Lsn, nowMs: number): void {
    this.#marks = [{ lsn, ms: nowMs }];
  }

  /** What lies from `lsn` on is gone. */
  cut(lsn: Lsn): void {
    const kept = this.#marks.filter((mark) => mark.lsn < lsn);
    const next = this.#marks[kept.length];
    this.#marks = next === undefined ? kept : [...kept, { lsn, ms: next.ms }];
  }

  /** Below which LSN everything had come by then; undefined: nothing that is noted had. Marks up to it are forgotten, but for the last. */
  cameBy(ms: number): Lsn | undefined {
    const later = this.#marks.findIndex((mark) => mark.ms > ms);
    const count = later === -1 ? this.#marks.length : later;
    if (count > 1) this.#marks.splice(0, count - 1);
    return count === 0 ? undefined : this.#marks[0]?.lsn;
  }

  /** When the last below `lsn` had come; later than that at most. Undefined: that is not noted. */
  cameAt(lsn: Lsn): number | undefined {
    return this.#marks.find((mark) => mark.lsn >= lsn)?.ms;
  }

  /** When the first came that had not by then. */
  firstAfter(ms: number): number | undefined {
    return this.#marks.find((mark) => mark.ms > ms)?.ms;
  }
}
