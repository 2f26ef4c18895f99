/** Memory that batches are built in, one after the other. It is used again once all batches in it are forgotten. */
export interface Slab {
  readonly bytes: Buffer;
  /** Batches in it that are not forgotten. */
  batches: number;
}

/** Empty slabs kept for the next burst: so many that steady writing allocates nothing. */
const MAX_EMPTY_SLABS = 4;

export class SlabPool {
  readonly slabBytes: number;
  readonly #empty: Slab[] = [];
  /** Slabs with batches in them. */
  #used = 0;

  constructor(slabBytes: number) {
    this.slabBytes = slabBytes;
  }

  /** Memory held by batches, in bytes. Empty slabs do not count. */
  get usedBytes(): number {
    return this.#used * this.slabBytes;
  }

  /** An empty slab. */
  take(): Slab {
    return this.#empty.pop() ?? { bytes: Buffer.allocUnsafeSlow(this.slabBytes), batches: 0 };
  }

  /** Puts an empty slab back. */
  give(slab: Slab): void {
    if (this.#empty.length < MAX_EMPTY_SLABS) this.#empty.push(slab);
  }

  /** A batch begins in the slab. */
  enter(slab: Slab): void {
    if (slab.batches++ === 0) this.#used++;
  }

  /** A batch in the slab is forgotten. True when that was the last one. */
  leave(slab: Slab): boolean {
    slab.batches--;
    if (slab.batches > 0) return false;
    this.#used--;
    return true;
  }
}
