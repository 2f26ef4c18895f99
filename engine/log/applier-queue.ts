/**
 * What the applier has before it, in the order of the log, and how far it has come.
 *
 * A data batch goes through it like this: it is appended, and waits; it is applied, and is *retained*, because the volumes may still lose it; a
 * checkpoint covers it, and it is forgotten. When a sync of a volume fails, what is retained waits again (rule L6).
 */
import { assert } from '../errors.ts';
import type { GroupState } from '../group-state.ts';
import type { Lsn } from '../units.ts';
import type { LogBatch } from './record.ts';

export class ApplierQueue {
  readonly #state: GroupState;
  /** Batches not yet applied, in order. */
  readonly #batches: LogBatch[] = [];
  /** Data batches applied since the last checkpoint: those to apply again when a sync fails. */
  #retained: LogBatch[] = [];
  #appliedLsn: Lsn;
  /** A volume's sync has failed since the last step. */
  #lost = false;

  constructor(state: GroupState) {
    this.#state = state;
    this.#appliedLsn = state.checkpointLsn;
  }

  /** What is not yet applied, in order. */
  get batches(): readonly LogBatch[] {
    return this.#batches;
  }

  /** Up to where records are in the volumes. */
  get appliedLsn(): Lsn {
    return this.#appliedLsn;
  }

  /** Whether everything that was appended is applied. */
  get isCaughtUp(): boolean {
    return this.#batches.length === 0 && !this.#lost;
  }

  enqueue(batch: LogBatch): void {
    this.#batches.push(batch);
  }

  /** The unit is in the volumes, which show it from here on; who read before that has its payload until it has ended. */
  unitApplied(unit: readonly LogBatch[]): void {
    // What was lost meanwhile comes before this unit, and then this unit again.
    if (this.rewindIfLost()) return;
    for (const batch of unit) {
      for (const record of batch.records) this.#state.volumes[record.volumeIndex]?.pending.remove(record);
    }
    this.#batches.splice(0, unit.length);
    this.#retained.push(...unit);
    this.#appliedLsn = unit.at(-1)?.endLsn ?? this.#appliedLsn;
    // Nobody begins to use their memory from here on, not even who applies them again; those who do are waited for.
    for (const batch of unit) batch.bytes = undefined;
    void this.#state.readers.drained().then(() => {
      for (const batch of unit) this.#state.log.forget(batch);
    });
  }

  /** The control record at the head of the queue is applied, and the checkpoint just past it is durable. */
  controlApplied(batch: LogBatch): void {
    this.#batches.shift();
    this.#appliedLsn = batch.endLsn;
    this.#retained = [];
    this.#state.log.forget(batch);
  }

  /** The log goes on at `lsn`: everything before is durable in the volumes, or will not come. */
  jumpTo(lsn: Lsn): void {
    assert(this.isCaughtUp, 'nothing is left to apply');
    this.#retained = [];
    this.#appliedLsn = lsn;
  }

  /** A checkpoint is durable: what lies below it is never applied again. */
  checkpointed(lsn: Lsn): void {
    this.#retained = this.#retained.filter((batch) => batch.endLsn > lsn);
  }

  /**
   * A volume may have lost what it was given since its last sync: all since the checkpoint is pending again (L6). Readers see that at once; the
   * applier begins again at its next step.
   */
  volumeLost(): void {
    this.#lost = true;
    for (const volume of this.#state.volumes) {
      volume.disk.forgive();
      volume.pending.clear();
    }
    for (const batch of [...this.#retained, ...this.#batches]) {
      if (batch.control !== undefined)
        for (const volume of this.#state.volumes) volume.pending.nodeAppended(batch.lsn);
      for (const record of batch.records) this.#state.volumes[record.volumeIndex]?.pending.add(record);
    }
  }

  /** Whether it went back to the checkpoint. */
  rewindIfLost(): boolean {
    if (!this.#lost) return false;
    this.#lost = false;
    this.#batches.unshift(...this.#retained);
    this.#retained = [];
    this.#appliedLsn = this.#state.checkpointLsn;
    return true;
  }
}
