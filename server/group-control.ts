/**
 * What the server asks of a group, as an interface: so that what is served, shown and guarded is tested with groups of a few lines.
 * `Group` of the engine is one.
 */
import type { BlockDevice } from '../engine/block-device.ts';
import type { Disk } from '../engine/disk/disk.ts';
import type { GroupMemory } from '../engine/group-memory.ts';
import type { GroupCounters } from '../engine/group-state.ts';
import type { ImportResult } from '../engine/import.ts';
import type { LogStatus } from '../engine/log/log-status.ts';
import type { RegionMapView, RegionRun } from '../engine/map/region-map.ts';
import type { OperationView } from '../engine/operations.ts';
import type { RestorePlan, RestoreResult, SnapshotView } from '../engine/snapshots.ts';
import type { RegionIndex } from '../engine/units.ts';
import type { LinkControl, ReplicaControl } from './link-control.ts';

export type { ImportResult } from '../engine/import.ts';
export type { LogStatus } from '../engine/log/log-status.ts';
export type { OperationView } from '../engine/operations.ts';
export type { RestorePlan, RestoreResult, SnapshotView } from '../engine/snapshots.ts';

/** A volume as it is listed. */
export interface ServedVolume extends BlockDevice {
  readonly name: string;
  readonly written: RegionMapView;
  onFailure(listener: (reason: string) => void): void;
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
  readonly log: LogStatus;
  readonly memory: GroupMemory;
  readonly counters: GroupCounters;
  readonly operations: readonly OperationView[];
  /** To its secondaries; absent where it can have none. */
  readonly links?: LinkControl | undefined;
  /** Of a secondary: what its primary's link talks to. */
  readonly replica?: ReplicaControl | undefined;
  createSnapshot(name: string, options?: { readonly local?: boolean }): Promise<SnapshotView>;
  deleteSnapshot(name: string): Promise<void>;
  renameSnapshot(name: string, to: string): Promise<void>;
  refreshSnapshot(name: string, options?: { readonly force?: boolean }): Promise<SnapshotView>;
  detachSnapshot(name: string): Promise<void>;
  planRestore(name: string, options?: { readonly volume?: string }): RestorePlan;
  restore(
    name: string,
    options?: { readonly volume?: string; readonly force?: boolean },
  ): Promise<RestoreResult>;
  import(volume: string, image: Disk): Promise<ImportResult>;
  close(): Promise<void>;
}

/** Opens a file or block device for an import, by absolute path. Throws `not-found`, `invalid`, `disk`. */
export type OpenImage = (path: string) => Promise<Disk>;
