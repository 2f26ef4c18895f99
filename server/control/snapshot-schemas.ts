/** The shapes of the control API that have to do with snapshots, restores and other long work. Sizes are in bytes, times ISO 8601 in UTC. */
import { type Static, Type } from 'typebox';
import { LinkForecastView } from './link-schemas.ts';
import { Count, ErrorBody, Name, nullable } from './shapes.ts';

export const LogStatus = Type.Object({
  size: Count,
  used: Count,
  pending: Type.Integer({ minimum: 0, description: 'bytes of payload that are logged and not applied' }),
  endLsn: Count,
  durableLsn: Count,
  appliedLsn: Count,
  checkpointLsn: Count,
});
export type LogStatus = Static<typeof LogStatus>;

export const SnapshotVolumeStatus = Type.Object({
  name: Type.String(),
  export: Type.String({ description: 'GROUP/VOLUME@SNAPSHOT' }),
  uri: nullable(Type.String({ description: 'where a client on this machine finds it' })),
  preservedRegions: Type.Integer({ minimum: 0, description: 'regions of the volume changed since' }),
  modifiedRegions: Type.Integer({ minimum: 0, description: 'regions written through the snapshot' }),
  sessions: Count,
  devices: Type.Array(Type.String()),
});
export type SnapshotVolumeStatus = Static<typeof SnapshotVolumeStatus>;

export const SnapshotStatus = Type.Object({
  id: Type.String(),
  name: Type.String(),
  lsn: Count,
  createdAt: Type.String(),
  local: Type.Boolean({ description: 'on this node only' }),
  undoOf: nullable(
    Type.Array(Type.String(), { description: 'volumes that restoring it brings back to before a restore' }),
  ),
  state: Type.Union([
    Type.Literal('attached'),
    Type.Literal('detaching'),
    Type.Literal('detached'),
    Type.Literal('refreshing'),
  ]),
  volumes: Type.Array(SnapshotVolumeStatus),
});
export type SnapshotStatus = Static<typeof SnapshotStatus>;

export const OperationStatus = Type.Object({
  id: Type.String(),
  kind: Type.String({ description: 'restore, replay, detach, refresh, delete, import or verify' }),
  target: Type.String(),
  done: Count,
  total: Count,
  unit: Type.Union([Type.Literal('regions'), Type.Literal('bytes')]),
  state: Type.Union([Type.Literal('running'), Type.Literal('done'), Type.Literal('failed')]),
  waitsFor: nullable(Type.String({ description: 'why it does not go on: a full disk, a failed log' })),
  result: nullable(Type.Record(Type.String(), Type.Integer(), { description: 'figures, once it is done' })),
  error: nullable(ErrorBody),
});
export type OperationStatus = Static<typeof OperationStatus>;

export const RestorePlanView = Type.Object({
  snapshot: Type.String(),
  lsn: Count,
  volumes: Type.Array(Type.Object({ name: Type.String(), regions: Count, bytes: Count })),
  regions: Count,
  bytes: Type.Integer({ minimum: 0, description: 'what would be copied in the background' }),
  links: Type.Array(LinkForecastView, { description: 'what it would do on each link' }),
});
export type RestorePlanView = Static<typeof RestorePlanView>;

export const RestoreView = Type.Object({
  operation: OperationStatus,
  plan: RestorePlanView,
  undo: SnapshotStatus,
});
export type RestoreView = Static<typeof RestoreView>;

export const ChangesPage = Type.Object({
  from: Type.String({ description: 'a snapshot' }),
  to: nullable(Type.String({ description: 'a later snapshot; null: the volume as it is' })),
  extents: Type.Array(Type.Object({ offset: Count, length: Count }), {
    description: 'what may differ, in order, without overlap',
  }),
  next: nullable(Type.Integer({ minimum: 0, description: 'offset to go on from; null at the end' })),
});
export type ChangesPage = Static<typeof ChangesPage>;

export const SnapshotRequest = Type.Object(
  { name: Name, local: Type.Optional(Type.Boolean()) },
  { additionalProperties: false },
);
export type SnapshotRequest = Static<typeof SnapshotRequest>;

export const RenameRequest = Type.Object({ name: Name }, { additionalProperties: false });

export const RefreshRequest = Type.Object(
  {
    force: Type.Optional(
      Type.Boolean({ description: 'also one that was written or is in use: sessions and devices are ended' }),
    ),
  },
  { additionalProperties: false },
);

export const RestoreRequest = Type.Object(
  {
    volume: Type.Optional(Name),
    force: Type.Optional(Type.Boolean({ description: 'also while in use: sessions and devices are ended' })),
  },
  { additionalProperties: false },
);
export type RestoreRequest = Static<typeof RestoreRequest>;

export const ImportRequest = Type.Object(
  {
    file: Type.String({ minLength: 1, maxLength: 4096, description: 'absolute path, opened by the node' }),
    force: Type.Optional(Type.Boolean({ description: 'also while in use: sessions and devices are ended' })),
  },
  { additionalProperties: false },
);
export type ImportRequest = Static<typeof ImportRequest>;

export const SnapshotPath = Type.Object({ group: Name, snapshot: Name });
export const VolumePath = Type.Object({ group: Name, volume: Name });
export const OperationPath = Type.Object({ group: Name, operation: Name });
export const PlanQuery = Type.Object({ volume: Type.Optional(Name) }, { additionalProperties: false });
export const ChangesQuery = Type.Object(
  {
    from: Name,
    to: Type.Optional(Name),
    offset: Type.Optional(Type.String({ pattern: '^[0-9]{1,16}$' })),
  },
  { additionalProperties: false },
);
export type ChangesQuery = Static<typeof ChangesQuery>;
