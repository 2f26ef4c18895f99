/**
 * The documents that pass over the state export: JSON behind its length, each checked against its shape before anything is made of it. Fields that are
 * not known are passed over, so that a later node may say more; what changes the meaning of one gets another `REPLICATION_PROTOCOL`.
 */
import { type Static, type TSchema, Type } from 'typebox';
import { EngineError, type EngineErrorCode } from '../../engine/errors.ts';
import { MAX_VOLUMES_PER_GROUP } from '../../engine/group-spec.ts';
import { MAX_PATH, REPLICATION_PROTOCOL } from '../../engine/link/peer.ts';
import { MIB } from '../../engine/units.ts';
import { faultOf, hasShape, LogPosition, Nat, orNull, PeerName, RoundId, U32, Uuid } from './shapes.ts';

/** Where things are in the state export, in bytes. */
export const STATE_OFFSET_BYTES = 0;
export const COMMAND_OFFSET_BYTES = 1 * MIB;
export const ANSWER_OFFSET_BYTES = 2 * MIB;
export const STATE_EXPORT_BYTES = 3 * MIB;
/** Room for a document and the length before it. 1024 snapshots with the longest names take a quarter of it. */
export const DOCUMENT_ROOM_BYTES = 1 * MIB;
/** A u32, little-endian. */
export const LENGTH_BYTES = 4;

/** More than a group has (`MAX_SNAPSHOTS`). */
const MAX_SNAPSHOTS_TOLD = 1024;

const LogOriginShape = Type.Object({
  groupId: Uuid,
  generation: Type.Object({ number: U32, id: Uuid, firstLsn: LogPosition }),
});
const ToldSnapshotsShape = Type.Array(
  Type.Object({ id: Uuid, imageId: Uuid, name: PeerName, detached: Type.Boolean() }),
  { maxItems: MAX_SNAPSHOTS_TOLD },
);
const VolumesShape = Type.Array(Type.Object({ name: PeerName, sizeBytes: Nat }), {
  maxItems: MAX_VOLUMES_PER_GROUP,
});

export const PeerStateShape = Type.Object({
  protocol: Nat,
  memberId: Uuid,
  role: Type.Union([Type.Literal('primary'), Type.Literal('secondary')]),
  name: PeerName,
  handOvers: Nat,
  origin: orNull(LogOriginShape),
  regionBytes: Nat,
  volumes: VolumesShape,
  logBytes: Nat,
  endLsn: LogPosition,
  endChain: U32,
  durableLsn: LogPosition,
  appliedLsn: LogPosition,
  horizonLsn: LogPosition,
  holding: orNull(Type.Object({ roundId: RoundId, lsn: LogPosition })),
  resyncing: Type.Boolean(),
  needs: Nat,
  restoredByReferenceLsn: orNull(LogPosition),
  isShort: Type.Boolean(),
  heldBack: orNull(Type.String({ maxLength: 4096 })),
  snapshots: Type.Array(Type.Object({ id: Uuid, imageId: Uuid, name: PeerName, lsn: LogPosition }), {
    maxItems: MAX_SNAPSHOTS_TOLD,
  }),
  verifying: Type.Optional(
    Type.Object({ id: RoundId, lsn: orNull(LogPosition), refused: orNull(Type.String({ maxLength: 4096 })) }),
  ),
});

/** `proof`: of the server, when the client gave a nonce in the export's name. */
export const StateDocument = Type.Object({
  state: PeerStateShape,
  proof: Type.Optional(Type.String({ maxLength: 64 })),
});
export type StateDocument = Static<typeof StateDocument>;

const AnnouncementShape = Type.Object({
  protocol: Nat,
  origin: LogOriginShape,
  linkId: Uuid,
  linkName: PeerName,
  memberId: Uuid,
  path: Type.Array(Uuid, { maxItems: MAX_PATH }),
  regionBytes: Nat,
  volumes: VolumesShape,
  durableLsn: LogPosition,
  named: Type.Object({ lsn: LogPosition, snapshots: ToldSnapshotsShape }),
  handOvers: Type.Optional(Nat),
});

const LogRestartShape = Type.Object({
  lsn: LogPosition,
  chain: U32,
  snapshots: ToldSnapshotsShape,
});

/** What is written at `COMMAND_OFFSET_BYTES`. `protocol` comes first in what is looked at: another one may have other shapes. */
export const CommandDocument = Type.Union([
  Type.Object({ protocol: Nat, call: Type.Literal('begin'), announcement: AnnouncementShape }),
  Type.Object({ protocol: Nat, call: Type.Literal('restart'), restart: LogRestartShape }),
  Type.Object({ protocol: Nat, call: Type.Literal('hold'), roundId: RoundId, lsn: LogPosition }),
  Type.Object({ protocol: Nat, call: Type.Literal('release'), roundId: RoundId, complete: Type.Boolean() }),
  Type.Object({ protocol: Nat, call: Type.Literal('verify'), verifyId: RoundId }),
  Type.Object({ protocol: Nat, call: Type.Literal('end-verify'), verifyId: RoundId }),
]);
export type CommandDocument = Static<typeof CommandDocument>;

const CODES = [
  'invalid',
  'not-found',
  'exists',
  'in-use',
  'corrupt',
  'disk',
  'unavailable',
  'unsupported',
] as const satisfies readonly EngineErrorCode[];

/** What is read at `ANSWER_OFFSET_BYTES`: of the command that was carried out, or refused, last. */
export const AnswerDocument = Type.Union([
  Type.Object({
    ok: Type.Literal(true),
    /** Of `begin`. */
    session: Type.Optional(Type.Integer({ minimum: 1, maximum: 999_999_999_999_999 })),
    state: Type.Optional(PeerStateShape),
  }),
  Type.Object({
    ok: Type.Literal(false),
    code: Type.Enum(CODES),
    message: Type.String({ maxLength: 16_384 }),
    errno: Type.Optional(Type.String({ maxLength: 32 })),
  }),
]);
export type AnswerDocument = Static<typeof AnswerDocument>;

export function encodeDocument(document: StateDocument | CommandDocument | AnswerDocument): Buffer {
  const text = Buffer.from(JSON.stringify(document));
  const bytes = Buffer.allocUnsafe(LENGTH_BYTES + text.length);
  bytes.writeUInt32LE(text.length);
  text.copy(bytes, LENGTH_BYTES);
  if (bytes.length > DOCUMENT_ROOM_BYTES)
    throw new EngineError('unsupported', `a document of ${bytes.length} bytes is too long to be told`);
  return bytes;
}

/** How many bytes a document takes, by its first four. Throws `invalid` for one that cannot be. */
export function documentBytes(start: Buffer): number {
  const length = LENGTH_BYTES + (start.length < LENGTH_BYTES ? DOCUMENT_ROOM_BYTES : start.readUInt32LE());
  if (length > DOCUMENT_ROOM_BYTES) throw new EngineError('invalid', 'a document without a possible length');
  return length;
}

/** Reads a document that `encodeDocument` wrote; what follows it is not looked at. Throws `invalid`; `unsupported` for another protocol. */
export function decodeDocument<Schema extends TSchema>(
  what: string,
  schema: Schema,
  bytes: Buffer,
): Static<Schema> {
  const length = documentBytes(bytes);
  if (length > bytes.length)
    throw new EngineError('invalid', `${what} is cut off: ${bytes.length} of ${length} bytes came`);
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8', LENGTH_BYTES, length));
  } catch {
    throw new EngineError('invalid', `${what} is no JSON`);
  }
  refuseOtherProtocol(value);
  if (hasShape(schema, value)) return value;
  throw new EngineError('invalid', `${what}${faultOf(schema, value)}`);
}

function refuseOtherProtocol(value: unknown): void {
  if (typeof value !== 'object' || value === null) return;
  const { protocol, state } = value as { protocol?: unknown; state?: unknown };
  const said =
    protocol ??
    (typeof state === 'object' && state !== null ? (state as { protocol?: unknown }).protocol : undefined);
  if (typeof said === 'number' && said !== REPLICATION_PROTOCOL)
    throw new EngineError(
      'unsupported',
      `the other node speaks version ${said} of the replication protocol, this one ${REPLICATION_PROTOCOL}: run the same version of Tidemark on both`,
    );
}
