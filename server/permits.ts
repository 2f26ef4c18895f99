import { assert } from '../engine/errors.ts';

/** Who holds permits. `lastProgressMs` tells a holder that moves from one that is stuck. */
export interface PermitHolder {
  readonly lastProgressMs: number;
  /** Closes it, so that its permits come back. */
  evict(reason: string): void;
}

interface Waiter {
  readonly bytes: number;
  readonly holder: PermitHolder;
  readonly granted: () => void;
  readonly sinceMs: number;
}

/**
 * Bytes for large requests, shared by all connections, first come first served: a bound on memory that is a setting.
 *
 * A permit is held from before the payload is received, or the data read, until the reply has left. A client may stop in the
 * middle for as long as it likes while nobody else needs the bytes (a paused virtual machine does); when somebody waits
 * for them longer than `stallTimeoutMs`, holders that have not moved for as long are closed.
 */
export class Permits {
  readonly totalBytes: number;
  readonly #stallTimeoutMs: number;
  readonly #held = new Map<PermitHolder, number>();
  #waiters: Waiter[] = [];
  #freeBytes: number;

  constructor(totalBytes: number, stallTimeoutMs: number) {
    this.totalBytes = totalBytes;
    this.#freeBytes = totalBytes;
    this.#stallTimeoutMs = stallTimeoutMs;
  }

  get freeBytes(): number {
    return this.#freeBytes;
  }

  get waiting(): number {
    return this.#waiters.length;
  }

  /** Bytes that the holder has now. */
  heldBy(holder: PermitHolder): number {
    return this.#held.get(holder) ?? 0;
  }

  /** Takes them if they are free and nobody was first. */
  tryAcquire(bytes: number, holder: PermitHolder): boolean {
    assert(bytes <= this.totalBytes, `${bytes} permits asked for of ${this.totalBytes}`);
    if (this.#waiters.length > 0 || bytes > this.#freeBytes) return false;
    this.#grant(bytes, holder);
    return true;
  }

  /** Queues for them; `granted` is called once, when they are the holder's. A holder waits for one thing at a time. */
  acquire(bytes: number, holder: PermitHolder, nowMs: number, granted: () => void): void {
    assert(bytes <= this.totalBytes, `${bytes} permits asked for of ${this.totalBytes}`);
    this.#waiters.push({ bytes, holder, granted, sinceMs: nowMs });
  }

  release(bytes: number, holder: PermitHolder): void {
    const held = this.#held.get(holder) ?? 0;
    assert(held >= bytes, 'permits given back that were not held');
    if (held === bytes) this.#held.delete(holder);
    else this.#held.set(holder, held - bytes);
    this.#freeBytes += bytes;
    this.#serve();
  }

  /** Forgets what a holder waits for; what it holds it gives back itself, by `release`. */
  cancel(holder: PermitHolder): void {
    this.#waiters = this.#waiters.filter((waiter) => waiter.holder !== holder);
    this.#serve();
  }

  /** Called now and then: closes holders that are stuck while others wait. Returns how many. */
  evictStuck(nowMs: number): number {
    const patient = this.#waiters.filter((waiter) => nowMs - waiter.sinceMs >= this.#stallTimeoutMs);
    const stuck = [...this.#held.keys()].filter(
      (holder) =>
        nowMs - holder.lastProgressMs >= this.#stallTimeoutMs &&
        // A holder that keeps only itself waiting may do so.
        patient.some((waiter) => waiter.holder !== holder),
    );
    for (const holder of stuck) {
      holder.evict(`made no progress for ${this.#stallTimeoutMs} ms while others waited for memory`);
    }
    return stuck.length;
  }

  #grant(bytes: number, holder: PermitHolder): void {
    this.#freeBytes -= bytes;
    this.#held.set(holder, (this.#held.get(holder) ?? 0) + bytes);
  }

  #serve(): void {
    for (let first = this.#waiters[0]; first !== undefined; first = this.#waiters[0]) {
      if (first.bytes > this.#freeBytes) return;
      this.#waiters.shift();
      this.#grant(first.bytes, first.holder);
      first.granted();
    }
  }
}
