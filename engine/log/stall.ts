/**
 * A disk refuses what the applier wants of it (it is full, say): the applier *stalls*. Nothing is lost, it tries again from time to time, the log fills,
 * and writers wait. What is full may be helped by giving up snapshots (rule S8).
 */
import type { Timer } from '../clock.ts';
import type { EngineError } from '../errors.ts';
import type { GroupState } from '../group-state.ts';

/** A stalled applier tries again after so long. */
const RETRY_MS = 1000;

export interface StallHooks {
  /** A disk is full (rule S8): whether something was given up, so that trying again makes sense. */
  readonly giveUp: () => Promise<boolean>;
  /** A stall has begun, or has another reason now. */
  readonly stalled: () => void;
}

export class Stall {
  readonly #state: GroupState;
  readonly #hooks: StallHooks;
  /** Called when it is time to try again. */
  readonly #wake: () => void;
  #reason: string | undefined;
  #retry: Timer | undefined;

  constructor(state: GroupState, hooks: StallHooks, wake: () => void) {
    this.#state = state;
    this.#hooks = hooks;
    this.#wake = wake;
  }

  /** Why nothing is applied at the moment, or undefined. */
  get reason(): string | undefined {
    return this.#reason;
  }

  /** Whether it is not yet time to try again. */
  get holds(): boolean {
    return this.#retry !== undefined;
  }

  /** A disk has refused. Returns whether to try again at once. */
  async refused(error: EngineError): Promise<boolean> {
    const full = error.errno === 'ENOSPC' || error.errno === 'EDQUOT';
    // What cannot be given up either leaves things as they are.
    if (full && (await this.#hooks.giveUp().catch(() => false))) return true;
    if (this.#reason === undefined) {
      this.#reason = error.message;
      const message = `applying the log is held, and tried again from time to time: ${error.message}`;
      this.#state.emit({ type: 'group.stalled', message, data: { errno: error.errno ?? null } });
    }
    this.#reason = error.message;
    this.#retry = this.#state.clock.after(RETRY_MS, () => {
      this.#retry = undefined;
      this.#wake();
    });
    this.#hooks.stalled();
    return false;
  }

  /** Something was applied. */
  recovered(): void {
    if (this.#reason === undefined) return;
    this.#reason = undefined;
    this.#state.emit({ type: 'group.resumed', message: 'applying the log goes on' });
  }

  /** Space was freed, or the like: it is tried again at once. */
  retryNow(): void {
    this.#retry?.cancel();
    this.#retry = undefined;
    this.#wake();
  }

  stop(): void {
    this.#retry?.cancel();
  }
}
