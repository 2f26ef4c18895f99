/**
 * What a secondary lacks of a restore (rule K10), and carrying out one of which it lacks something.
 *
 * It takes each region from the snapshot that the record names, as that was at its LSN, where it has that: only the record has travelled. The primary may
 * have written to its own snapshot: these regions are lacking; and all of them where the snapshot is not held here.
 */
import type { RestoreControl } from '../control-record.ts';
import { assert, EngineError } from '../errors.ts';
import type { GroupState, GroupVolume } from '../group-state.ts';
import type { LogBatch } from '../log/record.ts';
import { RegionMap, type RegionMapView } from '../map/region-map.ts';
import { Layer, RestoreNode, type RestorePart } from '../snapshot/chain.ts';
import {
  type ControlEffects,
  restoreMapName,
  type Snapshot,
  UNDO_NAME,
} from '../snapshot/control-effects.ts';
import { createMap } from '../snapshot/detached.ts';
import { joinChain, newLayer } from './between-batches.ts';
import type { Needs } from './needs.ts';
import { replicaOf } from './replica-record.ts';

export interface Lacking {
  /** The snapshot, where it is held here. */
  readonly source: Snapshot | undefined;
  readonly volumes: readonly {
    readonly volume: GroupVolume;
    readonly lacking: RegionMap;
    /** What it takes from the source. */
    readonly held: RegionMap;
  }[];
  readonly count: number;
}

export function lackingOf(state: GroupState, effects: ControlEffects, control: RestoreControl): Lacking {
  const found = effects.byId(control.sourceId);
  // One without a name may be on its way out, and have lost some of what it shows; and one of another image is another snapshot.
  const isHeld = found?.name != null && found.imageId === (control.imageId ?? control.sourceId);
  const source = isHeld ? found : undefined;
  const volumes = control.volumes.map(({ name, restoration, modified }) => {
    const volume = state.volumes.find((candidate) => candidate.name === name);
    assert(volume !== undefined, 'a decoded record names volumes of the group');
    const lacking = new RegionMap(restoration.length);
    const held = new RegionMap(restoration.length);
    // A copy that was made of a snapshot has in it what was written through it here.
    const own = source?.kind === 'detached' ? source.parts[volume.index]?.modified?.map : undefined;
    const isHere = (region: number): boolean =>
      source !== undefined && !modified.has(region) && own?.has(region) !== true;
    for (const run of restoration.runs())
      for (let region = run.first; region < run.end; region++) (isHere(region) ? held : lacking).set(region);
    return { volume, lacking, held };
  });
  return { source, volumes, count: volumes.reduce((sum, { lacking }) => sum + lacking.count, 0) };
}

export interface LackingRestore {
  readonly batch: LogBatch;
  /** Its undo snapshot replaces the one of here. */
  readonly control: RestoreControl;
  readonly lacking: Lacking;
}

/**
 * Carries the restore out as far as it can be here, and notes what is needed, in one durable write: resyncing from here on, with the volumes as they were
 * before it as the guard; the maps of the needs; the undo snapshot; the restore of what is held. Everything below the record is in the volumes. When
 * it rejects nothing is done. In the lane.
 */
export async function restoreLacking(
  state: GroupState,
  effects: ControlEffects,
  needs: Needs,
  restore: LackingRestore,
): Promise<void> {
  await syncedVolumes(state);
  await state.settleRecord();
  for (const { volume, lacking } of restore.lacking.volumes)
    if (lacking.count > 0) await needs.add(volume, [...lacking.runs()]);
  const before = replicaOf(state);
  const joined = await join(state, restore, before.resync === null);
  const version = before.needs.version + (restore.lacking.count > 0 ? 1 : 0);
  const replaced = takeUndoName(effects, restore.control);
  const shown = state.shownImage;
  if (joined.guard !== undefined) state.shownImage = joined.guard;
  try {
    await flushChanged(state, restore);
    await state.writeRecord(restore.batch.endLsn, {
      replica: {
        ...before,
        horizonLsn: restore.batch.endLsn,
        resync: joined.guard === undefined ? before.resync : { guardId: joined.guard.id },
        needs: { version, volumes: needs.volumes },
      },
    });
  } catch (error) {
    state.shownImage = shown;
    replaced.giveBack();
    await joined.leave();
    throw error;
  }
  noteOnLinks(state, restore);
  if (replaced.id !== undefined) effects.onGone(replaced.id, undefined);
}

/** All that was written to the volumes is durable there. Throws `disk`. */
export async function syncedVolumes(state: GroupState): Promise<void> {
  const losses = state.volumeLosses;
  await state.syncVolumes();
  if (losses !== state.volumeLosses)
    throw new EngineError('disk', 'a sync of a volume failed meanwhile', { errno: 'EIO' });
}

interface Joined {
  readonly guard: Layer | undefined;
  readonly leave: () => Promise<void>;
}

/** The guard and the undo snapshot, unless regions come out of order already, and what is restored by reference. */
async function join(state: GroupState, restore: LackingRestore, isConsistent: boolean): Promise<Joined> {
  const { batch, control, lacking } = restore;
  const node = await restoreOfHeld(state, restore);
  const layers: Layer[] = [];
  const begins = isConsistent && lacking.count > 0;
  const guard = begins ? newLayer(state, batch.lsn, { name: null, users: 1 }) : undefined;
  if (guard !== undefined) layers.push(guard);
  if (isConsistent) {
    const undoOf = control.volumes.map((volume) => volume.name);
    const { id, createdAt } = control.undo;
    const identity = { id, createdAt, lsn: batch.lsn, name: UNDO_NAME, local: false, undoOf };
    const undo = new Layer(identity, state.layerParts());
    undo.recordedName = UNDO_NAME;
    undo.applied = true;
    layers.push(undo);
  }
  for (const layer of layers) joinChain(state, layer);
  if (node !== undefined) {
    node.source.users++;
    state.chain.append(node);
  }
  const leave = async (): Promise<void> => {
    for (const layer of layers) state.chain.remove(layer);
    if (node === undefined) return;
    state.chain.remove(node);
    node.source.users--;
    await closeParts(node.parts);
  };
  return { guard, leave };
}

async function restoreOfHeld(
  state: GroupState,
  { batch, control, lacking }: LackingRestore,
): Promise<RestoreNode | undefined> {
  const { source } = lacking;
  if (source === undefined) return undefined;
  const parts: (RestorePart | undefined)[] = state.volumes.map(() => undefined);
  try {
    for (const { volume, held } of lacking.volumes) {
      const name = restoreMapName(control.id, volume.name);
      const { disk, map } = await createMap(state, name, held.length, held.runs());
      parts[volume.index] = { toCome: map.view, durable: map, disk, total: held.count };
    }
  } catch (error) {
    await closeParts(parts);
    throw error;
  }
  const node = new RestoreNode(control.id, batch.lsn, source, parts, true);
  node.applied = true;
  return node;
}

async function closeParts(parts: readonly (RestorePart | undefined)[]): Promise<void> {
  for (const part of parts) await part?.disk?.close();
}

/** What the restore changes counts as changed for detached snapshots and links, durably before the checkpoint passes it. */
async function flushChanged(state: GroupState, { lacking }: LackingRestore): Promise<void> {
  for (const { volume, lacking: needed, held } of lacking.volumes)
    for (const tracker of state.trackers)
      for (const map of [needed, held] as readonly RegionMapView[])
        for (const run of map.runs()) tracker.noteChangedRun(volume.index, run);
  for (const tracker of state.trackers) await tracker.flush();
}

/** Those whom this node feeds get the record, and decide for themselves. */
function noteOnLinks({ links, volumes }: GroupState, { batch, control }: LackingRestore): void {
  const maps = volumes.map(
    ({ name }) => control.volumes.find((candidate) => candidate.name === name)?.restoration,
  );
  const all = maps.every((map) => map !== undefined) ? maps : undefined;
  for (const link of links) link.noteRestore(batch.lsn, all);
}

/** The undo snapshot of before has no name from here on. */
function takeUndoName(
  effects: ControlEffects,
  { undo }: RestoreControl,
): { readonly id: string | undefined; readonly giveBack: () => void } {
  const old = undo.replaces === null ? undefined : effects.byId(undo.replaces);
  if (old === undefined) return { id: undefined, giveBack: () => {} };
  const { name, recordedName } = old;
  old.name = null;
  old.recordedName = null;
  const giveBack = (): void => {
    old.name = name;
    old.recordedName = recordedName;
  };
  return { id: old.id, giveBack };
}
