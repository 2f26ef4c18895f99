/**
 * Which batches the applier takes next: a control record alone, or data batches together as a *unit* (rule L10); and whether it is worth waiting for
 * a unit to grow.
 */
import type { Timer } from '../clock.ts';
import type { GroupState } from '../group-state.ts';
import { LOG_SECTOR_BYTES, type Lsn, MIB } from '../units.ts';
import type { LogBatch, LogRecord } from './record.ts';

/** A unit has at most so many bytes of zeroes and payload, or one batch: that long others wait for the lane. */
const UNIT_BYTES = 16 * MIB;
/** … and touches about so many regions that have to be copied first. */
const UNIT_REGIONS = 512;
/**
 * It is worth waiting for more, because a large unit is sorted, and what was written twice is applied once: until so many bytes of log are durable,
 * or for so long, or until somebody waits for what is logged to be applied.
 */
const PATIENCE_BYTES = 8 * MIB;
const PATIENCE_MS = 50;

export interface UnitChoiceHooks {
  /** Whether writers wait for room in the log. */
  readonly writersWait: () => boolean;
}

export class UnitChoice {
  readonly #state: GroupState;
  readonly #hooks: UnitChoiceHooks;
  /** Called when it has waited long enough: somebody is to `hurry`. */
  readonly #patienceOver: () => void;
  /** Records below it are applied without waiting for more. */
  #hurryLsn: Lsn = 0;
  #patience: Timer | undefined;

  constructor(state: GroupState, hooks: UnitChoiceHooks, patienceOver: () => void) {
    this.#state = state;
    this.#hooks = hooks;
    this.#patienceOver = patienceOver;
  }

  /** What to apply next of these: one control record, or a unit. Undefined while it is better to wait for more; empty when there is nothing. */
  next(batches: readonly LogBatch[]): LogBatch[] | undefined {
    const { unit, isFull } = this.#durable(batches);
    const [first] = unit;
    const isUnit = first !== undefined && first.control === undefined;
    return isUnit && !isFull && this.#isPatient(unit) ? undefined : unit;
  }

  /** Somebody waits: what is logged by now is applied without waiting for more. */
  hurry(): void {
    this.#hurryLsn = this.#state.log.endLsn;
  }

  stop(): void {
    this.#patience?.cancel();
  }

  /** One control record, or data batches up to the bounds; all of them durable in the log (L1). */
  #durable(batches: readonly LogBatch[]): { readonly unit: LogBatch[]; readonly isFull: boolean } {
    const { durableLsn } = this.#state.log;
    const unit: LogBatch[] = [];
    const copies = new Set<string>();
    let bytes = 0;
    for (const batch of batches) {
      if (batch.lsn >= durableLsn) return { unit, isFull: false };
      if (bytes > UNIT_BYTES || copies.size > UNIT_REGIONS) return { unit, isFull: true };
      if (batch.control !== undefined) return { unit: unit.length === 0 ? [batch] : unit, isFull: true };
      unit.push(batch);
      for (const record of batch.records) {
        bytes += record.lengthBytes;
        this.#addCopies(record, copies);
      }
    }
    return { unit, isFull: false };
  }

  /** The regions of a record that have to be copied before it is applied, as far as that can be told now. */
  #addCopies({ volumeIndex, offsetBytes, lengthBytes }: LogRecord, copies: Set<string>): void {
    const { chain, regionBytes } = this.#state;
    const receiver = chain.receiver();
    if (receiver < 0 && chain.restores.length === 0) return;
    const last = Math.floor((offsetBytes + lengthBytes - 1) / regionBytes);
    for (let region = Math.floor(offsetBytes / regionBytes); region <= last; region++) {
      const kept = receiver < 0 || chain.isPreserved(volumeIndex, region, receiver, chain.nodes.length);
      if (!kept) copies.add(`${volumeIndex} ${region}`);
    }
  }

  /** Whether to wait for more to come before a unit of these, which could be larger, is applied. */
  #isPatient(unit: readonly LogBatch[]): boolean {
    const from = unit[0]?.lsn ?? 0;
    const bytes = ((unit.at(-1)?.endLsn ?? from) - from) * LOG_SECTOR_BYTES;
    if (from < this.#hurryLsn || bytes >= PATIENCE_BYTES || this.#hooks.writersWait()) return false;
    this.#patience ??= this.#state.clock.after(PATIENCE_MS, () => {
      this.#patience = undefined;
      this.#patienceOver();
    });
    return true;
  }
}
