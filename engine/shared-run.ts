/**
 * One run of an action at a time, shared by all that wait for it. A run does only what was asked for before it began, so whoever
 * comes while one is under way waits for the next, with all others that come meanwhile.
 */
export class SharedRun {
  readonly #action: () => Promise<void>;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;

  constructor(action: () => Promise<void>) {
    this.#action = action;
  }

  /** Resolves, or rejects, with the first run that begins after the call. */
  join(): Promise<void> {
    if (this.#running === undefined) return this.#begin();
    const begin = () => this.#begin();
    this.#next ??= this.#running.then(begin, begin);
    return this.#next;
  }

  #begin(): Promise<void> {
    this.#next = undefined;
    this.#running = this.#run();
    return this.#running;
  }

  async #run(): Promise<void> {
    try {
      await this.#action();
    } finally {
      // Where others wait, theirs begins as soon as this promise settles; until then they still find this one.
      if (this.#next === undefined) this.#running = undefined;
    }
  }
}
