/**
 * What the server asks of a group, as an interface: so that what is served, shown and guarded is tested with groups of a few lines.
 * `Group` of the engine is one.
 */
import type { BlockDevice } from '../engine/block-device.ts';
import type { Disk } from '../engine/disk/disk.ts';
import type { RegionMapView, RegionRun } from '../engine/map/region-map.ts';
import type { Lsn, RegionIndex } from '../engine/units.ts';

/** A volume as it is listed. */
export interface ServedVolume extends BlockDevice {
  readonly name: string;
  readonly written: RegionMapView;
  onFailure(listener: (reason: string) => void): void;
}

export interface SnapshotView {
  /** Its identity; the name is a label that can change. */
  readonly id: string;
  readonly name: string;
  readonly lsn: Lsn;
  /** ISO 8601, UTC. */
  readonly createdAt: string;
  readonly local: boolean;
  /** The volumes that restoring it brings back to before a restore; undefined for one that a user made. */
  readonly undoOf: readonly string[] | undefined;
  readonly state: 'attached' | 'detaching' | 'detached' | 'refreshing';
  readonly volumes: readonly SnapshotVolumeView[];
}

export interface SnapshotVolumeView {
  readonly name: string;
  /** Regions of the volume with reference to the snapshot. */
  readonly preservedRegions: number;
  /** Regions of the snapshot with reference to the volume: written through it. */
  readonly modifiedRegions: number;
}

export interface OperationView {
  readonly id: string;
  readonly kind: 'restore' | 'replay' | 'detach' | 'refresh' | 'delete' | 'import';
  readonly target: string;
  readonly done: number;
  readonly total: number;
  readonly unit: 'regions' | 'bytes';
}

export interface RestorePlan {
  readonly snapshot: SnapshotView;
  readonly volumes: readonly { readonly name: string; readonly regions: number; readonly bytes: number }[];
  readonly regions: number;
  readonly bytes: number;
}

export interface RestoreResult {
  /** Id of the operation that copies in the background. */
  readonly operation: string;
  readonly plan: RestorePlan;
  readonly undo: SnapshotView;
}

export interface ImportResult {
  readonly regionsCompared: number;
  readonly regionsWritten: number;
  readonly bytesWritten: number;
}

/** Something that happened in a group. */
export interface GroupEvent {
  /** As in `NewEvent`. */
  readonly type: string;
  readonly message: string;
  readonly data?: Readonly<Record<string, unknown>>;
}

export interface LogView {
  readonly sizeBytes: number;
  readonly usedBytes: number;
  readonly endLsn: Lsn;
  readonly durableLsn: Lsn;
  readonly appliedLsn: Lsn;
  readonly checkpointLsn: Lsn;
  /** Payload that is logged and not applied. */
  readonly pendingBytes: number;
}

/** What exports are made of. */
export interface ExportedGroup {
  readonly name: string;
  readonly role: 'primary' | 'secondary';
  readonly volumes: ReadonlyMap<string, ServedVolume>;
  /** Named ones, oldest first. */
  readonly snapshots: readonly SnapshotView[];
  snapshotVolume(snapshotName: string, volumeName: string): BlockDevice | undefined;
  /** Regions of [first, end) that may differ between two images; `to` undefined is the volume as it is. */
  changedRuns(
    volume: string,
    from: string,
    to: string | undefined,
    first: RegionIndex,
    end: RegionIndex,
  ): RegionRun[];
}

export interface GroupControl extends ExportedGroup {
  readonly id: string;
  readonly createdAt: string;
  readonly regionBytes: number;
  readonly warnings: readonly string[];
  readonly mode: 'direct' | 'logged';
  /** Why it takes no more writes, or undefined. */
  readonly failure: string | undefined;
  /** Why what is logged is not applied, or undefined. */
  readonly stall: string | undefined;
  readonly log: LogView;
  readonly operations: readonly OperationView[];
  createSnapshot(name: string, options?: { readonly local?: boolean }): Promise<SnapshotView>;
  deleteSnapshot(name: string): Promise<void>;
  renameSnapshot(name: string, to: string): Promise<void>;
  refreshSnapshot(name: string, options?: { readonly force?: boolean }): Promise<SnapshotView>;
  detachSnapshot(name: string): Promise<void>;
  planRestore(name: string, options?: { readonly volume?: string }): RestorePlan;
  restore(name: string, options?: { readonly volume?: string }): Promise<RestoreResult>;
  import(volume: string, image: Disk): Promise<ImportResult>;
  close(): Promise<void>;
}

/** Opens a file or block device for an import, by absolute path. Throws `not-found`, `invalid`, `disk`. */
export type OpenImage = (path: string) => Promise<Disk>;

const EMPTY_LOG: LogView = {
  sizeBytes: 0,
  usedBytes: 0,
  endLsn: 0,
  durableLsn: 0,
  appliedLsn: 0,
  checkpointLsn: 0,
  pendingBytes: 0,
};

/** A group whose engine has volumes only is one without snapshots and log. */
export function controlOf(group: object): GroupControl {
  if ('snapshots' in group) return group as GroupControl;
  for (const volume of (group as { volumes: ReadonlyMap<string, object> }).volumes.values())
    if (!('settle' in volume)) Object.assign(volume, { settle: () => undefined });
  return Object.assign(group, {
    mode: 'direct',
    failure: undefined,
    stall: undefined,
    log: EMPTY_LOG,
    operations: [],
    snapshots: [],
    snapshotVolume: () => undefined,
  }) as unknown as GroupControl;
}
