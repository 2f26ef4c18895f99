/**
 * Applies a control record, which is a barrier (rule L10): everything before it is durable in the volumes; then its effect and the checkpoint just past
 * it are one write of the group's record.
 */
import type { GroupState } from '../group-state.ts';
import type { ApplierQueue } from './applier-queue.ts';
import type { LogBatch } from './record.ts';

export interface BarrierHooks {
  /** Carries out a control record in memory and in files, so that `writeRecord` makes it durable; returns how to take it back. In the lane. */
  readonly prepareControl: (batch: LogBatch) => Promise<() => void>;
  /** A control record is applied, durably. */
  readonly controlApplied: (batch: LogBatch) => void;
  /** The lazily kept maps of what changed become durable, before a checkpoint. */
  readonly flushMaps: () => Promise<void>;
}

/** Applies the control record at the head of the queue, unless a volume has lost something meanwhile: that comes first. In the lane. */
export async function applyControl(
  state: GroupState,
  queue: ApplierQueue,
  hooks: BarrierHooks,
  batch: LogBatch,
): Promise<void> {
  const losses = state.volumeLosses;
  await state.syncVolumes();
  // What was lost is applied again first.
  if (losses !== state.volumeLosses) return;
  const takeBack = await hooks.prepareControl(batch);
  try {
    await hooks.flushMaps();
    await state.writeRecord(batch.endLsn);
  } catch (error) {
    takeBack();
    throw error;
  }
  queue.controlApplied(batch);
  hooks.controlApplied(batch);
}
