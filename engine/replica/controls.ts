/**
 * What the control records of a primary are on its secondary. Pure, but for the events that it tells.
 *
 * Most are what they are there. Local snapshots and rounds of links are that node's alone (rules S7, K7). A snapshot that this node cannot have is
 * *absent*, and whatever names it later is void (S5): the applier never stops on one. A snapshot whose LSN lies inside a resync does not exist (K9).
 */
import type { Control, RefreshControl, RestoreControl, SnapshotControl } from '../control-record.ts';
import type { GroupState } from '../group-state.ts';
import { type ControlEffects, type Snapshot, UNDO_NAME } from '../snapshot/control-effects.ts';
import { MAX_SNAPSHOTS } from '../snapshots.ts';

/** The record as it is carried out here; null: it does nothing. */
export function onSecondary(state: GroupState, effects: ControlEffects, control: Control): Control | null {
  switch (control.type) {
    case 'round':
    // One that this node's primary asked for is looked at before: see `Verifying`.
    case 'verify':
      return null;
    case 'snapshot':
      return control.local ? null : snapshotOn(state, effects, control);
    case 'delete':
    case 'detach':
      return named(effects, control.id) === undefined ? null : control;
    case 'rename': {
      const other = effects.find(control.name);
      if (named(effects, control.id) === undefined) return null;
      if (other === undefined || other.id === control.id) return control;
      absent(state, control.name, 'another one has that name here');
      return { type: 'delete', id: control.id };
    }
    case 'refresh':
      return refreshOn(state, effects, control);
    case 'restore':
      return restoreOn(effects, control);
  }
}

function snapshotOn(state: GroupState, effects: ControlEffects, control: SnapshotControl): Control | null {
  const why = absence(state, effects, control.name);
  if (why === undefined) return control;
  absent(state, control.name, why);
  return null;
}

function absence(state: GroupState, effects: ControlEffects, name: string): string | undefined {
  if (state.record.replica?.resync != null) return 'it was taken while this node was being resynchronised';
  if (effects.find(name) !== undefined) return 'another one has that name here';
  if (effects.named.length >= MAX_SNAPSHOTS) return `there are ${MAX_SNAPSHOTS} here already`;
  return undefined;
}

function refreshOn(state: GroupState, effects: ControlEffects, control: RefreshControl): Control | null {
  const snapshot = named(effects, control.id);
  if (snapshot === undefined) return null;
  const resyncs = state.record.replica?.resync != null;
  const why = resyncs
    ? 'it was refreshed while this node was being resynchronised'
    : hindrance(snapshot, control);
  if (why === undefined) return control;
  // What it was it is no more, and what it would be it cannot be.
  absent(state, snapshot.name ?? control.id, why);
  return { type: 'delete', id: control.id };
}

/** Why the refresh of a snapshot that is detached on the primary cannot be carried out here as things stand, or undefined. */
export function hindrance(snapshot: Snapshot, control: RefreshControl): string | undefined {
  if (snapshot.kind === 'detached')
    return snapshot.refresh === undefined || control.detached === false
      ? undefined
      : 'it was refreshed, and the refresh before has not ended here';
  // The id would be that of its copy, which goes on under it.
  const isDetached = control.detached ?? (snapshot.toBeDetached || snapshot.detaching);
  return isDetached ? 'it was refreshed, and is not detached here yet' : undefined;
}

/** What lost its name is on its way out: nothing happens to it any more. */
export function named(effects: ControlEffects, id: string): Snapshot | undefined {
  const snapshot = effects.byId(id);
  return snapshot?.name == null ? undefined : snapshot;
}

/** The undo snapshot of before gives way, also where it is not the one that the primary had. */
function restoreOn(effects: ControlEffects, control: RestoreControl): Control {
  const replaces = effects.find(UNDO_NAME)?.id ?? null;
  return { ...control, undo: { ...control.undo, replaces } };
}

function absent(state: GroupState, name: string, why: string): void {
  const message = `snapshot ${name} of the primary is absent here: ${why}`;
  state.emit({ type: 'snapshot.absent', message, data: { snapshot: name } });
}
