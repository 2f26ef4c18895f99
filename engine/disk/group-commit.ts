import { EngineError, errnoOf } from '../errors.ts';

/**
 * One sync at a time, shared by all that wait for it. A sync covers only what was written before it began, so whoever
 * comes while one is under way waits for the next, with all others that come meanwhile: at most two syncs for anyone,
 * and as few syncs as the disk can do.
 *
 * Rule L6: after a failed sync none is tried again. The kernel marks pages clean that it could not write, so that a
 * second sync would succeed and the data be gone.
 */
export class GroupCommit {
  readonly #sync: () => Promise<void>;
  readonly #what: string;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;
  #failure: EngineError | undefined;

  /** `what` names the thing synced, for the message of a failure. */
  constructor(what: string, sync: () => Promise<void>) {
    this.#what = what;
    this.#sync = sync;
  }

  /** Why every further call rejects, once a sync has failed. */
  get failure(): EngineError | undefined {
    return this.#failure;
  }

  /** Resolves when everything written before the call is durable. */
  commit(): Promise<void> {
    if (this.#running === undefined) return this.#begin();
    this.#next ??= this.#running.then(
      () => this.#begin(),
      () => this.#begin(),
    );
    return this.#next;
  }

  #begin(): Promise<void> {
    this.#next = undefined;
    this.#running = this.#run().finally(() => {
      // When others wait, their sync has replaced this one by the time that anyone sees it.
      if (this.#next === undefined) this.#running = undefined;
    });
    return this.#running;
  }

  async #run(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      await this.#sync();
    } catch (cause) {
      const errno = errnoOf(cause) ?? 'EIO';
      this.#failure = new EngineError(
        'disk',
        `${this.#what}: a sync failed (${errno}), so that what was written before it may be lost; it is not tried again`,
        { errno, cause },
      );
      throw this.#failure;
    }
  }
}
