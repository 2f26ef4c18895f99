/** What users are told of a snapshot. */
import type { GroupState } from '../group-state.ts';
import type { Lsn } from '../units.ts';
import { countChangedSince, modifiedOf } from './changes.ts';
import type { Snapshot } from './control-effects.ts';

export interface SnapshotView {
  readonly id: string;
  /** See `ImageSource`. */
  readonly imageId: string;
  readonly name: string;
  readonly lsn: Lsn;
  /** ISO 8601, UTC. */
  readonly createdAt: string;
  readonly local: boolean;
  /** Names of the volumes that it restores, where it was taken to undo a restore. */
  readonly undoOf: readonly string[] | undefined;
  readonly state: SnapshotStateName;
  readonly volumes: readonly {
    readonly name: string;
    /** The volume with reference to the snapshot: regions that may differ from its image. */
    readonly preservedRegions: number;
    /** The snapshot with reference to the volume: regions written through it. */
    readonly modifiedRegions: number;
  }[];
}

export type SnapshotStateName = 'attached' | 'detaching' | 'detached' | 'refreshing';

export function viewOf(state: GroupState, snapshot: Snapshot): SnapshotView {
  const detached = snapshot.kind === 'detached';
  // A refresh is seen from its record on, like everything else.
  const taken = (detached ? snapshot.refresh?.layer : undefined) ?? snapshot;
  return {
    id: snapshot.id,
    imageId: snapshot.imageId,
    name: snapshot.name ?? '',
    lsn: taken.lsn,
    createdAt: taken.createdAt,
    local: snapshot.local,
    undoOf: snapshot.undoOf,
    state: stateOf(snapshot),
    // Counted when somebody looks: who only wants names asks often.
    get volumes() {
      return figuresOf(state, snapshot);
    },
  };
}

export function stateOf(snapshot: Snapshot): SnapshotStateName {
  if (snapshot.kind === 'detached') return snapshot.refresh === undefined ? 'detached' : 'refreshing';
  return snapshot.detaching ? 'detaching' : 'attached';
}

function figuresOf(state: GroupState, snapshot: Snapshot): SnapshotView['volumes'] {
  return state.volumes.map((volume) => ({
    name: volume.name,
    preservedRegions: countChangedSince(state, volume, snapshot),
    modifiedRegions: modifiedOf(snapshot, volume.index)?.count ?? 0,
  }));
}
