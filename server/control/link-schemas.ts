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
const ResyncPolicy = Type.Union([Type.Literal('auto'), Type.Literal('manual')], {
  description: 'whether regions are copied by themselves, or when a resync is asked for',
});
const OrderedOnly = Type.Boolean({
  description: 'restores that would have regions copied out of order are refused unless forced',
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
  resync: ResyncPolicy,
  orderedOnly: OrderedOnly,
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
  inMode: Type.Boolean({ description: 'acknowledgements wait for it as its mode has it; else onLost holds' }),
  notInModeBecause: nullable(Type.String()),
  heldRequests: Type.Integer({
    minimum: 0,
    description: 'whose acknowledgements wait for it now, in its mode or not',
  }),
  heldSeconds: Type.Number({ minimum: 0, description: 'for how long the oldest of these has' }),
  reason: nullable(Type.String()),
  waitsFor: nullable(Type.String({ description: 'what has to happen for it to go on' })),
  lagBytes: Count,
  lagSeconds: Type.Number({ minimum: 0 }),
  lagRecords: nullable(
    Type.Integer({
      minimum: 0,
      description: 'approximate; null: some of it was logged before the node started',
    }),
  ),
  shippedBytesPerSecond: nullable(
    Type.Number({ minimum: 0, description: 'of the log, over the last ten seconds' }),
  ),
  resyncedBytesPerSecond: nullable(
    Type.Number({ minimum: 0, description: 'of regions, over the last ten seconds' }),
  ),
  secondsLeft: nullable(
    Type.Number({
      minimum: 0,
      description: 'until nothing is left of regions, or else of the log, at these rates',
    }),
  ),
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
  refused: nullable(
    Type.String({ description: 'why the restore is refused because of it unless it is forced' }),
  ),
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
  endLsn: Type.Integer({ minimum: 0, description: 'what it has received' }),
  durableLsn: Count,
  appliedLsn: Count,
  horizonLsn: Type.Integer({ minimum: 0, description: 'what is part of its volumes' }),
  shows: Type.Object(
    {
      image: Type.Union([Type.Literal('volumes'), Type.Literal('guard'), Type.Literal('nothing')], {
        description: 'the volumes; the image from before a resync; nothing, before the first has ended',
      }),
      lsn: nullable(Count),
      until: nullable(
        Type.String({ description: 'when readers get the volumes: the apply delay after a resync' }),
      ),
    },
    { description: 'what readers of its volumes get' },
  ),
  resyncing: Type.Boolean({ description: 'regions come out of order' }),
  regionsReceived: Type.Integer({ minimum: 0, description: 'that the last resync has brought' }),
  bytesReceived: Type.Integer({ minimum: 0, description: 'that the last resync has brought' }),
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
  resync: Type.Optional(ResyncPolicy),
  orderedOnly: Type.Optional(OrderedOnly),
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

export const ReplicaSetRequest = Type.Object(
  { applyDelaySeconds: Count },
  { additionalProperties: false, description: 'what comes is applied so long after it came' },
);
export type ReplicaSetRequest = Static<typeof ReplicaSetRequest>;

export const LinkPath = Type.Object({ group: Name, link: Name });
