/**
 * The shapes of the control API, each once: what requests are checked against, what OpenAPI shows, and the types that
 * the node, the client and the CLI share. Sizes are in bytes, times ISO 8601 in UTC.
 */
import { type Static, Type } from 'typebox';
import { MAX_VOLUMES_PER_GROUP } from '../../engine/group-spec.ts';
import { MAX_DEVICE_CONNECTIONS } from '../kernel/device-limits.ts';
import { LinkStatus, ReplicaStatus } from './link-schemas.ts';
import { Count, nullable } from './shapes.ts';
import { LogStatus, OperationStatus, SnapshotStatus } from './snapshot-schemas.ts';

export const NodeSummary = Type.Object({
  id: Type.String(),
  version: Type.String(),
  pid: Type.Integer(),
  state: Type.String({ description: 'the state folder' }),
  startedAt: Type.String(),
  listen: Type.Array(Type.String(), { description: 'NBD URIs listened at' }),
  advertise: nullable(Type.String()),
});
export type NodeSummary = Static<typeof NodeSummary>;

export const VolumeStatus = Type.Object({
  name: Type.String(),
  export: Type.String({ description: 'GROUP/VOLUME' }),
  uri: nullable(Type.String({ description: 'where a client on this machine finds it' })),
  size: Count,
  regionSize: Count,
  writtenRegions: Count,
  totalRegions: Count,
  readOnly: Type.Boolean({ description: 'its file or device cannot be written' }),
  sessions: Count,
  devices: Type.Array(Type.String()),
  failure: nullable(Type.String()),
});
export type VolumeStatus = Static<typeof VolumeStatus>;

export const GroupStatus = Type.Object({
  name: Type.String(),
  id: nullable(Type.String()),
  state: Type.Union([Type.Literal('open'), Type.Literal('failed')]),
  reason: nullable(Type.String({ description: 'why it failed' })),
  role: nullable(Type.String()),
  createdAt: nullable(Type.String()),
  term: nullable(Type.Integer()),
  generation: nullable(Type.Integer()),
  mode: nullable(
    Type.Union([Type.Literal('direct'), Type.Literal('logged')], {
      description:
        'direct: writes go straight to the volumes, as long as the group has neither snapshot nor link and is no replica',
    }),
  ),
  failure: nullable(Type.String({ description: 'why it takes no more writes' })),
  stall: nullable(Type.String({ description: 'why what is logged is not applied: a full disk, …' })),
  log: nullable(LogStatus),
  counters: nullable(
    Type.Object(
      { regionsPreserved: Count, regionsRestored: Count },
      { description: 'regions copied before they were overwritten, and by restores, since the node started' },
    ),
  ),
  volumes: Type.Array(VolumeStatus),
  snapshots: Type.Array(SnapshotStatus, { description: 'oldest first' }),
  operations: Type.Array(OperationStatus),
  links: Type.Array(LinkStatus),
  replica: nullable(ReplicaStatus),
});
export type GroupStatus = Static<typeof GroupStatus>;

export const SessionView = Type.Object({
  id: Type.Integer(),
  exportName: Type.String(),
  peer: Type.String(),
  since: Type.String(),
  readOnly: Type.Boolean(),
  kernelDevice: Type.Boolean({ description: 'it is a kernel device of this node' }),
  link: nullable(
    Type.String({ description: 'of another node: the link that it belongs to, empty until that is known' }),
  ),
  bytesRead: Count,
  bytesWritten: Count,
  requests: Count,
  inFlight: Count,
});
export type SessionView = Static<typeof SessionView>;

export const DeviceView = Type.Object({
  device: Type.String({ description: 'such as /dev/nbd0' }),
  export: Type.String(),
  size: Count,
  blockSize: Count,
  connections: Count,
  readOnly: Type.Boolean(),
  timeoutSeconds: Count,
  since: Type.String(),
  helperPid: Type.Integer(),
});
export type DeviceView = Static<typeof DeviceView>;

export const NodeStatus = Type.Object({
  node: NodeSummary,
  groups: Type.Array(GroupStatus),
  sessions: Type.Array(SessionView),
  devices: Type.Array(DeviceView),
});
export type NodeStatus = Static<typeof NodeStatus>;

export const VolumeRequest = Type.Object(
  {
    name: Type.String({ maxLength: 256 }),
    size: Type.Optional(Type.Integer({ minimum: 1, description: 'may be left out for a file that exists' })),
    file: Type.Optional(
      Type.String({ minLength: 1, maxLength: 4096, description: 'absolute path of a file or block device' }),
    ),
  },
  { additionalProperties: false },
);

export const GroupRequest = Type.Object(
  {
    name: Type.String({ maxLength: 256 }),
    regionSize: Type.Optional(Type.Integer({ minimum: 1 })),
    logSize: Type.Optional(Type.Integer({ minimum: 1, description: 'of the log; 1 GiB unless told' })),
    logFile: Type.Optional(
      Type.String({ minLength: 1, maxLength: 4096, description: 'absolute path of a file or block device' }),
    ),
    onDiskFull: Type.Optional(
      Type.Union([Type.Literal('hold'), Type.Literal('give-up')], {
        description: 'hold the writers (default), or give up the oldest snapshots',
      }),
    ),
    replica: Type.Optional(
      Type.Object(
        { applyDelaySeconds: Type.Optional(Count) },
        { additionalProperties: false, description: 'it takes writes from a primary only' },
      ),
    ),
    /** How many it may be is said by the engine, in better words than a schema's. */
    volumes: Type.Array(VolumeRequest, { description: `from 1 to ${MAX_VOLUMES_PER_GROUP}` }),
  },
  { additionalProperties: false },
);
export type GroupRequest = Static<typeof GroupRequest>;

export const AttachRequest = Type.Object(
  {
    export: Type.String({ maxLength: 256, description: 'GROUP/VOLUME or GROUP/VOLUME@SNAPSHOT' }),
    device: Type.Optional(Type.String({ pattern: '^/dev/nbd[0-9]{1,5}$' })),
    connections: Type.Optional(Type.Integer({ minimum: 1, maximum: MAX_DEVICE_CONNECTIONS })),
    readOnly: Type.Optional(Type.Boolean()),
    timeoutSeconds: Type.Optional(Type.Integer({ minimum: 0, maximum: 86_400 })),
  },
  { additionalProperties: false },
);
export type AttachRequest = Static<typeof AttachRequest>;

export const EventView = Type.Object({
  id: Type.Integer(),
  time: Type.String(),
  type: Type.String(),
  message: Type.String(),
  group: Type.Optional(Type.String()),
  data: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
});
export type EventView = Static<typeof EventView>;

export const EventList = Type.Object({
  events: Type.Array(EventView),
  /** Give it back as `since` to go on. */
  lastId: Count,
});
export type EventList = Static<typeof EventList>;

export const GroupPath = Type.Object({ group: Type.String({ maxLength: 256 }) });
export const DevicePath = Type.Object({ name: Type.String({ pattern: '^nbd[0-9]{1,5}$' }) });
export const ForceQuery = Type.Object(
  { force: Type.Optional(Type.Union([Type.Literal('true'), Type.Literal('false')])) },
  { additionalProperties: false },
);
export const EventQuery = Type.Object(
  { since: Type.Optional(Type.String({ pattern: '^[0-9]{1,15}$' })) },
  { additionalProperties: false },
);
