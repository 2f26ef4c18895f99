import { EngineError, errnoOf } from '../errors.ts';
import { SharedRun } from '../shared-run.ts';

/**
 * Syncs of one disk, shared by all that wait for one: at most two for anyone, and as few as the disk can do.
 *
 * Rule L6: after a failed sync none is tried again. The kernel marks pages clean that it could not write, so that a
 * second sync would succeed and the data be gone.
 */
export class GroupCommit {
  readonly #run: SharedRun;
  #failure: EngineError | undefined;

  /** `what` names the thing synced, for the message of a failure. */
  constructor(what: string, sync: () => Promise<void>) {
    this.#run = new SharedRun(async () => {
      if (this.#failure !== undefined) throw this.#failure;
      try {
        await sync();
      } catch (cause) {
        const errno = errnoOf(cause) ?? 'EIO';
        const message =
          `${what}: a sync failed (${errno}), so that what was written before it may be lost; ` +
          'it is not tried again';
        this.#failure = new EngineError('disk', message, { errno, cause });
        throw this.#failure;
      }
    });
  }

  /** Why every further call rejects, once a sync has failed. */
  get failure(): EngineError | undefined {
    return this.#failure;
  }

  /** Everything written since the last sync that succeeded is written again, so that a sync says something once more (rule L6). */
  forgive(): void {
    this.#failure = undefined;
  }

  /** Resolves when everything written before the call is durable. */
  commit(): Promise<void> {
    return this.#run.join();
  }
}
