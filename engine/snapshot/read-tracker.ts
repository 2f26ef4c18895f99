/**
 * Knows which reads are under way, so that space is given back only when nobody who was sent there before still reads (rule T3).
 *
 * Reads begin in the current epoch. Who wants to free something makes it unreachable first, then waits for all epochs up to now.
 */
export class ReadTracker {
  #current: Epoch = new Epoch();
  readonly #older = new Set<Epoch>();

  begin(): Epoch {
    this.#current.reads++;
    return this.#current;
  }

  end(epoch: Epoch): void {
    epoch.reads--;
    if (epoch.reads > 0 || epoch === this.#current) return;
    this.#older.delete(epoch);
    epoch.over();
  }

  /** Resolves when every read that had begun before the call has ended. */
  async drained(): Promise<void> {
    if (this.#current.reads > 0) {
      this.#older.add(this.#current);
      this.#current = new Epoch();
    }
    await Promise.all([...this.#older].map((epoch) => epoch.ended));
  }
}

class Epoch {
  reads = 0;
  over: () => void = () => {};
  readonly ended: Promise<void>;

  constructor() {
    this.ended = new Promise((resolve) => {
      this.over = resolve;
    });
  }
}
