/**
 * Takes nameless layers down that nobody needs (rule S4), a step at a time.
 *
 * What an older snapshot reads through such a layer is moved to the newest needed layer before it, copy by copy: that layer's store, its bit,
 * then the own bit, each durable before the next; the space is given back once those who were sent here before have ended (T3). Where
 * nobody older needs it, it goes at once.
 */
import type { GroupState, GroupVolume } from '../group-state.ts';
import type { RegionIndex } from '../units.ts';
import type { Layer } from './chain.ts';
import { addRegions, eachRegion, partOf, putRegion, storeOf, syncStore } from './region-copy.ts';
import type { RegionStore } from './region-store.ts';

/** Regions moved in a step: so long others wait for the lane. */
const REGIONS_PER_STEP = 64;

/** The oldest layer that is to go. Outside the lane that is a guess: a deletion that is under way may still fail. */
export function findUnneeded(state: GroupState): Layer | undefined {
  return state.chain.layers.find(isUnneeded);
}

function isUnneeded(layer: Layer): boolean {
  return layer.applied && !layer.needed && !layer.detaching;
}

/** Moves some regions of a layer that is to go, or removes it. In no lane. */
export async function takeDown(state: GroupState, layer: Layer): Promise<void> {
  for (const volume of state.volumes) {
    const moved = await state.lane(async () =>
      isUnneeded(layer) ? await moveSome(state, layer, volume) : undefined,
    );
    if (moved === undefined) continue;
    await state.readers.drained();
    for (const region of moved.regions)
      await moved.store.punch(region * state.regionBytes, state.bytesOf(volume, region));
    return;
  }
  const removed = await state.lane(async () => isUnneeded(layer) && (await remove(state, layer)));
  if (!removed) return;
  await state.readers.drained();
  // Its own files only: a snapshot that was detached has others under the same id.
  for (const part of layer.parts) {
    for (const store of [part.preserved, part.modified, part.copied]) {
      if (store === undefined) continue;
      await store.close();
      await state.folder.remove(store.name);
    }
  }
}

/** Undefined when there is nothing of this volume left to move. */
async function moveSome(
  state: GroupState,
  layer: Layer,
  volume: GroupVolume,
): Promise<{ store: RegionStore; regions: RegionIndex[] } | undefined> {
  const { chain } = state;
  const own = chain.nodes.indexOf(layer);
  const at = chain.receiver(own);
  const older = chain.nodes[at];
  const store = partOf(layer, volume).preserved;
  if (older?.kind !== 'layer' || store === undefined || store.map.count === 0) return undefined;
  const regions: RegionIndex[] = [];
  for (let region = store.map.nextSet(0); region < store.map.length && regions.length < REGIONS_PER_STEP; ) {
    regions.push(region);
    region = region + 1 < store.map.length ? store.map.nextSet(region + 1) : store.map.length;
  }
  const missing = regions.filter((region) => !chain.isPreserved(volume.index, region, at, own));
  if (missing.length > 0) {
    const target = await storeOf(state, older.id, partOf(older, volume), volume, 'preserved');
    await eachRegion(state, missing, (region) => move(state, volume, store, target, region));
    await syncStore(target);
    await addRegions(target, missing);
    chain.noteChanged(volume.index, missing, at);
  }
  try {
    await store.remove(regions);
  } catch (error) {
    store.forgive();
    throw error;
  }
  return { store, regions };
}

async function move(
  state: GroupState,
  volume: GroupVolume,
  from: RegionStore,
  to: RegionStore,
  region: RegionIndex,
): Promise<void> {
  const content = Buffer.allocUnsafe(state.bytesOf(volume, region));
  await from.read(content, 0, content.length, region * state.regionBytes);
  await putRegion(to, content, region * state.regionBytes);
}

async function remove(state: GroupState, layer: Layer): Promise<true> {
  const { chain } = state;
  const at = chain.nodes.indexOf(layer);
  chain.remove(layer);
  try {
    await state.writeRecord(state.checkpointLsn);
  } catch (error) {
    chain.putBack(layer, at);
    throw error;
  }
  return true;
}
