/**
 * Gives the log's space that nobody needs back (below the checkpoint, and what no link holds), in its own time: by a superblock, and only when nobody reads there any more (rules L7, T3).
 */
import type { GroupState } from '../group-state.ts';
import { LOG_SECTOR_BYTES } from '../units.ts';

/** Log space is freed when so large a share of the ring can be, or when writers wait. */
const FREE_SHARE = 1 / 8;
/** What a disk refused is tried again after so long. */
const RETRY_MS = 1000;

export interface FreeingHooks {
  /** Whether writers wait for room in the log. */
  readonly writersWait: () => boolean;
  /** Space was given back. */
  readonly freed: () => void;
}

export class Freeing {
  readonly #state: GroupState;
  readonly #hooks: FreeingHooks;
  #running: Promise<void> | undefined;
  #stopped = false;

  constructor(state: GroupState, hooks: FreeingHooks) {
    this.#state = state;
    this.#hooks = hooks;
  }

  /** Begins, once it is worth a write of the superblock. To be called after each checkpoint, and when somebody lets go of the log. */
  soon(): void {
    const { log, freeableLsn } = this.#state;
    const freeable = (freeableLsn - log.tailLsn) * LOG_SECTOR_BYTES;
    if (freeable <= 0 || this.#running !== undefined || this.#stopped || log.failure !== undefined) return;
    if (freeable < log.capacityBytes * FREE_SHARE && !this.#hooks.writersWait()) return;
    const { tailLsn } = log;
    this.#running = this.now().finally(() => {
      this.#running = undefined;
      // A checkpoint may have passed meanwhile. What a disk refuses is tried again after a while.
      if (log.tailLsn > tailLsn) this.soon();
      else if (!this.#stopped) this.#state.clock.after(RETRY_MS, () => this.soon());
    });
  }

  /** Gives all of it back, as soon as nobody reads there any more. A log that refuses has told why. */
  async now(): Promise<void> {
    const { log, freeableLsn, readers } = this.#state;
    this.#state.raiseLogFloor(freeableLsn);
    await readers.drained();
    await log.free(freeableLsn).catch(() => {});
    this.#hooks.freed();
  }

  /** Nothing begins by itself from here on. */
  stop(): void {
    this.#stopped = true;
  }

  /** Resolves when what is under way has ended. */
  async ended(): Promise<void> {
    await this.#running;
  }
}
