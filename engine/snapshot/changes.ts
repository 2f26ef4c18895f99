/** What differs between two images of a group: the maps that a restore moves, and that backups ask for. */
import type { GroupState, GroupVolume } from '../group-state.ts';
import { RegionMap, type RegionMapView, type RegionRun } from '../map/region-map.ts';
import type { Lsn, RegionIndex } from '../units.ts';
import { Layer } from './chain.ts';
import type { DetachedSnapshot } from './detached.ts';

export type Image = Layer | DetachedSnapshot;

/**
 * Regions written through a snapshot: the snapshot with reference to the volume. What a refresh has still to bring was written before it, and is
 * gone. Outside the range, which is all of it unless told, the map may say anything.
 */
export function modifiedOf(
  image: Image,
  volumeIndex: number,
  first?: RegionIndex,
  end?: RegionIndex,
): RegionMapView | undefined {
  const modified = image.parts[volumeIndex]?.modified?.map;
  const toCome = image.kind === 'detached' ? image.refresh?.parts[volumeIndex]?.toCome : undefined;
  if (modified === undefined || toCome === undefined) return modified;
  const left = new RegionMap(modified.length);
  orInto(left, modified, first, end);
  for (const run of toCome.runs(first, end)) left.clearRange(run.first, run.end);
  return left;
}

/**
 * The volume with reference to a snapshot: regions that may differ from its image, as everybody sees the volume now. What is preserved, what a
 * restore since then still has to bring (rule T1), and what is logged and not yet applied (L2).
 */
export function changedSince(state: GroupState, volume: GroupVolume, image: Image): RegionMap {
  const map = new RegionMap(state.regionCount(volume));
  for (const view of mapsSince(state, volume, image)) orInto(map, view);
  for (const pending of pendingSince(volume, image)) map.or(pending);
  return map;
}

/** How many regions `changedSince` has. Looked at often, so that it makes no map. */
export function countChangedSince(state: GroupState, volume: GroupVolume, image: Image): number {
  const views = [...mapsSince(state, volume, image), ...pendingSince(volume, image)];
  const [first, ...others] = views.filter((view) => view instanceof RegionMap);
  return first === undefined ? 0 : first.countWith(others);
}

/** What a restore from it moves: preserved OR modified. */
export function restorationMap(state: GroupState, volume: GroupVolume, image: Image): RegionMap {
  const map = changedSince(state, volume, image);
  const modified = modifiedOf(image, volume.index);
  if (modified !== undefined) orInto(map, modified);
  return map;
}

/** A copy of the modified map. */
export function modifiedMap(state: GroupState, volume: GroupVolume, image: Image): RegionMap {
  const map = new RegionMap(state.regionCount(volume));
  const modified = modifiedOf(image, volume.index);
  if (modified !== undefined) orInto(map, modified);
  return map;
}

/**
 * Runs of regions from `first` up to `end` that may differ between what `from` shows and what `to` (undefined: the volume) shows, their own
 * writes included. It looks at the range by whole pages of the maps, and at nothing else.
 */
export function changedBetween(
  state: GroupState,
  volume: GroupVolume,
  from: Image,
  to: Image | undefined,
  first: RegionIndex,
  end: RegionIndex,
): RegionRun[] {
  if (to !== undefined && lsnOf(to) < lsnOf(from)) return changedBetween(state, volume, to, from, first, end);
  const below = to === undefined ? Number.POSITIVE_INFINITY : lsnOf(to);
  const views =
    to instanceof Layer && from instanceof Layer
      ? mapsBetween(state, volume, from, to)
      : mapsSince(state, volume, from);
  views.push(...volume.pending.regionsBetween(lsnOf(from), below));
  for (const image of [from, to]) {
    const modified = image === undefined ? undefined : modifiedOf(image, volume.index, first, end);
    if (modified !== undefined) views.push(modified);
  }
  const map = new RegionMap(state.regionCount(volume));
  for (const view of views) orInto(map, view, first, end);
  return [...map.runs(first, end)];
}

/** The LSN of what it shows: of a refresh from its record on. */
function lsnOf(image: Image): Lsn {
  return image.kind === 'detached' ? (image.refresh?.layer.lsn ?? image.lsn) : image.lsn;
}

/** What is logged since, and not yet applied. */
function pendingSince(volume: GroupVolume, image: Image): RegionMap[] {
  return volume.pending.regionsBetween(lsnOf(image), Number.POSITIVE_INFINITY);
}

/** The maps whose regions have changed since the snapshot, but for what is pending. */
function mapsSince(state: GroupState, volume: GroupVolume, image: Image): RegionMapView[] {
  const views: RegionMapView[] = [];
  if (image.kind === 'detached') {
    const part = image.parts[volume.index];
    // Until its refresh is applied the map is that of before; what has changed since the refresh is all pending.
    const isOld = image.refresh?.applied === false;
    if (part !== undefined && !isOld) views.push(part.changed.map.view);
  } else {
    const part = image.parts[volume.index];
    if (part !== undefined) views.push(part.changed);
  }
  return [...views, ...restoresBetween(state, volume, lsnOf(image), Number.POSITIVE_INFINITY)];
}

/** The same from one snapshot of the chain to a later one. */
function mapsBetween(state: GroupState, volume: GroupVolume, from: Layer, to: Layer): RegionMapView[] {
  const { nodes } = state.chain;
  const views: RegionMapView[] = [];
  for (const node of nodes.slice(nodes.indexOf(from), nodes.indexOf(to))) {
    const map =
      node.kind === 'layer' ? node.parts[volume.index]?.preserved?.map : node.parts[volume.index]?.toCome;
    if (map !== undefined) views.push(map);
  }
  return views;
}

/** Regions that restores after `above` and before `below` have still to bring. The undo snapshot of a restore has the same LSN, and comes before it. */
function restoresBetween(state: GroupState, volume: GroupVolume, above: Lsn, below: Lsn): RegionMapView[] {
  return state.chain.restores
    .filter((restore) => restore.lsn >= above && restore.lsn < below)
    .map((restore) => restore.parts[volume.index]?.toCome)
    .filter((map) => map !== undefined);
}

/** In the range, which is all of it unless told, and perhaps around it. */
function orInto(map: RegionMap, view: RegionMapView, first?: RegionIndex, end?: RegionIndex): void {
  if (view instanceof RegionMap) map.or(view, first, end);
  else for (const run of view.runs(first, end)) map.setRange(run.first, run.end);
}
