/** What `status` says of a group and of a device. */
import { formatNbdUri, type NbdUri } from '../protocol/uri.ts';
import type { SessionStatus } from './connection.ts';
import type { DeviceView, GroupStatus, VolumeStatus } from './control/schemas.ts';
import type { GroupControl } from './group-control.ts';
import type { AttachedDevice } from './kernel/kernel-devices.ts';

/** What surrounds the groups when their status is taken. */
export interface StatusContext {
  readonly sessions: readonly SessionStatus[];
  readonly devices: readonly AttachedDevice[];
  /** A listener that clients on this machine reach. */
  readonly localUri: NbdUri | undefined;
}

export function groupStatusOf(group: GroupControl, context: StatusContext): GroupStatus {
  return {
    name: group.name,
    id: group.id,
    state: 'open',
    reason: null,
    role: group.role,
    createdAt: group.createdAt,
    term: null,
    generation: null,
    log: null,
    volumes: [...group.volumes.values()].map((volume): VolumeStatus => {
      const exportName = `${group.name}/${volume.name}`;
      return {
        name: volume.name,
        export: exportName,
        uri: context.localUri === undefined ? null : formatNbdUri({ ...context.localUri, exportName }),
        size: volume.sizeBytes,
        regionSize: volume.regionBytes,
        writtenRegions: volume.written.count,
        totalRegions: volume.written.length,
        readOnly: volume.readOnly,
        sessions: context.sessions.filter((session) => session.exportName === exportName).length,
        devices: context.devices
          .filter((device) => device.exportName === exportName)
          .map((device) => device.device),
        failure: volume.failure ?? null,
      };
    }),
    snapshots: [],
    operations: [],
    links: [],
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
    log: null,
    volumes: [],
    snapshots: [],
    operations: [],
    links: [],
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
