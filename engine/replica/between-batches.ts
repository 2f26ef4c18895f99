/**
 * Layers that no record of the log makes: a secondary's log is its primary's, so what is its own is taken between two batches, with the checkpoint
 * there (rule S7). The guard of a resync is one (K9), a local snapshot another.
 */
import { EngineError } from '../errors.ts';
import type { GroupState, RecordChanges } from '../group-state.ts';
import type { Applier } from '../log/applier.ts';
import { Layer } from '../snapshot/chain.ts';
import type { Lsn } from '../units.ts';
import { replicaOf } from './replica-record.ts';

/**
 * Takes a layer at `lsn`: all below it is in the volumes, durably, and nothing above it is. One durable write, with what `changes` says of the record
 * besides; when it rejects there is no layer. In the lane.
 */
export async function takeLayer(
  state: GroupState,
  lsn: Lsn,
  what: { readonly name: string | null; readonly users: number },
  changes: (layer: Layer) => RecordChanges,
): Promise<Layer> {
  await state.settleRecord();
  const layer = newLayer(state, lsn, what);
  joinChain(state, layer);
  try {
    await state.writeRecord(lsn, changes(layer));
  } catch (error) {
    state.chain.remove(layer);
    throw error;
  }
  return layer;
}

/** An applied layer that is in no chain yet. */
export function newLayer(
  state: GroupState,
  lsn: Lsn,
  what: { readonly name: string | null; readonly users: number },
): Layer {
  // Whatever is logged from `lsn` on is above it, as above the record of any other snapshot.
  const below = Math.max(0, lsn - 1);
  const createdAt = new Date(state.clock.nowMs()).toISOString();
  const layer = new Layer(
    { id: state.newId(), lsn: below, name: what.name, createdAt, local: true },
    state.layerParts(),
  );
  layer.recordedName = what.name;
  layer.applied = true;
  layer.users = what.users;
  return layer;
}

export function joinChain(state: GroupState, layer: Layer): void {
  state.chain.append(layer);
  for (const volume of state.volumes) volume.pending.nodeAppended(layer.lsn);
}

/** A snapshot of this node's own, at the horizon. False when what is admitted is not all applied, durably. In the lane. */
export async function takeLocal(state: GroupState, applier: Applier, name: string): Promise<boolean> {
  refuseInside(state);
  const { horizonLsn } = replicaOf(state);
  if (!applier.isCaughtUp) return false;
  await applier.checkpoint();
  if (!applier.isCaughtUp || state.checkpointLsn !== horizonLsn) return false;
  await takeLayer(state, horizonLsn, { name, users: 0 }, () => ({}));
  return true;
}

/** Throws `unavailable` where there is no image of now to take (rule K9), or it may not be seen yet (K12). */
export function refuseInside(state: GroupState): void {
  const { resync, oldImage } = replicaOf(state);
  if (oldImage !== null)
    throw new EngineError(
      'unavailable',
      'this node shows the image from before a resynchronisation, until the apply delay has passed: wait for that, or thaw it',
    );
  if (resync === null) return;
  const what = 'this node is being resynchronised, and has no image of now: wait until it is done';
  throw new EngineError('unavailable', what);
}
