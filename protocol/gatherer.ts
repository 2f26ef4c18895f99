import { assert } from './assert.ts';

/**
 * Puts messages together from pieces that were cut anywhere: told how many bytes come next, it takes them from as many pieces as it
 * needs. It copies, so that what it hands out does not change when the caller uses its receive buffer again.
 */
export class Gatherer {
  #message: Buffer = Buffer.alloc(0);
  #filled = 0;
  #skip = 0;

  /** Starts a message of `lengthBytes`, which the caller has bounded. */
  expect(lengthBytes: number): void {
    this.#message = Buffer.allocUnsafe(lengthBytes);
    this.#filled = 0;
    this.#skip = 0;
  }

  /** Starts a message of `lengthBytes` that nobody wants: its bytes are dropped as they come. */
  discard(lengthBytes: number): void {
    this.#message = Buffer.alloc(0);
    this.#filled = 0;
    this.#skip = lengthBytes;
  }

  /** Takes from `bytes`, starting at `position`, what the message still lacks. Returns the position after it. */
  take(bytes: Uint8Array, position: number): number {
    assert(position <= bytes.length, 'a position behind the bytes received');
    const taken = Math.min(this.missingBytes, bytes.length - position);
    if (this.#skip > 0) {
      this.#skip -= taken;
    } else {
      this.#message.set(bytes.subarray(position, position + taken), this.#filled);
      this.#filled += taken;
    }
    return position + taken;
  }

  get missingBytes(): number {
    return this.#skip + this.#message.length - this.#filled;
  }

  /** The whole message; empty when it was discarded. The caller owns it. */
  get message(): Buffer {
    assert(this.missingBytes === 0, 'a message read before it is whole');
    return this.#message;
  }
}
