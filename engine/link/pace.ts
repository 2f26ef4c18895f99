import type { Clock } from '../clock.ts';

/** Keeps work to a rate: who has done more than its time allows waits for as long. Nothing is saved up while nobody works. */
export class Pace {
  readonly #clock: Clock;
  #dueMs = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** How long to wait before the next piece, after one of `bytes` at that rate; 0 bytes a second: no limit. */
  delayMs(bytes: number, bytesPerSecond: number): number {
    if (bytesPerSecond === 0) return 0;
    const nowMs = this.#clock.nowMs();
    this.#dueMs = Math.max(this.#dueMs, nowMs) + (bytes / bytesPerSecond) * 1000;
    return Math.ceil(this.#dueMs - nowMs);
  }
}
