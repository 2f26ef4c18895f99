/**
 * Replies to options ("Option reply types"), in both directions: what a server sends, and what a client makes of it.
 */
import {
  NBD_INFO_BLOCK_SIZE,
  NBD_INFO_DESCRIPTION,
  NBD_INFO_EXPORT,
  NBD_INFO_NAME,
  NBD_REP_ACK,
  NBD_REP_INFO,
  NBD_REP_META_CONTEXT,
  NBD_REP_SERVER,
  OPTION_REPLY_MAGIC,
} from './constants.ts';
import {
  encoded,
  infoBlockSizeLayout,
  infoExportLayout,
  infoTextLayout,
  metaContextReplyLayout,
  optionReplyHeaderLayout,
} from './layouts.ts';
import {
  LARGEST_MINIMUM_BLOCK_BYTES,
  MAX_ERROR_TEXT_BYTES,
  SMALLEST_PREFERRED_BLOCK_BYTES,
} from './limits.ts';
import { type Decoded, encodeSizedString, FieldReader, malformed } from './options.ts';
import type { MetaContext } from './session.ts';
import { clip, decodeString, displayText, encodeString } from './text.ts';

/** A reply with its header, as a server sends it. */
export function encodeReply(option: number, type: number, data: Buffer = Buffer.alloc(0)): Buffer {
  const header = { magic: OPTION_REPLY_MAGIC, option, type, lengthBytes: data.length };
  return Buffer.concat([encoded(optionReplyHeaderLayout, header), data]);
}

export function encodeAck(option: number): Buffer {
  return encodeReply(option, NBD_REP_ACK);
}

/** An error reply with "an error message string suitable for display to the user". */
export function encodeErrorReply(option: number, type: number, text: string): Buffer {
  return encodeReply(option, type, encodeString(clip(text, MAX_ERROR_TEXT_BYTES)));
}

/** An entry of LIST: the name, then "some implementation-specific details about the export", for us its description. */
export function encodeServerReply(option: number, name: string, description: string): Buffer {
  return encodeReply(
    option,
    NBD_REP_SERVER,
    Buffer.concat([encodeSizedString(name), encodeString(description)]),
  );
}

export function encodeInfoExport(option: number, sizeBytes: number, transmissionFlags: number): Buffer {
  const info = { infoType: NBD_INFO_EXPORT, sizeBytes: BigInt(sizeBytes), transmissionFlags };
  return encodeReply(option, NBD_REP_INFO, encoded(infoExportLayout, info));
}

/** INFO_NAME or INFO_DESCRIPTION. */
export function encodeInfoText(option: number, infoType: number, text: string): Buffer {
  return encodeReply(
    option,
    NBD_REP_INFO,
    Buffer.concat([encoded(infoTextLayout, { infoType }), encodeString(text)]),
  );
}

/** What a server asks its clients to keep to ("Block size constraints"), in bytes. */
export interface BlockSizes {
  readonly minimumBlockBytes: number;
  readonly preferredBlockBytes: number;
  /** Of READ and WRITE; the other commands carry no payload. 0xffffffff when the server names no limit. */
  readonly maximumPayloadBytes: number;
}

export function encodeInfoBlockSize(option: number, sizes: BlockSizes): Buffer {
  const { minimumBlockBytes, preferredBlockBytes, maximumPayloadBytes } = sizes;
  const info = {
    infoType: NBD_INFO_BLOCK_SIZE,
    minimumBlockBytes,
    preferredBlockBytes,
    maximumPayloadBytes,
  };
  return encodeReply(option, NBD_REP_INFO, encoded(infoBlockSizeLayout, info));
}

/** A metadata context that an export has (LIST) or that the session uses from now on (SET). */
export function encodeMetaContextReply(option: number, contextId: number, name: string): Buffer {
  return encodeReply(
    option,
    NBD_REP_META_CONTEXT,
    Buffer.concat([encoded(metaContextReplyLayout, { contextId }), encodeString(name)]),
  );
}

/** An entry of a server's list, as a client sees it. */
export interface ListedExport {
  readonly name: string;
  readonly description: string;
}

export function decodeServerReply(data: Buffer): Decoded<ListedExport> {
  const reader = new FieldReader(data);
  const name = reader.string('export name');
  if (!name.ok) return name;
  // The rest is for human eyes only, so it is cleaned and cut instead of refused.
  const description = displayText(data.subarray(data.length - reader.remainingBytes));
  return { ok: true, value: { name: name.value, description } };
}

/** One NBD_REP_INFO, as a client sees it. */
export type Info =
  | { readonly type: 'export'; readonly sizeBytes: bigint; readonly transmissionFlags: number }
  | { readonly type: 'name'; readonly text: string }
  | { readonly type: 'description'; readonly text: string }
  | ({ readonly type: 'block-size' } & BlockSizes)
  /** "The client MUST ignore information replies it does not understand." */
  | { readonly type: 'unknown' };

export function decodeInfoReply(data: Buffer): Decoded<Info> {
  if (data.length < infoTextLayout.span) return malformed('information of less than two bytes');
  const { infoType } = infoTextLayout.decode(data);
  const rest = data.subarray(infoTextLayout.span);
  switch (infoType) {
    case NBD_INFO_EXPORT: {
      if (data.length !== infoExportLayout.span) return malformed(`NBD_INFO_EXPORT of ${data.length} bytes`);
      const { sizeBytes, transmissionFlags } = infoExportLayout.decode(data);
      return { ok: true, value: { type: 'export', sizeBytes, transmissionFlags } };
    }
    case NBD_INFO_NAME: {
      const text = decodeString(rest);
      if (text === undefined) return malformed('NBD_INFO_NAME is not UTF-8 without NUL');
      return { ok: true, value: { type: 'name', text } };
    }
    case NBD_INFO_DESCRIPTION:
      return { ok: true, value: { type: 'description', text: displayText(rest) } };
    case NBD_INFO_BLOCK_SIZE:
      return decodeInfoBlockSize(data);
    default:
      return { ok: true, value: { type: 'unknown' } };
  }
}

function decodeInfoBlockSize(data: Buffer): Decoded<Info> {
  if (data.length !== infoBlockSizeLayout.span)
    return malformed(`NBD_INFO_BLOCK_SIZE of ${data.length} bytes`);
  const sizes = infoBlockSizeLayout.decode(data);
  const wrong = wrongBlockSizes(sizes);
  if (wrong !== undefined) return malformed(wrong);
  const { minimumBlockBytes, preferredBlockBytes, maximumPayloadBytes } = sizes;
  return {
    ok: true,
    value: { type: 'block-size', minimumBlockBytes, preferredBlockBytes, maximumPayloadBytes },
  };
}

/** Why the sizes break a MUST of "Block size constraints" that a client relies on, or undefined. */
export function wrongBlockSizes(sizes: BlockSizes): string | undefined {
  const { minimumBlockBytes, preferredBlockBytes, maximumPayloadBytes } = sizes;
  if (!isPowerOfTwo(minimumBlockBytes) || minimumBlockBytes > LARGEST_MINIMUM_BLOCK_BYTES) {
    return `a minimum block of ${minimumBlockBytes} bytes`;
  }
  const smallestPreferred = Math.max(minimumBlockBytes, SMALLEST_PREFERRED_BLOCK_BYTES);
  if (!isPowerOfTwo(preferredBlockBytes) || preferredBlockBytes < smallestPreferred) {
    return `a preferred block of ${preferredBlockBytes} bytes`;
  }
  const unlimited = maximumPayloadBytes === 0xffffffff;
  if (
    !unlimited &&
    (maximumPayloadBytes < minimumBlockBytes || maximumPayloadBytes % minimumBlockBytes !== 0)
  ) {
    return `a maximum payload of ${maximumPayloadBytes} bytes`;
  }
  return undefined;
}

function isPowerOfTwo(value: number): boolean {
  return value > 0 && Number.isInteger(Math.log2(value));
}

export function decodeMetaContextReply(data: Buffer): Decoded<MetaContext> {
  if (data.length < metaContextReplyLayout.span) return malformed('a metadata context without an id');
  const { contextId } = metaContextReplyLayout.decode(data);
  const name = decodeString(data.subarray(metaContextReplyLayout.span));
  if (name === undefined || !name.includes(':')) return malformed('a metadata context without a proper name');
  return { ok: true, value: { id: contextId, name } };
}
