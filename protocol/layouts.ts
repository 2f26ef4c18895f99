/**
 * Every fixed layout of the NBD protocol, each once, as a struct. All integers are big-endian and there is no padding.
 *
 * The handshake reads and writes through these. The headers of the transmission phase are read and written by hand, because that is
 * three times as fast; their layouts here say what the bytes are, and the tests hold the hand-written code against them.
 */
import { Layout, struct, u16be, u32be } from 'buffer-layout';

/** A layout of known length: what is decoded from, and encoded to, `span` bytes at an offset. */
export interface FixedLayout<T> {
  readonly span: number;
  decode(bytes: Buffer, offset?: number): T;
  encode(value: T, bytes: Buffer, offset?: number): number;
}

/** An unsigned 64-bit integer as a BigInt. The package's own is a double, which corrupts what is above 2^53. */
class BigUint64 extends Layout<bigint> {
  readonly #littleEndian: boolean;

  constructor(property: string | undefined, littleEndian: boolean) {
    super(8, property);
    this.#littleEndian = littleEndian;
  }

  override decode(bytes: Buffer, offset = 0): bigint {
    return this.#littleEndian ? bytes.readBigUInt64LE(offset) : bytes.readBigUInt64BE(offset);
  }

  override encode(value: bigint, bytes: Buffer, offset = 0): number {
    if (this.#littleEndian) bytes.writeBigUInt64LE(value, offset);
    else bytes.writeBigUInt64BE(value, offset);
    return this.span;
  }
}

/** A field of 64 bits, big-endian, for structs on the wire. */
export const u64be = (property?: string): Layout<bigint> => new BigUint64(property, false);
/** A field of 64 bits, little-endian, for structs on disk. */
export const u64le = (property?: string): Layout<bigint> => new BigUint64(property, true);

/** A new buffer with the encoded value in it. */
export function encoded<T>(layout: FixedLayout<T>, value: T): Buffer {
  const bytes = Buffer.alloc(layout.span);
  layout.encode(value, bytes);
  return bytes;
}

// "Newstyle negotiation"

export interface Greeting {
  magic: bigint;
  optionMagic: bigint;
  handshakeFlags: number;
}
export const greetingLayout: FixedLayout<Greeting> = struct<Greeting>([
  u64be('magic'),
  u64be('optionMagic'),
  u16be('handshakeFlags'),
]);

export interface ClientFlags {
  clientFlags: number;
}
export const clientFlagsLayout: FixedLayout<ClientFlags> = struct<ClientFlags>([u32be('clientFlags')]);

/** Followed by `lengthBytes` of data. */
export interface OptionHeader {
  magic: bigint;
  option: number;
  lengthBytes: number;
}
export const optionHeaderLayout: FixedLayout<OptionHeader> = struct<OptionHeader>([
  u64be('magic'),
  u32be('option'),
  u32be('lengthBytes'),
]);

/** The answer to EXPORT_NAME; followed by `EXPORT_NAME_ZEROES_BYTES` unless both sides agreed on NO_ZEROES. */
export interface ExportNameReply {
  sizeBytes: bigint;
  transmissionFlags: number;
}
export const exportNameReplyLayout: FixedLayout<ExportNameReply> = struct<ExportNameReply>([
  u64be('sizeBytes'),
  u16be('transmissionFlags'),
]);
export const EXPORT_NAME_ZEROES_BYTES = 124;

// "Fixed newstyle negotiation"

/** Followed by `lengthBytes` of data. */
export interface OptionReplyHeader {
  magic: bigint;
  option: number;
  type: number;
  lengthBytes: number;
}
export const optionReplyHeaderLayout: FixedLayout<OptionReplyHeader> = struct<OptionReplyHeader>([
  u64be('magic'),
  u32be('option'),
  u32be('type'),
  u32be('lengthBytes'),
]);

// "Option reply types"

export interface InfoExport {
  infoType: number;
  sizeBytes: bigint;
  transmissionFlags: number;
}
export const infoExportLayout: FixedLayout<InfoExport> = struct<InfoExport>([
  u16be('infoType'),
  u64be('sizeBytes'),
  u16be('transmissionFlags'),
]);

export interface InfoBlockSize {
  infoType: number;
  minimumBlockBytes: number;
  preferredBlockBytes: number;
  maximumPayloadBytes: number;
}
export const infoBlockSizeLayout: FixedLayout<InfoBlockSize> = struct<InfoBlockSize>([
  u16be('infoType'),
  u32be('minimumBlockBytes'),
  u32be('preferredBlockBytes'),
  u32be('maximumPayloadBytes'),
]);

/** INFO_NAME and INFO_DESCRIPTION; followed by the string, to the end of the reply. */
export interface InfoText {
  infoType: number;
}
export const infoTextLayout: FixedLayout<InfoText> = struct<InfoText>([u16be('infoType')]);

/** Followed by the name of the context, to the end of the reply. */
export interface MetaContextReply {
  contextId: number;
}
export const metaContextReplyLayout: FixedLayout<MetaContextReply> = struct<MetaContextReply>([
  u32be('contextId'),
]);

// "Request message". Cookies are opaque; as integers here only because a struct has to show them as something.

/** Followed by `lengthBytes` of data when it is a WRITE. */
export interface RequestHeader {
  magic: number;
  flags: number;
  type: number;
  cookie: bigint;
  offsetBytes: bigint;
  lengthBytes: number;
}
export const requestLayout: FixedLayout<RequestHeader> = struct<RequestHeader>([
  u32be('magic'),
  u16be('flags'),
  u16be('type'),
  u64be('cookie'),
  u64be('offsetBytes'),
  u32be('lengthBytes'),
]);

/** Followed by `lengthBytes` of payload when the flag PAYLOAD_LEN is set. */
export interface ExtendedRequestHeader {
  magic: number;
  flags: number;
  type: number;
  cookie: bigint;
  offsetBytes: bigint;
  lengthBytes: bigint;
}
export const extendedRequestLayout: FixedLayout<ExtendedRequestHeader> = struct<ExtendedRequestHeader>([
  u32be('magic'),
  u16be('flags'),
  u16be('type'),
  u64be('cookie'),
  u64be('offsetBytes'),
  u64be('lengthBytes'),
]);

/** The payload of a BLOCK_STATUS request with PAYLOAD_LEN; followed by the context ids, 32 bits each. */
export interface BlockStatusRequest {
  effectLengthBytes: bigint;
}
export const blockStatusRequestLayout: FixedLayout<BlockStatusRequest> = struct<BlockStatusRequest>([
  u64be('effectLengthBytes'),
]);

// "Simple reply message", "Structured reply chunk message", "Extended reply chunk message"

/** Followed by the data when it answers a READ and `error` is 0. */
export interface SimpleReply {
  magic: number;
  error: number;
  cookie: bigint;
}
export const simpleReplyLayout: FixedLayout<SimpleReply> = struct<SimpleReply>([
  u32be('magic'),
  u32be('error'),
  u64be('cookie'),
]);

/** Followed by `lengthBytes` of payload, as the type says. */
export interface StructuredReply {
  magic: number;
  flags: number;
  type: number;
  cookie: bigint;
  lengthBytes: number;
}
export const structuredReplyLayout: FixedLayout<StructuredReply> = struct<StructuredReply>([
  u32be('magic'),
  u16be('flags'),
  u16be('type'),
  u64be('cookie'),
  u32be('lengthBytes'),
]);

/** Followed by `lengthBytes` of payload. `offsetBytes` repeats the offset of the request. */
export interface ExtendedReply {
  magic: number;
  flags: number;
  type: number;
  cookie: bigint;
  offsetBytes: bigint;
  lengthBytes: bigint;
}
export const extendedReplyLayout: FixedLayout<ExtendedReply> = struct<ExtendedReply>([
  u32be('magic'),
  u16be('flags'),
  u16be('type'),
  u64be('cookie'),
  u64be('offsetBytes'),
  u64be('lengthBytes'),
]);

// "Structured reply types": what the payload of a chunk starts with.

/** OFFSET_DATA; followed by the data. Also the end of an ERROR_OFFSET, after its message. */
export interface ChunkOffset {
  offsetBytes: bigint;
}
export const chunkOffsetLayout: FixedLayout<ChunkOffset> = struct<ChunkOffset>([u64be('offsetBytes')]);

/** OFFSET_HOLE, whole. The hole's length has 32 bits in extended replies too. */
export interface ChunkHole {
  offsetBytes: bigint;
  holeBytes: number;
}
export const chunkHoleLayout: FixedLayout<ChunkHole> = struct<ChunkHole>([
  u64be('offsetBytes'),
  u32be('holeBytes'),
]);

/** ERROR and ERROR_OFFSET; followed by `messageBytes` of text. */
export interface ChunkError {
  error: number;
  messageBytes: number;
}
export const chunkErrorLayout: FixedLayout<ChunkError> = struct<ChunkError>([
  u32be('error'),
  u16be('messageBytes'),
]);

/** BLOCK_STATUS; followed by `StatusExtent`s. */
export interface ChunkStatus {
  contextId: number;
}
export const chunkStatusLayout: FixedLayout<ChunkStatus> = struct<ChunkStatus>([u32be('contextId')]);

export interface StatusExtent {
  lengthBytes: number;
  status: number;
}
export const statusExtentLayout: FixedLayout<StatusExtent> = struct<StatusExtent>([
  u32be('lengthBytes'),
  u32be('status'),
]);

/** BLOCK_STATUS_EXT; followed by `descriptors` `ExtendedStatusExtent`s. */
export interface ChunkExtendedStatus {
  contextId: number;
  descriptors: number;
}
export const chunkExtendedStatusLayout: FixedLayout<ChunkExtendedStatus> = struct<ChunkExtendedStatus>([
  u32be('contextId'),
  u32be('descriptors'),
]);

export interface ExtendedStatusExtent {
  lengthBytes: bigint;
  status: bigint;
}
export const extendedStatusExtentLayout: FixedLayout<ExtendedStatusExtent> = struct<ExtendedStatusExtent>([
  u64be('lengthBytes'),
  u64be('status'),
]);
