/** The group as the simulator uses it. What an engine does not have yet is left out of a run: see `supported`. */
import type { BlockDevice } from '../../engine/block-device.ts';
import type { Clock } from '../../engine/clock.ts';
import type { Disk, DiskFolder } from '../../engine/disk/disk.ts';
import { Group } from '../../engine/group.ts';
import type { RegionMapView, RegionRun } from '../../engine/map/region-map.ts';

export interface SimSnapshotView {
  readonly id: string;
  readonly name: string;
  readonly lsn: number;
  readonly local: boolean;
  readonly undoOf: readonly string[] | undefined;
  readonly state: string;
  readonly volumes: readonly {
    readonly name: string;
    readonly preservedRegions: number;
    readonly modifiedRegions: number;
  }[];
}

export interface SimRestorePlan {
  readonly volumes: readonly { readonly name: string; readonly regions: number; readonly bytes: number }[];
  readonly regions: number;
  readonly bytes: number;
}

export interface SimOperationView {
  readonly id: string;
  readonly kind: string;
  readonly done: number;
  readonly total: number;
}

export interface SimVolume extends BlockDevice {
  readonly name: string;
  readonly written: RegionMapView;
}

export interface SimGroup {
  readonly volumes: ReadonlyMap<string, SimVolume>;
  readonly mode: 'direct' | 'logged';
  readonly failure: string | undefined;
  readonly stall: string | undefined;
  readonly snapshots: readonly SimSnapshotView[];
  readonly operations: readonly SimOperationView[];
  readonly counters: { readonly regionsRestored: number };
  readonly log: {
    readonly endLsn: number;
    readonly durableLsn: number;
    readonly appliedLsn: number;
    readonly checkpointLsn: number;
  };
  snapshotVolume(snapshot: string, volume: string): BlockDevice | undefined;
  createSnapshot(name: string, options?: { local?: boolean }): Promise<SimSnapshotView>;
  deleteSnapshot(name: string): Promise<void>;
  renameSnapshot(name: string, to: string): Promise<void>;
  refreshSnapshot(name: string, options?: { force?: boolean }): Promise<SimSnapshotView>;
  detachSnapshot(name: string): Promise<void>;
  planRestore(name: string, options?: { volume?: string }): SimRestorePlan;
  restore(
    name: string,
    options?: { volume?: string },
  ): Promise<{ operation: string; plan: SimRestorePlan; undo: SimSnapshotView }>;
  changedRuns(volume: string, from: string, to: string | undefined, first: number, end: number): RegionRun[];
  import(
    volume: string,
    image: Disk,
  ): Promise<{ regionsCompared: number; regionsWritten: number; bytesWritten: number }>;
  settled(): Promise<void>;
  close(): Promise<void>;
}

export interface SimGroupSpec {
  readonly name: string;
  readonly regionBytes: number;
  readonly volumes: readonly { readonly name: string; readonly sizeBytes: number }[];
  readonly logBytes?: number;
  readonly onFull?: 'hold' | 'give-up';
}

export interface SimEvent {
  readonly type: string;
  readonly message: string;
  readonly data?: Readonly<Record<string, unknown>>;
}

export interface SimGroupOptions {
  readonly memoryBytes?: number;
  readonly copyBytesPerSecond?: number;
  readonly firstLsn?: number;
  readonly onEvent?: (event: SimEvent) => void;
}

interface GroupClass {
  create(folder: DiskFolder, spec: SimGroupSpec, clock: Clock, options: SimGroupOptions): Promise<SimGroup>;
  open(folder: DiskFolder, clock: Clock, options: SimGroupOptions): Promise<SimGroup>;
}

export const groups = Group as unknown as GroupClass;

/** Whether the engine has a member of the group. */
export function supported(member: keyof SimGroup): boolean {
  return member in Group.prototype;
}
