import { KIB } from '../engine/units.ts';

/** Capacities are multiples of this, plus room for a reply's header: clients ask for round sizes, so that little is wasted. */
const STEP_BYTES = 256 * KIB;
const HEADER_ROOM_BYTES = 4 * KIB;

interface Shelf {
  readonly free: Buffer[];
  /** Fewest free ones since the last `trim`: so many were needed by nobody. */
  leastFree: number;
}

/**
 * Buffers for large requests, used again: a fresh one costs a page fault for every 4 KiB of it, and an old one stays in memory until the
 * garbage collector finds it, whatever the permits say. How much is lent at a time is bounded by permits, which are counted in
 * capacities; what is kept besides never brings the sum above the same limit.
 */
export class LargeBuffers {
  readonly #limitBytes: number;
  readonly #shelves = new Map<number, Shelf>();
  #keptBytes = 0;
  #lentBytes = 0;

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes;
  }

  /** Lends a buffer of exactly that length; its content is whatever it was. The borrower owns it until `giveBack`. */
  take(lengthBytes: number): Buffer {
    const capacity = largeCapacity(lengthBytes);
    this.#lentBytes += capacity;
    const shelf = this.#shelves.get(capacity);
    const kept = shelf?.free.pop();
    if (shelf === undefined || kept === undefined) {
      this.#makeRoom();
      return Buffer.allocUnsafeSlow(capacity).subarray(0, lengthBytes);
    }
    shelf.leastFree = Math.min(shelf.leastFree, shelf.free.length);
    this.#keptBytes -= capacity;
    return kept.subarray(0, lengthBytes);
  }

  /** Takes back what `take` lent. */
  giveBack(lent: Buffer): void {
    const capacity = lent.buffer.byteLength;
    this.#lentBytes -= capacity;
    if (this.#lentBytes + this.#keptBytes + capacity > this.#limitBytes) return;
    let shelf = this.#shelves.get(capacity);
    if (shelf === undefined) {
      shelf = { free: [], leastFree: 0 };
      this.#shelves.set(capacity, shelf);
    }
    shelf.free.push(Buffer.from(lent.buffer, 0, capacity));
    this.#keptBytes += capacity;
  }

  /** Lets go of those that nobody has needed since the last call. */
  trim(): void {
    for (const [capacity, shelf] of this.#shelves) {
      this.#keptBytes -= shelf.leastFree * capacity;
      shelf.free.splice(0, shelf.leastFree);
      shelf.leastFree = shelf.free.length;
      if (shelf.free.length === 0) this.#shelves.delete(capacity);
    }
  }

  #makeRoom(): void {
    for (const [capacity, shelf] of this.#shelves) {
      while (this.#lentBytes + this.#keptBytes > this.#limitBytes && shelf.free.pop() !== undefined) {
        this.#keptBytes -= capacity;
      }
      shelf.leastFree = Math.min(shelf.leastFree, shelf.free.length);
      if (shelf.free.length === 0) this.#shelves.delete(capacity);
    }
  }

  /** Bytes kept and not lent. */
  get keptBytes(): number {
    return this.#keptBytes;
  }
}

/** Bytes of memory that a buffer of that length takes. */
export function largeCapacity(lengthBytes: number): number {
  return Math.ceil((lengthBytes - HEADER_ROOM_BYTES) / STEP_BYTES) * STEP_BYTES + HEADER_ROOM_BYTES;
}
