/** The shapes of the control API that have to do with comparing the two sides of a link. Sizes are in bytes, times ISO 8601 in UTC. */
import { type Static, Type } from 'typebox';
import { Count, ErrorBody, nullable } from './shapes.ts';

export const VerifyRequest = Type.Object(
  {
    mark: Type.Optional(Type.Boolean({ description: 'what differs is noted, and copied by a resync' })),
    rateBytesPerSecond: Type.Optional(
      Type.Integer({ minimum: 0, description: 'content read a second on each side at most; 0: no limit' }),
    ),
  },
  { additionalProperties: false },
);
export type VerifyRequest = Static<typeof VerifyRequest>;

export const VolumeVerificationStatus = Type.Object({
  name: Type.String(),
  regionsCompared: Type.Integer({ minimum: 0, description: 'that have content on either side' }),
  regionsDiffering: Count,
  runs: Type.Array(Type.Object({ region: Count, count: Count }), {
    description: 'the first 1000 runs of regions that differ',
  }),
});

export const VerificationStatus = Type.Object({
  id: Type.String(),
  link: Type.String(),
  state: Type.Union([Type.Literal('running'), Type.Literal('done'), Type.Literal('failed')]),
  mark: Type.Boolean(),
  rateBytesPerSecond: Count,
  begunAt: Type.String(),
  waitsFor: nullable(Type.String({ description: 'why it does not go on' })),
  lsn: nullable(Type.Integer({ minimum: 0, description: 'of both images' })),
  done: Type.Integer({ minimum: 0, description: 'regions passed, blank ones too' }),
  total: Count,
  checksumBytes: Type.Integer({ minimum: 0, description: 'of checksums that came over the link' }),
  regionsDiffering: Count,
  marked: Type.Boolean({ description: 'they are noted, durably' }),
  volumes: Type.Array(VolumeVerificationStatus),
  error: nullable(ErrorBody),
});
export type VerificationStatus = Static<typeof VerificationStatus>;
