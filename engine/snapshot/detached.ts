/**
 * A snapshot that has left the chain: it has a copy of every region, and a map of what has changed on the volume since, so that refreshing it, or
 * restoring from it, still moves only that (rule S6; the third-mirror break-off of the patent's [0036]).
 *
 * Its files lie in `snapshots/ID/`: `VOLUME.copied` and `VOLUME.modified` are stores, `VOLUME.changed-EPOCH` is the map. A refresh begins a new
 * epoch, and has a map of what is to come, `VOLUME.refresh-EPOCH`.
 */
import type { Disk } from '../disk/disk.ts';
import type { DetachedRecord } from '../group-record.ts';
import type { ChangeTracker, GroupState, GroupVolume } from '../group-state.ts';
import { DurableMap } from '../map/durable-map.ts';
import type { RegionMapView, RegionRun } from '../map/region-map.ts';
import type { Lsn, RegionIndex } from '../units.ts';
import type { DetachedImage, Layer } from './chain.ts';
import type { RegionStore } from './region-store.ts';

/** A region map in a file of its own. */
export interface MapOnDisk {
  readonly disk: Disk;
  readonly map: DurableMap;
}

export interface DetachedPart {
  readonly copied: RegionStore;
  modified: RegionStore | undefined;
  /** The volume with reference to the snapshot: at least the regions that differ. Marked as records are applied, flushed before a checkpoint. */
  changed: MapOnDisk;
}

/** While it is being refreshed, regions to come are read through a layer that was taken for that. */
export interface Refresh {
  readonly layer: Layer;
  /** By volume. In memory alone until the record is applied. */
  readonly parts: readonly { toCome: RegionMapView; onDisk: MapOnDisk | undefined; readonly total: number }[];
  /** Maps of what changed before, of which nothing is needed any more. */
  replaced: readonly MapOnDisk[];
  applied: boolean;
}

export class DetachedSnapshot implements DetachedImage, ChangeTracker {
  readonly kind = 'detached';
  readonly id: string;
  name: string | null;
  recordedName: string | null;
  lsn: Lsn;
  createdAt: string;
  readonly local: boolean;
  users = 0;
  writing: Promise<void> | undefined;
  held: Promise<void> | undefined;
  /** Names the files of the maps: the id of the layer that the last refresh was made through, or its own. */
  epoch: string;
  readonly parts: readonly DetachedPart[];
  refresh: Refresh | undefined;
  readonly #undoOf: readonly string[] | undefined;
  readonly #volumes: readonly GroupVolume[];

  constructor(
    volumes: readonly GroupVolume[],
    identity: {
      readonly id: string;
      readonly name: string;
      readonly lsn: Lsn;
      readonly createdAt: string;
      readonly local: boolean;
      readonly epoch: string;
      readonly undoOf?: readonly string[] | undefined;
    },
    parts: readonly DetachedPart[],
  ) {
    this.#volumes = volumes;
    this.id = identity.id;
    this.name = identity.name;
    this.recordedName = identity.name;
    this.lsn = identity.lsn;
    this.createdAt = identity.createdAt;
    this.local = identity.local;
    this.epoch = identity.epoch;
    this.#undoOf = identity.undoOf;
    this.parts = parts;
  }

  /** Names of the volumes that restoring it restores, where it was taken to undo a restore. A refresh makes another image of it. */
  get undoOf(): readonly string[] | undefined {
    return this.refresh === undefined ? this.#recordedUndoOf : undefined;
  }

  get #recordedUndoOf(): readonly string[] | undefined {
    return this.epoch === this.id ? this.#undoOf : undefined;
  }

  get imageId(): string {
    return this.refresh?.layer.id ?? this.epoch;
  }

  locate(volumeIndex: number, region: RegionIndex, atLsn: Lsn): RegionStore | Layer {
    const { refresh } = this;
    if (refresh !== undefined && refresh.layer.lsn < atLsn && refresh.parts[volumeIndex]?.toCome.has(region))
      return refresh.layer;
    const part = this.parts[volumeIndex];
    if (part === undefined) throw new Error('bug: a detached snapshot has a part of every volume');
    return part.modified?.map.has(region) ? part.modified : part.copied;
  }

  /** Regions of the volume are about to be written. */
  noteChanged(volumeIndex: number, regions: readonly RegionIndex[]): void {
    for (const region of regions) this.noteChangedRun(volumeIndex, { first: region, end: region + 1 });
  }

  noteChangedRun(volumeIndex: number, run: RegionRun): void {
    this.parts[volumeIndex]?.changed.map.mark(run.first, run.end);
  }

  noteReceived(volumeIndex: number, regions: readonly RegionIndex[]): void {
    this.noteChanged(volumeIndex, regions);
  }

  /** Makes the marks durable. */
  async flush(): Promise<void> {
    for (const { changed } of this.parts) await flushMap(changed);
  }

  record(): DetachedRecord {
    const { id, recordedName, lsn, createdAt, local, epoch } = this;
    const stores = this.#volumes.map((volume) => volume.name);
    const written = stores.filter((_, index) => this.parts[index]?.modified !== undefined);
    const layerId = this.refresh?.applied ? this.refresh.layer.id : undefined;
    const refresh = layerId === undefined ? {} : { refresh: { layerId, id: layerId } };
    const undoOf = this.#recordedUndoOf === undefined ? {} : { undoOf: this.#recordedUndoOf };
    const identity = { id, name: recordedName, lsn, createdAt, local, changedId: epoch };
    return { ...identity, ...undoOf, stores, written, ...refresh };
  }

  async close(): Promise<void> {
    for (const part of this.parts) {
      await part.copied.close();
      await part.modified?.close();
      await part.changed.disk.close();
    }
    for (const part of this.refresh?.parts ?? []) await part.onDisk?.disk.close();
    for (const map of this.refresh?.replaced ?? []) await map.disk.close();
  }
}

export function detachedMapName(
  id: string,
  volumeName: string,
  kind: 'changed' | 'refresh',
  epoch: string,
): string {
  return `snapshots/${id}/${volumeName}.${kind}-${epoch}`;
}

/** Flushes a map whose marks are all written again at the next try, when this one fails (rule L6). */
export function flushMap({ disk, map }: MapOnDisk): Promise<void> {
  return changeMap(disk, () => map.flush());
}

/** Changes a map on that disk. When it fails it is tried again, and writes again all that counts (rule L6). */
export async function changeMap(disk: Disk, change: () => Promise<void>): Promise<void> {
  try {
    await change();
  } catch (error) {
    disk.forgive();
    throw error;
  }
}

/** Makes a map with these runs in it. What a crash left of that name is removed first. */
export async function createMap(
  state: GroupState,
  name: string,
  regionCount: number,
  runs: Iterable<RegionRun>,
): Promise<MapOnDisk> {
  await state.folder.remove(name);
  const disk = await state.folder.create(name, DurableMap.bytesFor(regionCount));
  try {
    const map = DurableMap.blank(disk, 0, regionCount);
    await map.setRuns([...runs]);
    return { disk, map };
  } catch (error) {
    await disk.close();
    throw error;
  }
}

/** A damaged sector counts as all set: its regions are `doubtful`. Throws `not-found`, `corrupt`, `disk`. */
export async function openMap(
  state: GroupState,
  name: string,
  regionCount: number,
): Promise<MapOnDisk & { readonly doubtful: readonly RegionRun[] }> {
  const disk = await state.folder.open(name);
  try {
    return { disk, ...(await DurableMap.load(disk, 0, regionCount)) };
  } catch (error) {
    await disk.close();
    throw error;
  }
}
