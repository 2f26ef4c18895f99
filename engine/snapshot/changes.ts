/** What differs between two images of a group: the maps that a restore moves, and that backups ask for. */
import type { GroupState, GroupVolume } from '../group-state.ts';
import { RegionMap, type RegionMapView, type RegionRun } from '../map/region-map.ts';
import type { Lsn, RegionIndex } from '../units.ts';
import { Layer } from './chain.ts';
import type { DetachedSnapshot } from './detached.ts';

export type Image = Layer | DetachedSnapshot;

/** Regions written through a snapshot: the snapshot with reference to the volume. What a refresh has still to bring was written before it, and is gone. */
export function modifiedOf(image: Image, volumeIndex: number): RegionMapView | undefined {
  const modified = image.parts[volumeIndex]?.modified?.map;
  const toCome = image.kind === 'detached' ? image.refresh?.parts[volumeIndex]?.toCome : undefined;
  if (modified === undefined || toCome === undefined) return modified;
  const left = new RegionMap(modified.length);
  for (const run of modified.runs()) {
    for (let region = run.first; region < run.end; region++) if (!toCome.has(region)) left.set(region);
  }
  return left;
}

/**
 * The volume with reference to a snapshot: regions that may differ from its image, as everybody sees the volume now. What is preserved, what a
 * restore since then still has to bring (rule T1), and what is logged and not yet applied (L2).
 */
export function changedSince(state: GroupState, volume: GroupVolume, image: Image): RegionMap {
  const map = new RegionMap(state.regionCount(volume));
  for (const view of mapsSince(state, volume, image)) orInto(map, view);
  for (const region of volume.pending.regionsAbove(lsnOf(image))) map.set(region);
  return map;
}

/** How many regions `changedSince` has. Looked at often, so that it makes no map. */
export function countChangedSince(state: GroupState, volume: GroupVolume, image: Image): number {
  const views = mapsSince(state, volume, image);
  const maps = views.filter((view) => view instanceof RegionMap);
  const [first, ...others] = maps;
  let count = first === undefined ? 0 : others.length === 0 ? first.count : first.countWith(others);
  for (const region of volume.pending.regionsAbove(lsnOf(image)))
    if (!views.some((view) => view.has(region))) count++;
  return count;
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
 * writes included.
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
  for (const image of [from, to]) {
    const modified = image === undefined ? undefined : modifiedOf(image, volume.index);
    if (modified !== undefined) views.push(modified);
  }
  const runs: { first: RegionIndex; end: RegionIndex }[] = [];
  for (let region = first; region < end; ) {
    const changed = isChanged(volume, views, region, lsnOf(from), below);
    const stop = changed ? region + 1 : nextChange(volume, views, region, end);
    const last = runs.at(-1);
    if (changed && last?.end === region) last.end = stop;
    else if (changed) runs.push({ first: region, end: stop });
    region = stop;
  }
  return runs;
}

/** The LSN of what it shows: of a refresh from its record on. */
function lsnOf(image: Image): Lsn {
  return image.kind === 'detached' ? (image.refresh?.layer.lsn ?? image.lsn) : image.lsn;
}

function isChanged(
  volume: GroupVolume,
  views: readonly RegionMapView[],
  region: RegionIndex,
  above: Lsn,
  below: Lsn,
): boolean {
  return views.some((view) => view.has(region)) || volume.pending.touches(region, above, below);
}

/** Where the next region that differs can be, at the earliest. */
function nextChange(
  volume: GroupVolume,
  views: readonly RegionMapView[],
  region: RegionIndex,
  end: RegionIndex,
): RegionIndex {
  if (!volume.pending.isEmpty) return region + 1;
  return Math.max(region + 1, Math.min(end, ...views.map((view) => view.nextSet(region))));
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

function orInto(map: RegionMap, view: RegionMapView): void {
  if (view instanceof RegionMap) map.or(view);
  else for (const run of view.runs()) map.setRange(run.first, run.end);
}
