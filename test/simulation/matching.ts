/** The model's snapshots against those that a group lists. */
import type { SnapshotView } from '../../engine/snapshots.ts';
import { Violation } from './image.ts';
import type { Machine } from './machine.ts';
import type { SnapshotModel } from './snapshot-model.ts';

/**
 * Whether a snapshot may be gone: because it was asked to go, or was never acknowledged; or because it was given up. Of a process that has died one
 * may not have been told.
 */
function mayBeGone(machine: Machine, snapshot: SnapshotModel, hasDied: boolean): boolean {
  if (snapshot.capturing || snapshot.leaving || machine.givenUp.has(snapshot.name)) return true;
  if (hasDied && snapshot.mayHaveLeftSince !== undefined) return true;
  return hasDied && machine.shortEver && machine.plan.onFull === 'give-up';
}

/**
 * Brings the model's snapshots in line with those that there are, after a refusal, or (`ended` is undefined) after a crash. Each that is there has to be
 * known, and each that was acknowledged has to be there. What is asked of those not in `ended` is under way still.
 */
export function matchSnapshots(
  machine: Machine,
  views: readonly SnapshotView[],
  ended: readonly SnapshotModel[] | undefined,
): void {
  const { model } = machine;
  const isOpen = (snapshot: SnapshotModel): boolean =>
    snapshot.isAsked && ended !== undefined && !ended.includes(snapshot);
  const left = new Set(model.snapshots.filter((snapshot) => !isOpen(snapshot)));
  for (const view of views) {
    const known = model.snapshots.find((snapshot) => snapshot.id === view.id);
    const fresh = model.snapshots.filter((snapshot) => snapshot.capturing && snapshot.name === view.name);
    // A detached one that was refreshed keeps its id, and has another place in the order.
    const moved = known !== undefined && known.lsn !== undefined && known.lsn !== view.lsn;
    const snapshot = (moved ? fresh[0] : known) ?? known ?? fresh.find((one) => !isOpen(one)) ?? fresh[0];
    if (snapshot === undefined)
      throw new Violation(
        '4',
        `there is a snapshot ${view.name} (${view.id}) that nobody took, or that was deleted`,
      );
    if (!isOpen(snapshot)) matchOne(machine, snapshot, view, ended === undefined);
    left.delete(snapshot);
  }
  for (const snapshot of left) {
    if (!mayBeGone(machine, snapshot, ended === undefined))
      throw new Violation('4', `snapshot ${snapshot.name} was acknowledged, and is gone`);
    model.forget(snapshot);
  }
}

/** `hasDied`: this is what a new process found in the group's record, which it wrote anew before anything else. */
function matchOne({ model }: Machine, snapshot: SnapshotModel, view: SnapshotView, hasDied: boolean): void {
  if (view.local !== snapshot.local)
    throw new Violation('4 (S7)', `snapshot ${view.name} was taken as local: ${snapshot.local}, and is not`);
  if (view.name === snapshot.nameToBe) snapshot.name = view.name;
  if (view.name !== snapshot.name)
    throw new Violation('4', `snapshot ${snapshot.name} is called ${view.name}, and nobody renamed it`);
  snapshot.nameToBe = undefined;
  snapshot.leaving = false;
  snapshot.detachAsked = false;
  if (hasDied) snapshot.mayHaveLeftSince = undefined;
  if (snapshot.capturing) model.snapshotTaken(snapshot, view.id);
  snapshot.lsn = view.lsn;
}
