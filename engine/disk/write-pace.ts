/** An inline write that takes longer than this, in milliseconds, was held up by the kernel: a copy of 1 MiB takes a tenth of it. */
export const HELD_UP_MS = 10;

/**
 * Whether writes may go into the page cache inline, on the thread that serves everybody.
 *
 * The kernel holds up a writer that dirties pages faster than the disk takes them: the write itself sleeps, up to 200 ms a call
 * (`balance_dirty_pages`). Inline, that would stall every client, readers too. So after one write that was held up all go to
 * the thread pool, where only its own client waits, until one of them goes through quickly again.
 *
 * A log writes inline only (`writeNow`) and takes no more while it is held up: it goes on once a sync says that the disk has caught up.
 */
export class WritePace {
  #heldUp = false;
  #heldUpNow = false;

  get mayWriteInline(): boolean {
    return !this.#heldUp && !this.#heldUpNow;
  }

  /** An inline write took so long. */
  wroteInline(tookMs: number): void {
    if (tookMs > HELD_UP_MS) this.#heldUp = true;
  }

  /** A write that had to be inline took so long. */
  wroteNow(tookMs: number): void {
    this.#heldUpNow = tookMs > HELD_UP_MS;
  }

  /** A sync has ended well. */
  synced(): void {
    this.#heldUpNow = false;
  }

  /** A write on the thread pool took so long, its wait for a thread included. */
  wroteOnPool(tookMs: number): void {
    if (tookMs < HELD_UP_MS) this.#heldUp = false;
  }
}
