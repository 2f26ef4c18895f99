/** What a restore moves: the volumes that it is about, the map of each, and how much that is. */
import { EngineError } from '../errors.ts';
import type { GroupState, GroupVolume } from '../group-state.ts';
import type { RegionMap } from '../map/region-map.ts';
import { restorationMap } from './changes.ts';
import type { Snapshot } from './control-effects.ts';
import { type SnapshotView, viewOf } from './snapshot-view.ts';

/** What a restore would move, or moves. */
export interface RestorePlan {
  readonly snapshot: SnapshotView;
  readonly volumes: readonly { readonly name: string; readonly regions: number; readonly bytes: number }[];
  readonly regions: number;
  readonly bytes: number;
}

export interface VolumeToRestore {
  readonly volume: GroupVolume;
  /** The regions to come. */
  readonly map: RegionMap;
}

/** The volume that was asked for; else those that the snapshot was taken to undo a restore of; else all. Throws `not-found`. */
export function volumesToRestore(
  state: GroupState,
  snapshot: Snapshot,
  name: string | undefined,
): GroupVolume[] {
  if (name !== undefined) return [volumeNamed(state, name)];
  return state.volumes.filter((volume) => snapshot.undoOf?.includes(volume.name) ?? true);
}

/** The same with their maps, as things stand. */
export function mapsToRestore(
  state: GroupState,
  snapshot: Snapshot,
  name: string | undefined,
): VolumeToRestore[] {
  return volumesToRestore(state, snapshot, name).map((volume) => ({
    volume,
    map: restorationMap(state, volume, snapshot),
  }));
}

export function planOf(state: GroupState, snapshot: Snapshot, maps: readonly VolumeToRestore[]): RestorePlan {
  const { regionBytes } = state;
  const volumes = maps.map(({ volume, map }) => {
    const lastIsShort = map.length > 0 && map.has(map.length - 1);
    const missing = lastIsShort ? map.length * regionBytes - volume.sizeBytes : 0;
    return { name: volume.name, regions: map.count, bytes: map.count * regionBytes - missing };
  });
  const sum = (of: 'regions' | 'bytes') => volumes.reduce((total, volume) => total + volume[of], 0);
  return { snapshot: viewOf(state, snapshot), volumes, regions: sum('regions'), bytes: sum('bytes') };
}

/** Throws `not-found`. */
export function volumeNamed(state: GroupState, name: string): GroupVolume {
  const volume = state.volumes.find((candidate) => candidate.name === name);
  if (volume !== undefined) return volume;
  throw new EngineError('not-found', `the group has no volume ${JSON.stringify(name)}`);
}
