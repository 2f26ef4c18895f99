/**
 * Buffers of one size, used again: fresh allocations are what large replies cost.
 * The number lent out is bounded by the connections' limits; the number kept for later, here.
 */
export class BufferPool {
  readonly bufferBytes: number;
  readonly #keep: number;
  readonly #free: Buffer[] = [];
  #lent = 0;

  constructor(bufferBytes: number, keep: number) {
    this.bufferBytes = bufferBytes;
    this.#keep = keep;
  }

  /** Lends a buffer; its content is whatever it was. The borrower owns it until `giveBack`. */
  take(): Buffer {
    this.#lent += 1;
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(this.bufferBytes);
  }

  giveBack(buffer: Buffer): void {
    this.#lent -= 1;
    if (this.#free.length < this.#keep) this.#free.push(buffer);
  }

  /** Buffers lent out now. */
  get lent(): number {
    return this.#lent;
  }
}
