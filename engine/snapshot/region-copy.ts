/**
 * What all that copy regions between volumes and stores have in common: the store, made when its first region comes; the content; and what has to
 * be done when a step fails. The order of the steps is the caller's.
 */
import type { GroupState, GroupVolume, StoreKind } from '../group-state.ts';
import { MIB, type RegionIndex } from '../units.ts';
import type { Layer, LayerPart, View } from './chain.ts';
import type { RegionStore } from './region-store.ts';

/** Regions copied at a time come to so many bytes, or one. */
const COPY_BYTES = 4 * MIB;

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
 * The store that a snapshot has for regions of one kind, made if it is not there (rule S5). Its name is in the group's record before anything in it
 * counts, so that a lost file is missed. In the lane.
 */
export async function storeOf<Kind extends StoreKind>(
  state: GroupState,
  snapshotId: string,
  part: { [kind in Kind]: RegionStore | undefined },
  volume: GroupVolume,
  kind: Kind,
): Promise<RegionStore> {
  const found = part[kind];
  if (found !== undefined) return found;
  const store = await state.createStore(snapshotId, volume, kind);
  part[kind] = store;
  try {
    await state.writeRecord(state.checkpointLsn);
  } catch (error) {
    part[kind] = undefined;
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

/** What the volume, or a snapshot of it, shows of a region, in memory of its own. */
export async function readRegion(
  state: GroupState,
  volume: GroupVolume,
  view: View,
  region: RegionIndex,
): Promise<Buffer> {
  const content = Buffer.allocUnsafe(state.bytesOf(volume, region));
  await state.reader.read(volume, view, content, 0, content.length, region * state.regionBytes);
  return content;
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
