/**
 * Checkpoints: when they come, and how the applied position becomes durable. The volumes are synced; then the group's record gets the position (rule
 * L10). The log's space below it is given back in its own time: `freeing.ts`.
 */
import type { Timer } from '../clock.ts';
import type { GroupState } from '../group-state.ts';
import { LOG_SECTOR_BYTES, type Lsn, MIB } from '../units.ts';
import type { ApplierQueue } from './applier-queue.ts';

/**
 * A checkpoint at the latest after so many bytes of log, or a quarter of the ring; or so long after the last unit. The more writes it covers, the
 * fewer pages are written twice; after a crash so much is applied again.
 */
const CHECKPOINT_BYTES = 256 * MIB;
const CHECKPOINT_IDLE_MS = 1000;

export interface CheckpointHooks {
  /** The lazily kept maps of what changed become durable, before a checkpoint. */
  readonly flushMaps: () => Promise<void>;
  /** Whether writers wait for room in the log. */
  readonly writersWait: () => boolean;
  /** A checkpoint is durable. */
  readonly checkpointed: () => void;
}

export class Checkpoints {
  readonly #state: GroupState;
  readonly #queue: ApplierQueue;
  readonly #hooks: CheckpointHooks;
  /** Called when the applier may have something to do. */
  readonly #wake: () => void;
  #due = false;
  #idle: Timer | undefined;
  #aside: Promise<void> | undefined;

  constructor(state: GroupState, queue: ApplierQueue, hooks: CheckpointHooks, wake: () => void) {
    this.#state = state;
    this.#queue = queue;
    this.#hooks = hooks;
    this.#wake = wake;
  }

  /** Has one made as soon as there is nothing to apply. */
  soon(): void {
    this.#due = true;
    this.#wake();
  }

  /** Makes the applied position durable. In the lane. */
  async make(): Promise<void> {
    if (this.#queue.rewindIfLost()) this.#wake();
    const lsn = this.#queue.appliedLsn;
    const losses = this.#state.volumeLosses;
    await this.#state.syncVolumes();
    await this.#record(lsn, losses);
  }

  /** A unit was applied: begins one where it is due. The next units are applied beside its syncs; only the record is written in the lane. */
  afterUnit(): void {
    if (!this.#isDue() || this.#aside !== undefined) return;
    const lsn = this.#queue.appliedLsn;
    const losses = this.#state.volumeLosses;
    this.#aside = this.#state
      .syncVolumes()
      .then(() => this.#state.lane(() => this.#record(lsn, losses)))
      // What could not be made durable is in the log still: the next checkpoint covers it, or says why not.
      .catch(() => {})
      .finally(() => {
        this.#aside = undefined;
        this.#wake();
      });
  }

  #isDue(): boolean {
    const { log, checkpointLsn } = this.#state;
    const sinceBytes = (this.#queue.appliedLsn - checkpointLsn) * LOG_SECTOR_BYTES;
    const bound = Math.min(CHECKPOINT_BYTES, log.capacityBytes / 4);
    return sinceBytes >= bound || (this.#hooks.writersWait() && sinceBytes > 0);
  }

  /** There is nothing to apply: makes one, if somebody wants it or things have been so for long. In the lane. Returns whether it did. */
  async whenIdle(): Promise<boolean> {
    if (this.#aside !== undefined) return false;
    if (this.#queue.appliedLsn === this.#state.checkpointLsn) {
      this.#due = false;
      return false;
    }
    if (this.#due || this.#hooks.writersWait()) {
      this.#due = false;
      await this.make();
      return true;
    }
    this.#idle ??= this.#state.clock.after(CHECKPOINT_IDLE_MS, () => {
      this.#idle = undefined;
      this.soon();
    });
    return false;
  }

  /** Everything below `lsn` is in the volumes, durably, unless a sync has failed since there were so many `losses`. In the lane. */
  async #record(lsn: Lsn, losses: number): Promise<void> {
    if (losses !== this.#state.volumeLosses || lsn <= this.#state.checkpointLsn) return;
    await this.#hooks.flushMaps();
    await this.#state.writeRecord(lsn);
    this.#queue.checkpointed(lsn);
    this.#hooks.checkpointed();
  }

  /** None comes for being idle from here on. */
  stop(): void {
    this.#idle?.cancel();
  }

  /** Resolves when the one under way beside the units, if there is one, has ended. */
  async ended(): Promise<void> {
    await this.#aside;
  }
}
