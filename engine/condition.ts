/** Lets callers wait until something holds; whoever changes what it depends on says so. */
export class Condition {
  #waiters: { readonly holds: () => boolean; readonly resolve: () => void }[] = [];

  /** Resolves at once when `holds()` is true, else at the first `changed` at which it is. */
  until(holds: () => boolean): Promise<void> {
    if (holds()) return Promise.resolve();
    return new Promise((resolve) => this.#waiters.push({ holds, resolve }));
  }

  changed(): void {
    if (this.#waiters.length === 0) return;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) {
      if (waiter.holds()) waiter.resolve();
      else this.#waiters.push(waiter);
    }
  }
}
