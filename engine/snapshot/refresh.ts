/**
 * Refreshing a detached snapshot (rule S6): it is the volume at the refresh's record at once, and copies in the background only what has changed
 * on either side since. Until a region is copied it is read through a layer that the record made for that.
 */
import type { RefreshControl } from '../control-record.ts';
import type { GroupState, GroupVolume } from '../group-state.ts';
import type { RegionIndex } from '../units.ts';
import type { Layer } from './chain.ts';
import { restorationMap } from './changes.ts';
import { changeMap, createMap, type DetachedSnapshot, detachedMapName, type MapOnDisk } from './detached.ts';
import { addRegions, eachRegion, putRegion, readRegion, syncStore } from './region-copy.ts';

/** Regions copied in a step: so long others wait for the lane. */
const REGIONS_PER_STEP = 64;

/** At the head of the log: readers see the new image from here on. */
export function appendRefresh(state: GroupState, snapshot: DetachedSnapshot, layer: Layer): void {
  const parts = state.volumes.map((volume) => {
    const toCome = restorationMap(state, volume, snapshot);
    return { toCome, onDisk: undefined, total: toCome.count };
  });
  layer.users++;
  snapshot.refresh = { layer, parts, replaced: [], applied: false };
}

/** At the barrier: the maps are on disk, and a new one of what changes from here on begins. Returns how to take it back. */
export async function prepareRefresh(
  state: GroupState,
  snapshot: DetachedSnapshot,
  control: RefreshControl,
): Promise<() => void> {
  const { refresh } = snapshot;
  if (refresh?.layer.id !== control.nextId) return () => {};
  const epoch = control.nextId;
  const before = { epoch: snapshot.epoch, lsn: snapshot.lsn, createdAt: snapshot.createdAt };
  const old = snapshot.parts.map((part) => part.changed);
  const fresh: MapOnDisk[] = [];
  try {
    for (const volume of state.volumes) {
      const part = refresh.parts[volume.index];
      if (part === undefined) continue;
      await part.onDisk?.disk.close();
      part.onDisk = undefined;
      const length = state.regionCount(volume);
      const toComeName = detachedMapName(snapshot.id, volume.name, 'refresh', epoch);
      part.onDisk = await createMap(state, toComeName, length, part.toCome.runs());
      part.toCome = part.onDisk.map.view;
      const changedName = detachedMapName(snapshot.id, volume.name, 'changed', epoch);
      fresh.push(await createMap(state, changedName, length, []));
    }
  } catch (error) {
    for (const map of fresh) await map.disk.close();
    throw error;
  }
  const change = (maps: readonly MapOnDisk[]) =>
    snapshot.parts.forEach((part, index) => {
      const map = maps[index];
      if (map !== undefined) part.changed = map;
    });
  change(fresh);
  Object.assign(snapshot, { epoch, lsn: refresh.layer.lsn, createdAt: control.createdAt });
  refresh.applied = true;
  refresh.replaced = old;
  return () => {
    refresh.applied = false;
    refresh.replaced = [];
    Object.assign(snapshot, before);
    change(old);
    for (const map of fresh) void map.disk.close();
  };
}

/** Copies some of what is to come; false when nothing is left. In the lane. */
export async function refreshSome(state: GroupState, snapshot: DetachedSnapshot): Promise<boolean> {
  const { refresh } = snapshot;
  if (refresh?.applied !== true) return false;
  for (const volume of state.volumes) {
    const toCome = refresh.parts[volume.index]?.toCome;
    if (toCome === undefined || toCome.count === 0) continue;
    const regions: RegionIndex[] = [];
    for (let at = toCome.nextSet(0); at < toCome.length && regions.length < REGIONS_PER_STEP; ) {
      regions.push(at);
      at = at + 1 < toCome.length ? toCome.nextSet(at + 1) : toCome.length;
    }
    await refreshRegions(state, snapshot, volume, regions);
    return true;
  }
  return false;
}

/**
 * Copies regions that are to come from the layer. The copy, synced; its bit; what was written through the snapshot before the refresh goes; then
 * readers find the copy (rule T3). What a restore of before the refresh has still to bring is copied onto itself: until now nothing has written it since that
 * restore, or it would not be to come. In the lane.
 */
export async function refreshRegions(
  state: GroupState,
  snapshot: DetachedSnapshot,
  volume: GroupVolume,
  regions: readonly RegionIndex[],
): Promise<void> {
  const { refresh } = snapshot;
  const part = snapshot.parts[volume.index];
  const toCome = refresh?.parts[volume.index]?.onDisk;
  if (refresh === undefined || part === undefined || toCome === undefined) return;
  const due = regions.filter((region) => toCome.map.view.has(region));
  if (due.length === 0) return;
  await eachRegion(state, due, async (region) => {
    const content = await readRegion(state, volume, refresh.layer, region);
    await putRegion(part.copied, content, region * state.regionBytes);
  });
  await syncStore(part.copied);
  await addRegions(part.copied, due);
  await part.modified?.remove(due);
  await changeMap(toCome.disk, () => toCome.map.clear(due));
}

/** Everything is copied: the layer is needed no more. In the lane. */
export async function endRefresh(state: GroupState, snapshot: DetachedSnapshot): Promise<void> {
  const { refresh } = snapshot;
  if (refresh === undefined) return;
  snapshot.refresh = undefined;
  refresh.layer.users--;
  try {
    await state.writeRecord(state.checkpointLsn);
  } catch (error) {
    snapshot.refresh = refresh;
    refresh.layer.users++;
    throw error;
  }
  for (const part of refresh.parts) await part.onDisk?.disk.close();
  for (const map of refresh.replaced) await map.disk.close();
  await removeOldMaps(state, snapshot);
}

/** Maps of earlier epochs, and of refreshes that have ended. */
async function removeOldMaps(state: GroupState, snapshot: DetachedSnapshot): Promise<void> {
  const current = state.volumes.map((volume) =>
    detachedMapName(snapshot.id, volume.name, 'changed', snapshot.epoch),
  );
  const prefix = `snapshots/${snapshot.id}/`;
  for (const name of await state.folder.list()) {
    if (name.startsWith(prefix) && /\.(changed|refresh)-/.test(name) && !current.includes(name))
      await state.folder.remove(name);
  }
}
