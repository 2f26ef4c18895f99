/** Calls that are under way, so that whoever closes what they use can wait for the last of them. */
export class InFlight {
  #count = 0;
  #onIdle: (() => void) | undefined;

  /** The call, counted until it has ended. */
  async track<T>(call: Promise<T>): Promise<T> {
    this.#count++;
    try {
      return await call;
    } finally {
      this.#count--;
      if (this.#count === 0) this.#onIdle?.();
    }
  }

  /** Resolves when none is under way, at once where none is. One caller waits; who calls sees to it that no more begin. */
  async idle(): Promise<void> {
    if (this.#count > 0)
      await new Promise<void>((resolve) => {
        this.#onIdle = resolve;
      });
  }
}
