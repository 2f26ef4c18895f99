/**
 * From files to an open group: the chain as the record has it, then what the log holds beyond the checkpoint, which takes its place in the pending
 * index and at the head of the chain as if it had just been appended. The applier does the rest, while the group is in use already.
 */
import type { Clock } from './clock.ts';
import { controlOf } from './control-queue.ts';
import type { Control } from './control-record.ts';
import type { DiskFolder } from './disk/disk.ts';
import { EngineError } from './errors.ts';
import type { OpenGroup } from './group-files.ts';
import { type Undo, undoAll } from './group-folder.ts';
import type {
  DetachedRecord,
  GroupRecord,
  ReplicaRecord,
  RestoreRecord,
  SnapshotRecord,
} from './group-record.ts';
import { type GroupEvent, GroupState, type GroupVolume, type StoreKind } from './group-state.ts';
import { Dcm } from './link/dcm.ts';
import { LinkState } from './link/link-state.ts';
import { needsLog } from './log/direct-entry.ts';
import { Log } from './log/log.ts';
import type { LogBatch } from './log/record.ts';
import { restartDisk } from './log/restart.ts';
import type { RegionMapView } from './map/region-map.ts';
import { onSecondary } from './replica/controls.ts';
import { Needs } from './replica/needs.ts';
import { type DetachedImage, Layer, RestoreNode, type RestorePart } from './snapshot/chain.ts';
import { ControlEffects, restoreMapName } from './snapshot/control-effects.ts';
import { type DetachedPart, DetachedSnapshot, detachedMapName, openMap } from './snapshot/detached.ts';
import type { RegionStore } from './snapshot/region-store.ts';
import type { Lsn } from './units.ts';

export interface RecoveredGroup {
  readonly state: GroupState;
  readonly effects: ControlEffects;
  /** What is logged and not applied, in order. */
  readonly batches: readonly LogBatch[];
  /** The control records among them, as they are carried out here; null: one that does nothing here. */
  readonly controls: ReadonlyMap<LogBatch, Control | null>;
  /** Of a secondary. */
  readonly needs: Needs | undefined;
  readonly warnings: readonly string[];
}

export interface RecoveryOptions {
  readonly memoryBytes: number;
  readonly emit: (event: GroupEvent) => void;
}

/** Throws `corrupt` where what is on disk does not fit together; whoever has the parts closes them then. */
export async function recover(
  folder: DiskFolder,
  opened: OpenGroup,
  clock: Clock,
  options: RecoveryOptions,
): Promise<RecoveredGroup> {
  const record = await restarted(opened);
  const { replica } = record;
  const identity = {
    groupId: record.id,
    firstLsn: record.generation.firstLsn,
    ...(replica === null ? {} : { shippedBelow: replica.horizonLsn }),
  };
  const found = await Log.open(opened.logDisk, identity, record.checkpointLsn, clock);
  const state = new GroupState({
    folder,
    clock,
    log: found.log,
    record,
    recordFile: opened.file,
    volumes: opened.parts.map(({ identity, disk, map }) => ({ ...identity, disk, map })),
    ...options,
  });
  const warnings = [...opened.warnings, ...found.warnings];
  const opening: Opening = { state, warnings, undo: [] };
  try {
    for (const id of record.voided) state.voided.add(id);
    await openChain(opening);
    await openLinks(opening);
    const effects = new ControlEffects(state);
    const needs = replica === null ? undefined : await openReplica(opening, replica);
    const batches = replica === null ? found.batches : belowHorizon(found.batches, replica.horizonLsn);
    const controls = new Map<LogBatch, Control | null>();
    for (const batch of batches) addPending(state, effects, batch, controls);
    await removeLeftovers(state, effects);
    // A process that was killed while it left direct mode may have left direct writes in the page cache alone, which lie before all that is logged (L4).
    if (found.batches.length > 0 || needsLog(state))
      for (const volume of state.volumes) await volume.disk.sync();
    // A secondary always logs: what it gets is a log.
    if (replica !== null) await found.log.allocate();
    return { state, effects, batches, controls, needs, warnings };
  } catch (error) {
    await undoAll(opening.undo);
    await found.log.close().catch(() => {});
    throw error;
  }
}

/**
 * The record, after a restart of the log that it speaks of is carried through (rule L5): nothing else has read the log before. A crash in between does
 * it again.
 */
async function restarted(opened: OpenGroup): Promise<GroupRecord> {
  const { record } = opened;
  const { replica } = record;
  const restart = replica?.restart;
  if (replica === null || restart == null) return record;
  const { lsn, chain, groupId, generation } = restart;
  const identity = { groupId, generation: generation.number };
  await restartDisk(opened.logDisk, identity, lsn, chain, record.log.sizeBytes);
  const next: GroupRecord = {
    ...record,
    id: groupId,
    generation,
    checkpointLsn: lsn,
    replica: { ...replica, horizonLsn: lsn, restart: null },
  };
  await opened.file.write(next);
  return next;
}

/** What a secondary received and never showed stays in the log (rule K12). */
function belowHorizon(batches: readonly LogBatch[], horizonLsn: Lsn): readonly LogBatch[] {
  const below = batches.filter((batch) => batch.lsn < horizonLsn);
  const last = below.at(-1);
  if (last === undefined || last.endLsn === horizonLsn) return below;
  throw new EngineError(
    'corrupt',
    `no batch of the log ends at LSN ${horizonLsn}, up to where it was applied: log and record are not of one time; restore both from one copy`,
  );
}

/** The guard is needed again, and shown (rules K9, K12); and what is needed is known. */
async function openReplica({ state, undo }: Opening, replica: ReplicaRecord): Promise<Needs> {
  const shown = replica.resync ?? replica.oldImage;
  if (shown !== null) {
    const { guardId } = shown;
    const guard = state.chain.layers.find((layer) => layer.id === guardId);
    if (guardId !== null && guard === undefined)
      throw new EngineError('corrupt', 'the record shows a layer that it has not');
    if (guard !== undefined) guard.users++;
    state.shownImage = guard ?? 'none';
  }
  const needs = await Needs.open(state);
  undo.push(() => needs.close());
  return needs;
}

interface Opening {
  readonly state: GroupState;
  readonly warnings: string[];
  /** Closes what is open so far. */
  readonly undo: Undo[];
}

async function openChain(opening: Opening): Promise<void> {
  const { state } = opening;
  const { nodes } = state.record;
  for (const node of nodes) if (node.kind === 'snapshot') state.chain.append(await openLayer(opening, node));
  for (const snapshot of state.record.detached) state.detached.push(await openDetached(opening, snapshot));
  // Each has all that are older before it by then.
  for (const [index, node] of nodes.entries())
    if (node.kind === 'restore') state.chain.putBack(await openRestore(opening, node), index);
  sumChanges(state);
}

async function openLayer(opening: Opening, record: SnapshotRecord): Promise<Layer> {
  const { state } = opening;
  const layer = new Layer(record, state.layerParts());
  layer.recordedName = record.name;
  layer.applied = true;
  layer.detaching = record.detaching;
  for (const volume of state.volumes) {
    const part = layer.parts[volume.index];
    if (part === undefined) continue;
    const open = async (names: readonly string[], kind: StoreKind): Promise<RegionStore | undefined> => {
      if (!names.includes(volume.name)) return undefined;
      return await openStore(opening, layer.id, volume, kind);
    };
    part.preserved = await open(record.stores, 'preserved');
    part.modified = await open(record.written, 'modified');
    part.copied = await open(record.copied, 'copied');
  }
  return layer;
}

async function openStore(
  { state, warnings, undo }: Opening,
  id: string,
  volume: GroupVolume,
  kind: StoreKind,
): Promise<RegionStore> {
  const store = await state.openStore(id, volume, kind);
  undo.push(() => store.close());
  if (store.doubtful.length > 0)
    warnings.push(`${store.name}: its map is damaged: what the snapshot shows there cannot be read`);
  return store;
}

async function openDetached(opening: Opening, record: DetachedRecord): Promise<DetachedSnapshot> {
  const { state } = opening;
  const parts: DetachedPart[] = [];
  for (const volume of state.volumes) {
    const length = state.regionCount(volume);
    const changedName = detachedMapName(record.id, volume.name, 'changed', record.changedId);
    const written = record.written.includes(volume.name);
    parts.push({
      copied: await openStore(opening, record.id, volume, 'copied'),
      modified: written ? await openStore(opening, record.id, volume, 'modified') : undefined,
      changed: await openMapOf(opening, changedName, length),
    });
  }
  const { id, name, lsn, createdAt, local, changedId, undoOf } = record;
  const identity = { id, name: name ?? '', lsn, createdAt, local, epoch: changedId, undoOf };
  const snapshot = new DetachedSnapshot(state.volumes, identity, parts);
  snapshot.name = name;
  snapshot.recordedName = name;
  if (record.refresh !== undefined) await openRefresh(opening, snapshot, record.refresh.layerId);
  return snapshot;
}

async function openRefresh(opening: Opening, snapshot: DetachedSnapshot, layerId: string): Promise<void> {
  const { state } = opening;
  const layer = state.chain.layers.find((candidate) => candidate.id === layerId);
  if (layer === undefined)
    throw new EngineError('corrupt', 'the record refreshes a snapshot from one it has not');
  const parts = [];
  for (const volume of state.volumes) {
    const name = detachedMapName(snapshot.id, volume.name, 'refresh', layerId);
    const onDisk = await openMapOf(opening, name, state.regionCount(volume));
    // Taken for more than it was, it would hide what was written through the snapshot since.
    if (onDisk.doubtful.length > 0)
      throw new EngineError(
        'corrupt',
        `${name} is damaged: which regions of snapshot ${snapshot.name ?? snapshot.id} are refreshed already cannot be told; put it back from a backup`,
      );
    parts.push({ onDisk, toCome: onDisk.map.view, total: onDisk.map.view.count });
  }
  layer.users++;
  snapshot.refresh = { layer, parts, replaced: [], applied: true };
}

/** See `openMap`. */
async function openMapOf({ state, undo }: Opening, name: string, regionCount: number) {
  const found = await openMap(state, name, regionCount);
  undo.push(() => found.disk.close());
  return found;
}

async function openRestore(opening: Opening, record: RestoreRecord): Promise<RestoreNode> {
  const { state } = opening;
  const layers = state.chain.layers;
  const source: Layer | DetachedImage | undefined =
    state.detached.find((snapshot) => snapshot.id === record.sourceId) ??
    // What a detached one leaves behind in the chain has the same id.
    layers.find((layer) => layer.id === record.sourceId);
  if (source === undefined)
    throw new EngineError('corrupt', 'the record restores from a snapshot that it has not');
  const parts: (RestorePart | undefined)[] = [];
  for (const volume of state.volumes) {
    if (!record.volumes.includes(volume.name)) {
      parts.push(undefined);
      continue;
    }
    const name = restoreMapName(record.id, volume.name);
    const { disk, map, doubtful } = await openMapOf(opening, name, state.regionCount(volume));
    if (doubtful.length > 0) {
      const what = `${name} is damaged: which regions of volume ${volume.name} are restored already cannot be told; put it back from a backup`;
      throw new EngineError('corrupt', what);
    }
    parts.push({ toCome: map.view, durable: map, disk, total: map.view.count });
  }
  source.users++;
  const node = new RestoreNode(record.id, record.lsn, source, parts, state.record.replica !== null);
  node.applied = true;
  return node;
}

/** Before anything is applied: what is, may have to be marked. */
async function openLinks({ state, undo }: Opening): Promise<void> {
  for (const record of state.record.links) {
    const dcm = await Dcm.open(state, record.id);
    undo.push(() => dcm.close());
    const link = new LinkState(record, dcm, state.log.tailLsn, state.log.endLsn);
    state.links.push(link);
    state.logHolds.add(link);
  }
}

/** The running maps: each layer's own, and all of the next newer one's. */
function sumChanges(state: GroupState): void {
  const newestFirst = state.chain.layers.reverse();
  for (const volume of state.volumes) {
    let newer: RegionMapView | undefined;
    for (const layer of newestFirst) {
      const part = layer.parts[volume.index];
      if (part === undefined) continue;
      for (const view of [part.preserved?.map, newer])
        for (const run of view?.runs() ?? []) part.changed.setRange(run.first, run.end);
      newer = part.changed;
    }
  }
}

/** What the log holds beyond the checkpoint is as if it had just been appended. */
function addPending(
  state: GroupState,
  effects: ControlEffects,
  batch: LogBatch,
  controls: Map<LogBatch, Control | null>,
): void {
  if (batch.control !== undefined) {
    const written = controlOf(state, batch);
    const control = state.record.replica === null ? written : onSecondary(state, effects, written);
    controls.set(batch, control);
    if (control !== null) effects.append(control, batch.lsn);
  }
  for (const record of batch.records) {
    const volume = state.volumes[record.volumeIndex];
    if (volume === undefined || record.offsetBytes + record.lengthBytes > volume.sizeBytes)
      throw new EngineError('corrupt', `the log at ${batch.lsn} writes where the group has no volume`);
    volume.pending.add(record);
  }
}

/** Files that a crash left behind: nothing names them. */
async function removeLeftovers(state: GroupState, effects: ControlEffects): Promise<void> {
  const known = new Set([
    ...state.chain.nodes.map((node) => node.id),
    ...state.detached.map((snapshot) => snapshot.id),
    ...state.links.map((link) => link.id),
  ]);
  for (const name of await state.folder.list()) {
    const [, id] = /^(?:snapshots|restores|links)\/([^/]+)\//.exec(name) ?? [];
    if (id === undefined) continue;
    if ((known.has(id) || effects.byId(id) !== undefined) && !isOldMap(state, id, name)) continue;
    // It takes room, and nothing else: the next start tries again.
    await state.folder.remove(name).catch(() => {});
  }
}

/** A map of a detached snapshot that a refresh has replaced. */
function isOldMap(state: GroupState, id: string, name: string): boolean {
  const [, epoch] = /\.(?:changed|refresh)-([^/]+)$/.exec(name) ?? [];
  const snapshot = state.detached.find((candidate) => candidate.id === id);
  return epoch !== undefined && (snapshot === undefined || snapshot.epoch !== epoch);
}

/** Closes the files of snapshots and restores. */
export async function closeState(state: GroupState): Promise<void> {
  for (const node of state.chain.nodes) {
    if (node.kind === 'restore') for (const part of node.parts) await part?.disk?.close();
    else
      for (const part of node.parts)
        for (const store of [part.preserved, part.modified, part.copied]) await store?.close();
  }
  for (const snapshot of state.detached) await snapshot.close();
  for (const link of state.links) await link.dcm.close();
}
