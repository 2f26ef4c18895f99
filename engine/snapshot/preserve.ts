/** Copy-on-write: what a volume is about to lose is copied into the newest layer first. */

import type { GroupState, GroupVolume } from '../group-state.ts';
import { MIB, type RegionIndex } from '../units.ts';
import type { Layer, LayerPart } from './chain.ts';
import type { RegionStore } from './region-store.ts';

/** Regions copied at a time come to so many bytes, or one. */
const COPY_BYTES = 4 * MIB;

/** For shorter runs it costs less to read them than to ask whether they are holes. */
const BLANK_RUN_REGIONS = 16;

const zeroes = Buffer.alloc(1 * MIB);

export function isZero(bytes: Buffer): boolean {
  for (let at = 0; at < bytes.length; at += zeroes.length) {
    const piece = bytes.subarray(at, at + zeroes.length);
    if (!piece.equals(zeroes.subarray(0, piece.length))) return false;
  }
  return true;
}

/**
 * Calls `work` for all regions, so many at a time that their content fits `COPY_BYTES`. When one fails, the others have ended all the same before it
 * rejects: a copy that is still under way would land on what is done next.
 */
export async function eachRegion(
  state: GroupState,
  regions: readonly RegionIndex[],
  work: (region: RegionIndex) => Promise<void>,
): Promise<void> {
  const atOnce = Math.max(1, Math.floor(COPY_BYTES / state.regionBytes));
  for (let at = 0; at < regions.length; at += atOnce) {
    const results = await Promise.allSettled(regions.slice(at, at + atOnce).map(work));
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }
}

/**
 * Keeps the raw content of regions for the snapshots among the nodes before `before`: in the newest layer there that is needed, unless one from
 * that on has it already. Rule S1, in this order: the copies, synced; the bits, durable; then the caller may overwrite. In the lane.
 */
export async function preserve(
  state: GroupState,
  volume: GroupVolume,
  regions: readonly RegionIndex[],
  before: number = state.chain.nodes.length,
): Promise<void> {
  const { chain } = state;
  const at = chain.receiver(before);
  const layer = chain.nodes[at];
  if (layer?.kind !== 'layer') return;
  const missing = regions.filter((region) => !chain.isPreserved(volume.index, region, at, before));
  if (missing.length === 0) return;
  const store = await preservedStore(state, layer, volume);
  const blank = await keepBlanks(state, volume, store, missing);
  const rest = blank.size === 0 ? missing : missing.filter((region) => !blank.has(region));
  await eachRegion(state, rest, (region) => copyRaw(state, volume, store, region));
  await syncStore(store);
  await addRegions(store, missing);
  chain.noteChanged(volume.index, missing, at);
  state.counters.regionsPreserved += missing.length;
}

/** Long runs of regions that are holes: they are holes in the store too, and nothing is read (rule L11). Returns which they are. */
async function keepBlanks(
  state: GroupState,
  volume: GroupVolume,
  store: RegionStore,
  regions: readonly RegionIndex[],
): Promise<ReadonlySet<RegionIndex>> {
  const blank = new Set<RegionIndex>();
  for (let from = 0; from < regions.length; ) {
    const first = regions[from] ?? 0;
    let to = from + 1;
    while (regions[to] === first + to - from) to++;
    if (to - from >= BLANK_RUN_REGIONS) {
      const startBytes = first * state.regionBytes;
      const lengthBytes = Math.min(volume.sizeBytes, (first + to - from) * state.regionBytes) - startBytes;
      const [extent] = await volume.disk.extents(startBytes, lengthBytes, 1);
      if (extent?.zero === true && extent.lengthBytes === lengthBytes) {
        await store.punch(startBytes, lengthBytes);
        for (const region of regions.slice(from, to)) blank.add(region);
      }
    }
    from = to;
  }
  return blank;
}

/** The store for what a layer preserves of a volume. Its name is in the record before anything in it counts, so that a lost file is missed. */
export async function preservedStore(
  state: GroupState,
  layer: Layer,
  volume: GroupVolume,
): Promise<RegionStore> {
  const part = partOf(layer, volume);
  if (part.preserved !== undefined) return part.preserved;
  const store = await state.createStore(layer.id, volume, 'preserved');
  part.preserved = store;
  try {
    await state.writeRecord(state.checkpointLsn);
  } catch (error) {
    part.preserved = undefined;
    await store.close();
    throw error;
  }
  return store;
}

export function partOf(layer: Layer, volume: GroupVolume): LayerPart {
  const part = layer.parts[volume.index];
  if (part === undefined) throw new Error('bug: a layer has a part of every volume');
  return part;
}

async function copyRaw(
  state: GroupState,
  volume: GroupVolume,
  store: RegionStore,
  region: RegionIndex,
): Promise<void> {
  const lengthBytes = state.bytesOf(volume, region);
  const offsetBytes = region * state.regionBytes;
  const content = Buffer.allocUnsafe(lengthBytes);
  if (!volume.disk.tryRead(content, 0, lengthBytes, offsetBytes))
    await volume.disk.read(content, 0, lengthBytes, offsetBytes);
  await putRegion(store, content, offsetBytes);
}

/** Puts the content of a region into a store. Zeroes take no room (rule L11); what a crash left there before is punched out all the same. */
export async function putRegion(store: RegionStore, content: Buffer, offsetBytes: number): Promise<void> {
  if (isZero(content)) await store.punch(offsetBytes, content.length);
  else await store.write(content, 0, content.length, offsetBytes);
}

/** Regions whose content is synced are there now, for readers and after any crash. When this fails, they are copied again. */
export async function addRegions(store: RegionStore, regions: readonly RegionIndex[]): Promise<void> {
  try {
    await store.add(regions);
  } catch (error) {
    store.forgive();
    throw error;
  }
}

/** Syncs a store of which everything since its last sync is written again when this fails (rule L6). */
export async function syncStore(store: RegionStore): Promise<void> {
  try {
    await store.sync();
  } catch (error) {
    store.forgive();
    throw error;
  }
}
