/**
 * The acknowledgements of one session that wait for links, and for nothing else (rule K4). When the session is over nobody would hear of them: they wait no longer, so
 * that a client which comes and goes meanwhile leaves nothing behind that takes a place.
 */
export class HeldReplies {
  readonly #ends = new Set<() => void>();
  #closed = false;

  /** Resolves, or rejects, like `acknowledged`; and resolves when the session is over. */
  async wait(acknowledged: Promise<void>): Promise<void> {
    let end = (): void => {};
    const over = new Promise<void>((resolve) => {
      end = resolve;
    });
    this.#ends.add(end);
    if (this.#closed) end();
    try {
      await Promise.race([acknowledged, over]);
    } finally {
      this.#ends.delete(end);
    }
  }

  close(): void {
    this.#closed = true;
    for (const end of this.#ends) end();
  }
}
