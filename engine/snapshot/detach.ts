/**
 * Detaching a snapshot (rule S6): its own store is filled from the chain while it stays in use, and with a copy of everything it leaves the chain.
 * What it preserved stays behind as a nameless layer, for those who read through it.
 */
import type { GroupState, GroupVolume } from '../group-state.ts';
import type { RegionIndex } from '../units.ts';
import type { Layer } from './chain.ts';
import { changedSince } from './changes.ts';
import { createMap, type DetachedPart, DetachedSnapshot, detachedMapName } from './detached.ts';
import { addRegions, eachRegion, partOf, putRegion, readRegion, storeOf, syncStore } from './region-copy.ts';
import type { RegionStore } from './region-store.ts';

/** Regions copied in a step: so long others wait for the lane. */
const REGIONS_PER_STEP = 64;
/** Blank regions looked at in a step. Nothing is copied for them. */
const BLANK_REGIONS_PER_STEP = 65536;

/** Regions that are there, and all regions, of a snapshot that is being detached. */
export function detachProgress(state: GroupState, layer: Layer): { done: number; total: number } {
  let done = 0;
  let total = 0;
  for (const volume of state.volumes) {
    done += partOf(layer, volume).copied?.map.count ?? 0;
    total += state.regionCount(volume);
  }
  return { done, total };
}

/** Copies some regions; false when it has all of them. In the lane. */
export async function detachSome(state: GroupState, layer: Layer): Promise<boolean> {
  for (const volume of state.volumes) {
    const store = await storeOf(state, layer.id, partOf(layer, volume), volume, 'copied');
    const length = state.regionCount(volume);
    const first = store.map.nextClear(0);
    if (first >= length) continue;
    if (await skipBlank(state, layer, volume, store, first)) return true;
    const regions: RegionIndex[] = [];
    for (let at = first; at < length && regions.length < REGIONS_PER_STEP; ) {
      regions.push(at);
      at = at + 1 < length ? store.map.nextClear(at + 1) : length;
    }
    await eachRegion(state, regions, (region) => copy(state, layer, volume, store, region));
    await syncStore(store);
    await addRegions(store, regions);
    return true;
  }
  return false;
}

/** Where the snapshot is blank for long, that is noted and not copied: a sparse terabyte is detached in no time. */
async function skipBlank(
  state: GroupState,
  layer: Layer,
  volume: GroupVolume,
  store: RegionStore,
  first: RegionIndex,
): Promise<boolean> {
  const { regionBytes } = state;
  const length = state.regionCount(volume);
  const last = Math.min(length, first + BLANK_REGIONS_PER_STEP);
  const startBytes = first * regionBytes;
  const endBytes = Math.min(volume.sizeBytes, last * regionBytes);
  const [extent] = await state.reader.extents(volume, layer, startBytes, endBytes - startBytes, 1);
  if (extent?.zero !== true) return false;
  const reached = startBytes + extent.lengthBytes;
  const end = reached === volume.sizeBytes ? length : Math.floor(reached / regionBytes);
  if (end <= first) return false;
  await store.punch(startBytes, Math.min(end * regionBytes, volume.sizeBytes) - startBytes);
  await syncStore(store);
  await store.addRuns([{ first, end }]);
  return true;
}

async function copy(
  state: GroupState,
  layer: Layer,
  volume: GroupVolume,
  store: RegionStore,
  region: RegionIndex,
): Promise<void> {
  const content = await readRegion(state, volume, layer, region);
  await putRegion(store, content, region * state.regionBytes);
}

/**
 * It has everything: from here on it stands for itself. Nobody may be restoring from it; who is about to waits. Undefined when it was deleted
 * meanwhile. In the lane.
 */
export async function endDetach(state: GroupState, layer: Layer): Promise<DetachedSnapshot | undefined> {
  let release: () => void = () => {};
  layer.held = new Promise((resolve) => {
    release = resolve;
  });
  try {
    return await becomeDetached(state, layer);
  } finally {
    layer.held = undefined;
    release();
  }
}

async function becomeDetached(state: GroupState, layer: Layer): Promise<DetachedSnapshot | undefined> {
  await state.settleRecord();
  const parts: DetachedPart[] = [];
  const closeMaps = async (): Promise<void> => {
    for (const part of parts) await part.changed.disk.close();
  };
  try {
    for (const volume of state.volumes) {
      const { copied, modified } = partOf(layer, volume);
      // One that was deleted is not filled to its end.
      if (copied === undefined) break;
      const mapName = detachedMapName(layer.id, volume.name, 'changed', layer.id);
      const runs = changedSince(state, volume, layer).runs();
      const changed = await createMap(state, mapName, state.regionCount(volume), runs);
      parts.push({ copied, modified, changed });
    }
  } catch (error) {
    await closeMaps();
    throw error;
  }
  // It may have been deleted meanwhile: what there is of it goes with the layer then.
  const { id, name, recordedName, lsn, createdAt, local, undoOf } = layer;
  if (name === null || recordedName === null) {
    layer.detaching = false;
    await closeMaps();
    await removeMaps(state, layer);
    return undefined;
  }
  const identity = { id, name, lsn, createdAt, local, epoch: id, undoOf };
  const snapshot = new DetachedSnapshot(state.volumes, identity, parts);
  snapshot.recordedName = recordedName;
  const layerParts = layer.parts.map(({ copied, modified }) => ({ copied, modified }));
  const set = (detached: boolean): void => {
    layer.name = detached ? null : snapshot.name;
    layer.recordedName = detached ? null : snapshot.recordedName;
    layer.detaching = !detached;
    layer.parts.forEach((part, index) => {
      part.copied = detached ? undefined : layerParts[index]?.copied;
      part.modified = detached ? undefined : layerParts[index]?.modified;
    });
    if (detached) state.detached.push(snapshot);
    else state.detached.pop();
  };
  set(true);
  try {
    await state.writeRecord(state.checkpointLsn);
  } catch (error) {
    set(false);
    await closeMaps();
    throw error;
  }
  return snapshot;
}

/** The maps of one that was deleted. What stays behind is named by nothing, and goes when the group is opened. */
async function removeMaps(state: GroupState, layer: Layer): Promise<void> {
  for (const volume of state.volumes) {
    const name = detachedMapName(layer.id, volume.name, 'changed', layer.id);
    await state.folder.remove(name).catch(() => {});
  }
}
