import type { Clock } from '../clock.ts';

/** Keeps work to a rate: who has done more than its time allows waits for as long. Nothing is saved up while nobody works. */
export class Pace {
  readonly #clock: Clock;
  /** Done, and not allowed for yet. */
  #bytes = 0;
  #atMs: number;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#atMs = clock.nowMs();
  }

  /** How long to wait before the next piece, after one of `bytes`, at that rate, which may be another one each time; 0 bytes a second: no limit. */
  delayMs(bytes: number, bytesPerSecond: number): number {
    const nowMs = this.#clock.nowMs();
    const allowed = ((nowMs - this.#atMs) / 1000) * bytesPerSecond;
    this.#atMs = nowMs;
    this.#bytes = bytesPerSecond === 0 ? 0 : Math.max(0, this.#bytes - allowed) + bytes;
    return bytesPerSecond === 0 ? 0 : Math.ceil((this.#bytes / bytesPerSecond) * 1000);
  }
}
