import { assert } from '../engine/errors.ts';
import type { BufferPool } from './buffer-pool.ts';

/** Takes bytes of `buffer` from `start`; returns up to where it took them. It keeps no reference to what it did not copy. */
export type Consume = (buffer: Buffer, start: number, end: number) => number;

/**
 * Where the bytes of one connection land, and who owns that memory.
 *
 * All connections read into one **shared** buffer: a read is parsed in the callback that brings it, before any other can
 * happen. What is left of it, the start of an incomplete request, moves to a **slab** lent to the connection, and the next read lands right
 * behind it; when all is consumed the slab goes back. A large payload is **diverted**: it lands straight in the buffer that the
 * consumer gave, which stays the consumer's.
 *
 * Invariant: memory that was handed to the socket (`nextBuffer`) stays this connection's until the next read has come, also
 * while the connection is paused and its held bytes are consumed. So a slab goes back only in `received`.
 *
 * The consumer leaves no more unconsumed than a slab holds besides one read of the shared buffer, unless it has asked for the connection
 * to be paused; then nothing is read. So a read always fits behind what is held.
 */
export class Receiver {
  readonly #shared: Buffer;
  readonly #slabs: BufferPool;
  readonly #consume: Consume;

  #slab: Buffer | null = null;
  /** Held bytes are `slab[start, end)`. */
  #start = 0;
  #end = 0;
  /** The buffer that the socket fills next. */
  #armed: Buffer;

  #target: Buffer | null = null;
  #targetFilled = 0;
  #targetDone: (() => void) | null = null;
  #discardBytes = 0;
  #foreign: Buffer | null = null;

  constructor(shared: Buffer, slabs: BufferPool, consume: Consume) {
    assert(slabs.bufferBytes > shared.length, 'a slab holds a partial request and a whole read');
    this.#shared = shared;
    this.#slabs = slabs;
    this.#consume = consume;
    this.#armed = shared;
  }

  /** Bytes received that the consumer has not taken. */
  get heldBytes(): number {
    return this.#end - this.#start;
  }

  /** The memory that the socket is to fill next; it is the socket's until `received`. */
  nextBuffer(): Buffer {
    this.#armed = this.#chooseBuffer();
    return this.#armed;
  }

  #chooseBuffer(): Buffer {
    if (this.#target !== null) return this.#target.subarray(this.#targetFilled);
    if (this.#slab === null) return this.#shared;
    if (this.#end + this.#shared.length > this.#slab.length) this.#compact(this.#slab);
    // No room for a whole read: the consumer has paused the connection, and will have made room when it reads again.
    if (this.#end === this.#slab.length) return this.#shared;
    return this.#slab.subarray(this.#end, Math.min(this.#slab.length, this.#end + this.#shared.length));
  }

  /** `byteCount` bytes have come, in the buffer given by `nextBuffer`. */
  received(byteCount: number): void {
    if (this.#target !== null) {
      this.#targetReceived(byteCount);
      return;
    }
    if (this.#armed !== this.#shared) {
      this.#end += byteCount;
      this.#offerHeld();
    } else if (this.heldBytes > 0) {
      this.#hold(this.#shared, 0, byteCount);
      this.#offerHeld();
    } else {
      const taken = this.#take(this.#shared, 0, byteCount);
      if (taken < byteCount) this.#hold(this.#shared, taken, byteCount);
    }
    if (this.#slab !== null && this.#start === this.#end) this.#dropSlab();
  }

  /**
   * The same for a socket that brings buffers of its own, which become ours: they are copied piece by piece into where `nextBuffer`
   * would have had them. What finds no room, because the consumer waits, is kept until `pump`.
   */
  receivedForeign(bytes: Buffer): void {
    this.#foreign = this.#foreign === null ? bytes : Buffer.concat([this.#foreign, bytes]);
    this.#feed();
  }

  /** Offers the held bytes to the consumer again: it can go on now. */
  pump(): void {
    this.#offerHeld();
    this.#feed();
  }

  /** Called by the consumer: throw away so many bytes after those it says it took. */
  discard(byteCount: number): void {
    this.#discardBytes += byteCount;
  }

  /**
   * Called by the consumer: the bytes after those it says it took belong into `target` from `filled`, and `done` is called
   * when it is full. The consumer has already copied what was there, so that nothing is held.
   */
  divert(target: Buffer, filled: number, done: () => void): void {
    assert(this.#target === null && filled < target.length, 'one payload is diverted at a time');
    this.#target = target;
    this.#targetFilled = filled;
    this.#targetDone = done;
  }

  /** The connection is over: gives everything back. */
  close(): void {
    this.#target = null;
    this.#targetDone = null;
    this.#foreign = null;
    if (this.#slab !== null) this.#dropSlab();
  }

  #offerHeld(): void {
    if (this.#slab !== null && this.heldBytes > 0) {
      this.#start = this.#take(this.#slab, this.#start, this.#end);
    }
  }

  #feed(): void {
    while (this.#foreign !== null && this.heldBytes + this.#shared.length <= this.#slabs.bufferBytes) {
      const room = this.nextBuffer();
      const count = this.#foreign.copy(room);
      this.#foreign = count < this.#foreign.length ? this.#foreign.subarray(count) : null;
      this.received(count);
    }
  }

  #targetReceived(byteCount: number): void {
    const target = this.#target;
    if (target === null) return;
    if (this.#armed === this.#shared || this.#armed.buffer !== target.buffer) {
      // The socket was paused when the payload was diverted, and still filled the buffer that it had.
      const count = Math.min(byteCount, target.length - this.#targetFilled);
      this.#armed.copy(target, this.#targetFilled, 0, count);
      this.#advanceTarget(target, count);
      if (count < byteCount) this.#hold(this.#armed, count, byteCount);
      this.#offerHeld();
      return;
    }
    this.#advanceTarget(target, byteCount);
  }

  #advanceTarget(target: Buffer, byteCount: number): void {
    this.#targetFilled += byteCount;
    if (this.#targetFilled < target.length) return;
    const done = this.#targetDone;
    this.#target = null;
    this.#targetDone = null;
    done?.();
  }

  #take(buffer: Buffer, from: number, end: number): number {
    let start = from;
    for (;;) {
      const skipped = Math.min(this.#discardBytes, end - start);
      this.#discardBytes -= skipped;
      start += skipped;
      if (start === end) return end;
      start = this.#consume(buffer, start, end);
      if (this.#discardBytes === 0) return start;
    }
  }

  #hold(from: Buffer, start: number, end: number): void {
    this.#slab ??= this.#slabs.take();
    if (this.#start === this.#end) {
      this.#start = 0;
      this.#end = 0;
    }
    if (this.#end + (end - start) > this.#slab.length) this.#compact(this.#slab);
    assert(this.#end + (end - start) <= this.#slab.length, 'the consumer left more than a slab holds');
    from.copy(this.#slab, this.#end, start, end);
    this.#end += end - start;
  }

  #compact(slab: Buffer): void {
    if (this.#start === 0) return;
    slab.copyWithin(0, this.#start, this.#end);
    this.#end -= this.#start;
    this.#start = 0;
  }

  #dropSlab(): void {
    if (this.#slab !== null) this.#slabs.giveBack(this.#slab);
    this.#slab = null;
    this.#start = 0;
    this.#end = 0;
  }
}
