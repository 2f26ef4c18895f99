/** The shapes of the control API that have to do with links and replicas. Sizes are in bytes. */
import { type Static, Type } from 'typebox';
import { Count, Name, nullable } from './shapes.ts';

const Mode = Type.Union([Type.Literal('async'), Type.Literal('memory'), Type.Literal('sync')], {
  description: 'when a write is acknowledged: logged here; durable here and received there; durable on both',
});
const OnLost = Type.Union([Type.Literal('go-on'), Type.Literal('block')], {
  description: 'what a memory or sync link does to writers while it is not streaming',
});
const OnFull = Type.Union([Type.Literal('dcm'), Type.Literal('block'), Type.Literal('detach')], {
  description: 'what it does when it holds the log back past its limit',
});
const RestorePath = Type.Union([
  Type.Literal('pending'),
  Type.Literal('by reference'),
  Type.Literal('by regions'),
  Type.Literal('marked'),
]);

export const LinkStatus = Type.Object({
  id: Type.String(),
  name: Type.String(),
  uri: Type.String(),
  mode: Mode,
  onLost: OnLost,
  onFull: OnFull,
  limitBytes: Count,
  limitSeconds: Count,
  rateBytesPerSecond: Count,
  state: Type.Union([
    Type.Literal('connecting'),
    Type.Literal('resync'),
    Type.Literal('streaming'),
    Type.Literal('paused'),
    Type.Literal('detached'),
    Type.Literal('failed'),
  ]),
  reason: nullable(Type.String()),
  waitsFor: nullable(Type.String({ description: 'what has to happen for it to go on' })),
  lagBytes: Count,
  lagSeconds: Type.Number({ minimum: 0 }),
  dcmRegions: Type.Integer({ minimum: 0, description: 'regions that the secondary lacks, beside the log' }),
  bytesShipped: Type.Integer({ minimum: 0, description: 'of the log, since the node started' }),
  regionsResynced: Count,
  bytesResynced: Count,
  position: Type.Object({ baseLsn: Count, logLsn: nullable(Count) }),
  peerId: nullable(Type.String({ description: 'member at the other end, once it was met' })),
  lastRestore: nullable(Type.Object({ lsn: Count, path: RestorePath })),
});
export type LinkStatus = Static<typeof LinkStatus>;

export const LinkForecastView = Type.Object({
  link: Type.String(),
  path: RestorePath,
  bytes: Type.Integer({ minimum: 0, description: 'what would travel' }),
  note: nullable(Type.String()),
});
export type LinkForecastView = Static<typeof LinkForecastView>;

export const ReplicaStatus = Type.Object({
  memberId: Type.String({ description: "of this node's copy of the group" }),
  upstream: nullable(
    Type.Object(
      {
        link: Type.String(),
        memberId: Type.String(),
        path: Type.Array(Type.String(), { description: 'members that feed that one, the nearest first' }),
      },
      { description: 'the link that feeds it' },
    ),
  ),
  connected: Type.Boolean(),
  frozen: Type.Boolean(),
  applyDelaySeconds: Count,
  horizonLsn: Count,
  resyncing: Type.Boolean({ description: 'readers get the image from before, or nothing' }),
  holdingLsn: nullable(Count),
  heldBack: nullable(Type.String({ description: 'why it does not apply what it has' })),
  needsRegions: Type.Boolean({ description: 'it has asked for regions that are not in the log' }),
});
export type ReplicaStatus = Static<typeof ReplicaStatus>;

const Uri = Type.String({
  minLength: 1,
  maxLength: 16_384,
  description: 'NBD URI of the node; its export is the group there',
});
const Secret = Type.String({ maxLength: 256, description: 'of the group there, 64 hex digits; over TCP' });
const settings = {
  mode: Type.Optional(Mode),
  onLost: Type.Optional(OnLost),
  onFull: Type.Optional(OnFull),
  limitBytes: Type.Optional(Count),
  limitSeconds: Type.Optional(Count),
  rateBytesPerSecond: Type.Optional(Count),
  secret: Type.Optional(Secret),
};

export const LinkRequest = Type.Object(
  {
    uri: Uri,
    name: Type.Optional(Name),
    assumeEqual: Type.Optional(Type.Boolean({ description: 'the volumes have the same content already' })),
    ...settings,
  },
  { additionalProperties: false },
);
export type LinkRequest = Static<typeof LinkRequest>;

export const LinkSetRequest = Type.Object(
  { uri: Type.Optional(Uri), ...settings },
  { additionalProperties: false },
);
export type LinkSetRequest = Static<typeof LinkSetRequest>;

export const ResyncRequest = Type.Object(
  {
    full: Type.Optional(
      Type.Boolean({ description: 'everything is copied again, whatever the secondary has' }),
    ),
  },
  { additionalProperties: false },
);

export const LinkPath = Type.Object({ group: Name, link: Name });
