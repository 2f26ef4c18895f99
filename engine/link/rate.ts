/** Over so long, in pieces. */
const WINDOW_MS = 10_000;
const PIECE_MS = 500;
/** Of less than that no rate is told. */
const LEAST_MS = 1000;

/** How fast something goes: over the last ten seconds, or since it began to go after it had stood still for so long. */
export class Rate {
  /** In order; the last one is added to. */
  #pieces: { readonly atMs: number; amount: number }[] = [];
  #beganMs = 0;

  add(amount: number, nowMs: number): void {
    this.#forget(nowMs);
    if (this.#pieces.length === 0) this.#beganMs = nowMs;
    const last = this.#pieces.at(-1);
    if (last !== undefined && nowMs - last.atMs < PIECE_MS) last.amount += amount;
    else this.#pieces.push({ atMs: nowMs, amount });
  }

  /** Undefined where it cannot be told yet; 0: nothing went in that time. */
  perSecond(nowMs: number): number | undefined {
    this.#forget(nowMs);
    if (this.#pieces.length === 0) return 0;
    const ms = Math.min(WINDOW_MS, nowMs - this.#beganMs);
    if (ms < LEAST_MS) return undefined;
    const sum = this.#pieces.reduce((all, { amount }) => all + amount, 0);
    return (sum * 1000) / ms;
  }

  #forget(nowMs: number): void {
    const kept = this.#pieces.findIndex(({ atMs }) => atMs > nowMs - WINDOW_MS);
    if (kept !== 0) this.#pieces.splice(0, kept === -1 ? this.#pieces.length : kept);
  }
}
