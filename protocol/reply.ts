import {
  EXTENDED_REPLY_HEADER_BYTES,
  NBD_EXTENDED_REPLY_MAGIC,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_BLOCK_STATUS,
  NBD_REPLY_TYPE_BLOCK_STATUS_EXT,
  NBD_REPLY_TYPE_ERROR,
  NBD_REPLY_TYPE_NONE,
  NBD_REPLY_TYPE_OFFSET_DATA,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
  NBD_SUCCESS,
  SIMPLE_REPLY_HEADER_BYTES,
  STRUCTURED_REPLY_HEADER_BYTES,
} from './constants.ts';

const TWO_TO_32 = 0x1_0000_0000;

export type ReplyMode = 'simple' | 'structured' | 'extended';

/** An extent as `NBD_CMD_BLOCK_STATUS` tells it: status flags are those of its meta context. */
export interface BlockStatusExtent {
  readonly lengthBytes: number;
  readonly flags: number;
}

/** What of a request its reply repeats: eight opaque bytes and, with extended headers, the offset. A `RequestParser` is one. */
export interface ReplyTo {
  readonly cookieHigh: number;
  readonly cookieLow: number;
  readonly offsetHigh: number;
  readonly offsetLow: number;
}

/** Longest error text sent, in bytes; the specification allows 4096. */
export const MAX_ERROR_TEXT_BYTES = 256;

/**
 * Writes reply headers into a buffer of the caller ("Simple reply message", "Structured reply chunk message", "Extended
 * reply chunk message"). One for a session; it holds no state but the mode. Each method returns the position after what
 * it wrote; the caller has seen to the room, for which the sizes are told.
 */
export class ReplyEncoder {
  readonly mode: ReplyMode;
  /** Bytes before the data of a successful read. */
  readonly readHeaderBytes: number;
  /** Room that `writeDone` and `writeError` need at the most. */
  readonly maximumShortReplyBytes: number;
  readonly #chunkHeaderBytes: number;

  constructor(mode: ReplyMode) {
    this.mode = mode;
    this.#chunkHeaderBytes =
      mode === 'extended'
        ? EXTENDED_REPLY_HEADER_BYTES
        : mode === 'structured'
          ? STRUCTURED_REPLY_HEADER_BYTES
          : SIMPLE_REPLY_HEADER_BYTES;
    this.readHeaderBytes = mode === 'simple' ? SIMPLE_REPLY_HEADER_BYTES : this.#chunkHeaderBytes + 8;
    this.maximumShortReplyBytes = this.#chunkHeaderBytes + 6 + MAX_ERROR_TEXT_BYTES;
  }

  /**
   * The header of a successful read of `lengthBytes` bytes from the offset of the request; the data follow it. A zero-length read has no data
   * chunk (`OFFSET_DATA` of length 8 is illegal): use `writeDone`.
   */
  writeReadHeader(out: Buffer, at: number, to: ReplyTo, lengthBytes: number): number {
    if (this.mode === 'simple') return writeSimple(out, at, NBD_SUCCESS, to);
    const end = this.#writeChunk(
      out,
      at,
      NBD_REPLY_FLAG_DONE,
      NBD_REPLY_TYPE_OFFSET_DATA,
      to,
      8 + lengthBytes,
    );
    return writeOffset(out, end, to);
  }

  /** Success without a payload. */
  writeDone(out: Buffer, at: number, to: ReplyTo): number {
    if (this.mode === 'simple') return writeSimple(out, at, NBD_SUCCESS, to);
    return this.#writeChunk(out, at, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, to, 0);
  }

  /** An error, with a text for a person where the mode has room for one. */
  writeError(out: Buffer, at: number, to: ReplyTo, error: number, text: string): number {
    if (this.mode === 'simple') return writeSimple(out, at, error, to);
    const payloadAt = at + this.#chunkHeaderBytes;
    const textBytes = out.write(text, payloadAt + 6, MAX_ERROR_TEXT_BYTES, 'utf8');
    out.writeUInt32BE(error, payloadAt);
    out.writeUInt16BE(textBytes, payloadAt + 4);
    this.#writeChunk(out, at, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR, to, 6 + textBytes);
    return payloadAt + 6 + textBytes;
  }

  /** Room that `writeBlockStatus` needs for so many extents. */
  blockStatusBytes(extentCount: number): number {
    return this.#chunkHeaderBytes + (this.mode === 'extended' ? 8 + 16 * extentCount : 4 + 8 * extentCount);
  }

  /**
   * One chunk of `NBD_CMD_BLOCK_STATUS` for one context. `done` marks the last one of the reply. Lengths of extents are below 4 GiB
   * unless headers are extended.
   */
  writeBlockStatus(
    out: Buffer,
    at: number,
    to: ReplyTo,
    contextId: number,
    extents: readonly BlockStatusExtent[],
    done: boolean,
  ): number {
    const extended = this.mode === 'extended';
    let end = this.#writeChunk(
      out,
      at,
      done ? NBD_REPLY_FLAG_DONE : 0,
      extended ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT : NBD_REPLY_TYPE_BLOCK_STATUS,
      to,
      this.blockStatusBytes(extents.length) - this.#chunkHeaderBytes,
    );
    end = out.writeUInt32BE(contextId, end);
    if (extended) end = out.writeUInt32BE(extents.length, end);
    for (const extent of extents) {
      if (extended) {
        end = writeUInt64(out, end, extent.lengthBytes);
        end = writeUInt64(out, end, extent.flags);
      } else {
        end = out.writeUInt32BE(extent.lengthBytes, end);
        end = out.writeUInt32BE(extent.flags, end);
      }
    }
    return end;
  }

  #writeChunk(
    out: Buffer,
    at: number,
    flags: number,
    type: number,
    to: ReplyTo,
    payloadBytes: number,
  ): number {
    const extended = this.mode === 'extended';
    out.writeUInt32BE(extended ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC, at);
    out.writeUInt16BE(flags, at + 4);
    out.writeUInt16BE(type, at + 6);
    out.writeUInt32BE(to.cookieHigh, at + 8);
    out.writeUInt32BE(to.cookieLow, at + 12);
    if (!extended) return out.writeUInt32BE(payloadBytes, at + 16);
    writeOffset(out, at + 16, to);
    return writeUInt64(out, at + 24, payloadBytes);
  }
}

function writeSimple(out: Buffer, at: number, error: number, to: ReplyTo): number {
  out.writeUInt32BE(NBD_SIMPLE_REPLY_MAGIC, at);
  out.writeUInt32BE(error, at + 4);
  out.writeUInt32BE(to.cookieHigh, at + 8);
  return out.writeUInt32BE(to.cookieLow, at + 12);
}

function writeOffset(out: Buffer, at: number, to: ReplyTo): number {
  out.writeUInt32BE(to.offsetHigh, at);
  return out.writeUInt32BE(to.offsetLow, at + 4);
}

function writeUInt64(out: Buffer, at: number, value: number): number {
  out.writeUInt32BE(Math.floor(value / TWO_TO_32), at);
  return out.writeUInt32BE(value % TWO_TO_32, at + 4);
}
