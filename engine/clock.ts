/**
 * Time, as the engine sees it: an interface, so that a simulator can stand in for it. Nothing in engine/ reads a clock or
 * sets a timer in any other way.
 */
export interface Clock {
  /** Milliseconds since the epoch. */
  nowMs(): number;
  /** Runs `run` once, not before `delayMs` have passed, unless cancelled first. */
  after(delayMs: number, run: () => void): Timer;
  /** Lets everybody else have a turn: for work in many steps, none of which waits. */
  turn(): Promise<void>;
}

export interface Timer {
  /** No effect once it has run. */
  cancel(): void;
}

/** The longest that a timer of Node's waits: beyond it, it fires at once. In milliseconds. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** The machine's clock. Its timers do not keep the process alive: what must be finished is finished by `close`. */
export const systemClock: Clock = {
  nowMs: () => Date.now(),
  after(delayMs, run) {
    let leftMs = delayMs;
    const next = (): NodeJS.Timeout => {
      const ms = Math.min(leftMs, MAX_TIMER_MS);
      leftMs -= ms;
      const runNext = (): void => {
        timer = next();
      };
      return setTimeout(leftMs > 0 ? runNext : run, ms).unref();
    };
    let timer = next();
    return { cancel: () => clearTimeout(timer) };
  },
  turn: () => new Promise((resolve) => setImmediate(resolve)),
};
