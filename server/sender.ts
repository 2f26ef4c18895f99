import type { Socket } from 'node:net';
import { assert } from '../engine/errors.ts';
import { KIB } from '../engine/units.ts';
import type { BufferPool } from './buffer-pool.ts';

/** A large reply is handed to the socket in pieces of this size. */
const PIECE_BYTES = 256 * KIB;

/**
 * Gathers the replies of a connection and sends them: all that one receive event caused leave in one write.
 *
 * Replies are written straight into the **batch**, a pooled buffer: `room(n)`, write at `used`, `advance(n)`. The batch
 * belongs to the sender; when it is sent it belongs to the socket until the socket has passed it on, and goes back to the pool then.
 * While the socket still has one, the next is filled up before it is sent, so that a client that takes its replies slowly
 * holds few buffers, however small the replies are.
 *
 * Nothing reaches the socket but through the **gate**: what the replies promise is made good there, once for all that leave together.
 */
export class Sender {
  readonly #socket: Socket;
  readonly #pool: BufferPool;
  readonly #progress: (byteCount: number) => void;
  #batch: Buffer | null = null;
  #used = 0;
  /** What the socket still has, oldest first: pooled buffers, or what to call for a buffer of somebody else. */
  readonly #sent: {
    readonly buffer: Buffer;
    readonly byteCount: number;
    readonly release: (() => void) | null;
  }[] = [];
  #socketBytes = 0;
  /** Something was not let through the gate: nothing leaves any more. */
  #shut = false;
  readonly #gate: () => boolean;
  #flushScheduled = false;
  readonly #flushNow = (): void => {
    this.#flushScheduled = false;
    this.flush();
  };
  readonly #written = (error?: Error | null): void => this.#onWritten(error);

  /**
   * `progress` is called when the socket has passed so many bytes on. `gate` is called before bytes are handed to the socket; when it
   * returns false they are dropped, and so is everything after them: whoever owns the gate ends the connection.
   */
  constructor(socket: Socket, pool: BufferPool, progress: (byteCount: number) => void, gate: () => boolean) {
    this.#socket = socket;
    this.#pool = pool;
    this.#progress = progress;
    this.#gate = gate;
  }

  /** Bytes gathered or handed to the socket, and not yet taken by the kernel. */
  get unsentBytes(): number {
    return this.#used + this.#socketBytes;
  }

  /** The batch, with room for `byteCount` bytes at `used`. */
  room(byteCount: number): Buffer {
    assert(byteCount <= this.#pool.bufferBytes, 'a reply larger than a batch');
    if (this.#batch !== null && this.#used + byteCount > this.#batch.length) this.flushAll();
    this.#batch ??= this.#pool.take();
    return this.#batch;
  }

  /** Where in the batch the next reply goes. */
  get used(): number {
    return this.#used;
  }

  /** The reply in the batch ends at `end`. */
  advance(end: number): void {
    this.#used = end;
  }

  /** Sends what is gathered, or sees to it that it leaves when the socket has passed on what it has. */
  flush(): void {
    if (this.#sent.length === 0) this.flushAll();
  }

  /** Sends what is gathered, whatever the socket has. */
  flushAll(): void {
    const batch = this.#batch;
    if (batch === null) return;
    if (this.#used === 0) {
      this.#pool.giveBack(batch);
      this.#batch = null;
      return;
    }
    const used = this.#used;
    this.#batch = null;
    this.#used = 0;
    this.#write(batch, batch.subarray(0, used), null);
  }

  /** Sends soon: replies that become ready in one turn of the event loop leave together. */
  flushSoon(): void {
    if (this.#flushScheduled) return;
    this.#flushScheduled = true;
    setImmediate(this.#flushNow);
  }

  /**
   * Sends a large buffer of somebody else, after what is gathered; `release` is called when the socket is done with it. It leaves in
   * pieces, so that progress is seen.
   */
  sendOwned(bytes: Buffer, release: () => void): void {
    this.flushAll();
    for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
      const piece = bytes.subarray(at, at + PIECE_BYTES);
      this.#write(piece, piece, at + PIECE_BYTES < bytes.length ? nothing : release);
    }
  }

  /** The connection is over: gives the batch back. What the socket has comes back through its callbacks. */
  close(): void {
    if (this.#batch !== null) this.#pool.giveBack(this.#batch);
    this.#batch = null;
    this.#used = 0;
  }

  #write(buffer: Buffer, bytes: Buffer, release: (() => void) | null): void {
    if (this.#shut || !this.#gate()) {
      this.#shut = true;
      this.#giveBack(buffer, release);
      return;
    }
    this.#sent.push({ buffer, byteCount: bytes.length, release });
    this.#socketBytes += bytes.length;
    this.#socket.write(bytes, this.#written);
  }

  /** Writes complete in order, also when the socket is destroyed: then all with an error. */
  #onWritten(error?: Error | null): void {
    const done = this.#sent.shift();
    assert(done !== undefined, 'the socket completed a write that was not made');
    this.#socketBytes -= done.byteCount;
    this.#giveBack(done.buffer, done.release);
    if (error) return;
    this.flush();
    this.#progress(done.byteCount);
  }

  #giveBack(buffer: Buffer, release: (() => void) | null): void {
    if (release === null) this.#pool.giveBack(buffer);
    else release();
  }
}

function nothing(): void {
  // A piece of a buffer that is still needed.
}
