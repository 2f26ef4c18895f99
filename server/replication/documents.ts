/**
 * The documents that pass over the state export: JSON behind its length, each checked against its shape before anything is made of it. Fields that are
 * not known are passed over, so that a later node may say more; what changes the meaning of one gets another `REPLICATION_PROTOCOL`.
 */
import { type Static, type TSchema, Type } from 'typebox';
import { Value } from 'typebox/value';
import { EngineError, type EngineErrorCode } from '../../engine/errors.ts';
import { MAX_VOLUMES_PER_GROUP } from '../../engine/group-spec.ts';
import { MAX_PATH, REPLICATION_PROTOCOL } from '../../engine/link/peer.ts';
import { MIB } from '../../engine/units.ts';
import { describeShapeError } from '../shape-errors.ts';

/** Where things are in the state export, in bytes. */
export const STATE_OFFSET_BYTES = 0;
export const COMMAND_OFFSET_BYTES = 1 * MIB;
export const ANSWER_OFFSET_BYTES = 2 * MIB;
export const STATE_EXPORT_BYTES = 3 * MIB;
/** Room for a document and the length before it. 1024 snapshots with the longest names take a quarter of it. */
export const DOCUMENT_ROOM_BYTES = 1 * MIB;
/** A u32, little-endian. */
export const LENGTH_BYTES = 4;

const MAX_SNAPSHOTS_TOLD = 4096;

const Nat = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });
const Checksum = Type.Integer({ minimum: 0, maximum: 0xffff_ffff });
const Id = Type.String({ minLength: 1, maxLength: 64 });
const Label = Type.String({ maxLength: 256 });
const orNull = <Schema extends TSchema>(schema: Schema) => Type.Union([schema, Type.Null()]);

const LogOriginShape = Type.Object({
  groupId: Id,
  generation: Type.Object({ number: Nat, id: Id, firstLsn: Nat }),
});
const VolumesShape = Type.Array(Type.Object({ name: Label, sizeBytes: Nat }), {
  maxItems: MAX_VOLUMES_PER_GROUP,
});

export const PeerStateShape = Type.Object({
  protocol: Nat,
  memberId: Id,
  role: Type.Union([Type.Literal('primary'), Type.Literal('secondary')]),
  name: Label,
  origin: orNull(LogOriginShape),
  regionBytes: Nat,
  volumes: VolumesShape,
  logBytes: Nat,
  endLsn: Nat,
  endChain: Checksum,
  durableLsn: Nat,
  appliedLsn: Nat,
  horizonLsn: Nat,
  holding: orNull(Type.Object({ roundId: Id, lsn: Nat })),
  resyncing: Type.Boolean(),
  needs: Nat,
  restoredByReferenceLsn: orNull(Nat),
  heldBack: orNull(Type.String({ maxLength: 4096 })),
  snapshots: Type.Array(Type.Object({ id: Id, name: Label, lsn: Nat }), { maxItems: MAX_SNAPSHOTS_TOLD }),
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
  linkId: Id,
  linkName: Label,
  memberId: Id,
  path: Type.Array(Id, { maxItems: MAX_PATH }),
  regionBytes: Nat,
  volumes: VolumesShape,
  durableLsn: Nat,
});

const LogRestartShape = Type.Object({
  lsn: Nat,
  chain: Checksum,
  snapshots: Type.Array(Type.Object({ id: Id, name: Label }), { maxItems: MAX_SNAPSHOTS_TOLD }),
});

/** What is written at `COMMAND_OFFSET_BYTES`. `protocol` comes first in what is looked at: another one may have other shapes. */
export const CommandDocument = Type.Union([
  Type.Object({ protocol: Nat, call: Type.Literal('begin'), announcement: AnnouncementShape }),
  Type.Object({ protocol: Nat, call: Type.Literal('restart'), restart: LogRestartShape }),
  Type.Object({ protocol: Nat, call: Type.Literal('hold'), roundId: Id, lsn: Nat }),
  Type.Object({ protocol: Nat, call: Type.Literal('release'), roundId: Id, complete: Type.Boolean() }),
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
  if (Value.Check(schema, value)) return value;
  const errors = [...Value.Errors(schema, value)];
  throw new EngineError('invalid', `${what}${errors[0]?.instancePath ?? ''} ${describeShapeError(errors)}`);
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
