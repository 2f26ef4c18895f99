/** What `status` says of a group and of a device. */
import { formatNbdUri, type NbdUri } from '../protocol/uri.ts';
import type { SessionStatus } from './connection.ts';
import type { DeviceView, GroupStatus, VolumeStatus } from './control/schemas.ts';
import type { LogStatus, OperationStatus, SnapshotStatus } from './control/snapshot-schemas.ts';
import { exportNameOf } from './exports.ts';
import type { GroupControl, SnapshotView } from './group-control.ts';
import type { AttachedDevice } from './kernel/kernel-devices.ts';
import { linkStatusOf, replicaStatusOf } from './link-status.ts';

/** What surrounds the groups when their status is taken. */
export interface StatusContext {
  readonly sessions: readonly SessionStatus[];
  readonly devices: readonly AttachedDevice[];
  /** A listener that clients on this machine reach. */
  readonly localUri: NbdUri | undefined;
}

export function groupStatusOf(
  group: GroupControl,
  operations: readonly OperationStatus[],
  context: StatusContext,
): GroupStatus {
  return {
    name: group.name,
    id: group.id,
    state: 'open',
    reason: null,
    role: group.role,
    createdAt: group.createdAt,
    term: null,
    generation: null,
    mode: group.mode,
    failure: group.failure ?? null,
    stall: group.stall ?? null,
    log: logStatusOf(group),
    counters: { ...group.counters },
    volumes: [...group.volumes.values()].map((volume): VolumeStatus => {
      return {
        name: volume.name,
        ...exportStatusOf(exportNameOf(group.name, volume.name), context),
        size: volume.sizeBytes,
        regionSize: volume.regionBytes,
        writtenRegions: volume.written.count,
        totalRegions: volume.written.length,
        readOnly: volume.readOnly,
        failure: volume.failure ?? null,
      };
    }),
    snapshots: group.snapshots.map((snapshot) => snapshotStatusOf(group, snapshot, context)),
    operations: [...operations],
    links: (group.links?.views() ?? []).map(linkStatusOf),
    replica: group.replica === undefined ? null : replicaStatusOf(group.replica),
  };
}

function logStatusOf({ log }: GroupControl): LogStatus {
  return {
    size: log.sizeBytes,
    used: log.usedBytes,
    pending: log.pendingBytes,
    endLsn: log.endLsn,
    durableLsn: log.durableLsn,
    appliedLsn: log.appliedLsn,
    checkpointLsn: log.checkpointLsn,
  };
}

export function snapshotStatusOf(
  group: GroupControl,
  snapshot: SnapshotView,
  context: StatusContext,
): SnapshotStatus {
  return {
    id: snapshot.id,
    name: snapshot.name,
    lsn: snapshot.lsn,
    createdAt: snapshot.createdAt,
    local: snapshot.local,
    undoOf: snapshot.undoOf === undefined ? null : [...snapshot.undoOf],
    state: snapshot.state,
    volumes: snapshot.volumes.map((volume) => ({
      name: volume.name,
      ...exportStatusOf(exportNameOf(group.name, volume.name, snapshot.name), context),
      preservedRegions: volume.preservedRegions,
      modifiedRegions: volume.modifiedRegions,
    })),
  };
}

/** Where an export is found, and who uses it. */
function exportStatusOf(
  exportName: string,
  context: StatusContext,
): { export: string; uri: string | null; sessions: number; devices: string[] } {
  return {
    export: exportName,
    uri: context.localUri === undefined ? null : formatNbdUri({ ...context.localUri, exportName }),
    sessions: context.sessions.filter((session) => session.exportName === exportName).length,
    devices: context.devices
      .filter((device) => device.exportName === exportName)
      .map((device) => device.device),
  };
}

export function failedGroupStatus(name: string, reason: string): GroupStatus {
  return {
    name,
    id: null,
    state: 'failed',
    reason,
    role: null,
    createdAt: null,
    term: null,
    generation: null,
    mode: null,
    failure: null,
    stall: null,
    log: null,
    counters: null,
    volumes: [],
    snapshots: [],
    operations: [],
    links: [],
    replica: null,
  };
}

export function deviceViewOf(device: AttachedDevice): DeviceView {
  return {
    device: device.device,
    export: device.exportName,
    size: device.sizeBytes,
    blockSize: device.blockBytes,
    connections: device.connections,
    readOnly: device.readOnly,
    timeoutSeconds: device.timeoutSeconds,
    since: device.since,
    helperPid: device.helperPid,
  };
}
