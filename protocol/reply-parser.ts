import {
  EXTENDED_REPLY_HEADER_BYTES,
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_READ,
  NBD_EINVAL,
  NBD_EXTENDED_REPLY_MAGIC,
  NBD_MAX_STRING_BYTES,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_BLOCK_STATUS,
  NBD_REPLY_TYPE_BLOCK_STATUS_EXT,
  NBD_REPLY_TYPE_ERROR,
  NBD_REPLY_TYPE_ERROR_OFFSET,
  NBD_REPLY_TYPE_NONE,
  NBD_REPLY_TYPE_OFFSET_DATA,
  NBD_REPLY_TYPE_OFFSET_HOLE,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
  NBD_SUCCESS,
  SIMPLE_REPLY_HEADER_BYTES,
  STRUCTURED_REPLY_HEADER_BYTES,
} from './constants.ts';
import { type ExpectedReply, MAX_KEPT_EXTENTS, type Misfit } from './expected-reply.ts';
import type { BlockStatusExtent, ReplyMode } from './reply.ts';
import { displayText } from './text.ts';

const TWO_TO_32 = 0x1_0000_0000;
const ERROR_CHUNK = 1 << 15;

/** Longest error chunk taken, in bytes: error, length of the text, the longest string there is, and an offset. */
const MAX_ERROR_CHUNK_BYTES = 4 + 2 + NBD_MAX_STRING_BYTES + 8;

/** Longest block status chunk taken, in extents: nbdkit sends as many as that. */
const MAX_EXTENTS_IN_CHUNK = 1 << 20;

/** From so many bytes on it pays to let the socket fill the caller's buffer itself. */
export const MIN_DIRECT_BYTES = 16 * 1024;

export type ViolationKind =
  | 'bad-magic'
  | 'unknown-cookie'
  /** A kind of reply or chunk that may not answer this request, or not in this mode. */
  | 'wrong-reply'
  | 'bad-length'
  | 'bad-range'
  | 'unknown-context'
  /** The reply is over, and part of what was asked for has not come. */
  | 'incomplete';

/** How a server broke the protocol. The stream is of no further use. */
export interface ProtocolViolation {
  readonly kind: ViolationKind;
  readonly detail: string;
}

/** The requests in flight, as the parser needs them. It is called while bytes are read: it must not call the parser. */
export interface RepliesAwaited {
  find(cookieHigh: number, cookieLow: number): ExpectedReply | undefined;
  /** The reply is complete, and has to be found no more: `error` says whether the request succeeded. */
  finished(reply: ExpectedReply, cookieHigh: number, cookieLow: number): void;
}

type State = 'header' | 'chunk-length' | 'data-offset' | 'hole' | 'status' | 'extent' | 'error' | 'data';

/**
 * Reads the replies of a server ("Simple reply message", "Structured reply chunk message", extended replies), from pieces cut anywhere.
 * The client's counterpart of `RequestParser` and `ReplyEncoder`.
 *
 * Data of reads go from the receive buffer into the buffer of the request, or land there straight (`directTarget`). All
 * else is at most a few kilobytes: what is held does not depend on what the server says. A server that breaks the rules is a
 * `ProtocolViolation`; from then on the parser takes nothing more.
 */
export class ReplyParser {
  readonly #mode: ReplyMode;
  readonly #awaited: RepliesAwaited;
  readonly #contextIds: ReadonlySet<number>;

  #violation: ProtocolViolation | undefined;
  #state: State = 'header';
  /** Bytes that the current state reads as one; 0 in state `data`. */
  #needBytes: number;

  // A message that a cut went through is put together here; others are read where they lie.
  readonly #scratch: Buffer = Buffer.alloc(MAX_ERROR_CHUNK_BYTES);
  #gathered = 0;

  // The reply or chunk being read.
  #reply: ExpectedReply | undefined;
  #cookieHigh = 0;
  #cookieLow = 0;
  #flags = 0;
  #type = 0;
  #payloadBytes = 0;
  #dataAt = 0;
  #dataEnd = 0;
  #extents: BlockStatusExtent[] = [];
  #extentsLeft = 0;
  #extentBytesLeft = 0;

  /** `contextIds`: those of the meta contexts that were negotiated. */
  constructor(mode: ReplyMode, awaited: RepliesAwaited, contextIds: Iterable<number>) {
    this.#mode = mode;
    this.#awaited = awaited;
    this.#contextIds = new Set(contextIds);
    this.#needBytes = this.#headerBytes;
  }

  /** Takes all of `bytes`, and keeps no reference to them. Returns how the server broke the protocol, now or before, if it did. */
  receive(bytes: Buffer): ProtocolViolation | undefined {
    let at = 0;
    while (at < bytes.length && this.#violation === undefined) {
      if (this.#state === 'data') {
        at += this.#copyData(bytes, at);
        continue;
      }
      const missing = this.#needBytes - this.#gathered;
      if (this.#gathered === 0 && bytes.length - at >= missing) {
        at += missing;
        this.#read(bytes, at - missing);
        continue;
      }
      const taken = bytes.copy(this.#scratch, this.#gathered, at, at + missing);
      at += taken;
      this.#gathered += taken;
      if (taken < missing) break;
      this.#gathered = 0;
      this.#read(this.#scratch, 0);
    }
    return this.#violation;
  }

  /**
   * While the data of a read are coming, and many still lack: where they belong. The socket may fill it from its start, and
   * `landed` has to be told how far. Undefined: use a buffer of your own, and `receive`.
   */
  directTarget(): Buffer | undefined {
    if (this.#state !== 'data' || this.#dataEnd - this.#dataAt < MIN_DIRECT_BYTES) return undefined;
    return this.#reply?.target?.subarray(this.#dataAt, this.#dataEnd);
  }

  /** So many bytes are in the buffer that `directTarget` gave last. */
  landed(byteCount: number): ProtocolViolation | undefined {
    this.#dataAt += byteCount;
    if (this.#dataAt === this.#dataEnd) this.#endChunk();
    return this.#violation;
  }

  get #headerBytes(): number {
    return this.#mode === 'extended' ? EXTENDED_REPLY_HEADER_BYTES : SIMPLE_REPLY_HEADER_BYTES;
  }

  #read(bytes: Buffer, at: number): ProtocolViolation | undefined {
    switch (this.#state) {
      case 'header':
        return this.#readHeader(bytes, at);
      case 'chunk-length':
        return this.#startChunk(bytes.readUInt32BE(at));
      case 'data-offset':
        return this.#readDataOffset(bytes, at);
      case 'hole':
        return this.#readHole(bytes, at);
      case 'status':
        return this.#readStatus(bytes, at);
      case 'extent':
        return this.#readExtent(bytes, at);
      case 'error':
        return this.#readError(bytes, at);
      case 'data':
        throw new Error('bug: data are copied, not read');
    }
  }

  #readHeader(bytes: Buffer, at: number): ProtocolViolation | undefined {
    const magic = bytes.readUInt32BE(at);
    this.#cookieHigh = bytes.readUInt32BE(at + 8);
    this.#cookieLow = bytes.readUInt32BE(at + 12);
    const isSimple = magic === NBD_SIMPLE_REPLY_MAGIC && this.#mode !== 'extended';
    const isChunk =
      this.#mode !== 'simple' &&
      magic === (this.#mode === 'extended' ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC);
    if (!isSimple && !isChunk) {
      return this.#refuse('bad-magic', `a reply starts with 0x${magic.toString(16)}`);
    }
    const reply = this.#awaited.find(this.#cookieHigh, this.#cookieLow);
    if (reply === undefined) {
      return this.#refuse('unknown-cookie', 'a reply to a request that is not in flight');
    }
    this.#reply = reply;
    if (isSimple) return this.#startSimple(reply, bytes.readUInt32BE(at + 4));

    this.#flags = bytes.readUInt16BE(at + 4);
    this.#type = bytes.readUInt16BE(at + 6);
    if (this.#mode !== 'extended') {
      return this.#expect('chunk-length', STRUCTURED_REPLY_HEADER_BYTES - SIMPLE_REPLY_HEADER_BYTES);
    }
    if (readUInt64(bytes, at + 16) !== reply.offset) {
      return this.#refuse('bad-range', 'the offset in a reply is not that of its request');
    }
    return this.#startChunk(readUInt64(bytes, at + 24));
  }

  #startSimple(reply: ExpectedReply, error: number): ProtocolViolation | undefined {
    this.#type = NBD_REPLY_TYPE_NONE;
    this.#flags = NBD_REPLY_FLAG_DONE;
    // Once structured replies were agreed on, a read is never answered by a simple one, whether it fails or not.
    if (this.#mode === 'structured' && reply.type === NBD_CMD_READ) {
      return this.#refuse(
        'wrong-reply',
        'a simple reply to a read, though structured replies were agreed on',
      );
    }
    if (error !== NBD_SUCCESS) reply.fail(error, '');
    else if (reply.type === NBD_CMD_READ && reply.length > 0) return this.#startData(reply, 0, reply.length);
    return this.#endChunk();
  }

  #startChunk(payloadBytes: number): ProtocolViolation | undefined {
    const reply = this.#current;
    this.#payloadBytes = payloadBytes;
    switch (this.#type) {
      case NBD_REPLY_TYPE_NONE:
        if (payloadBytes !== 0) return this.#refuseLength();
        if (!(this.#flags & NBD_REPLY_FLAG_DONE)) {
          return this.#refuse('wrong-reply', 'an empty chunk that is not the last');
        }
        return this.#endChunk();
      case NBD_REPLY_TYPE_OFFSET_DATA:
        if (reply.type !== NBD_CMD_READ) return this.#refuseChunk();
        if (payloadBytes <= 8 || payloadBytes - 8 > reply.length) return this.#refuseLength();
        return this.#expect('data-offset', 8);
      case NBD_REPLY_TYPE_OFFSET_HOLE:
        if (reply.type !== NBD_CMD_READ) return this.#refuseChunk();
        if (payloadBytes !== 12) return this.#refuseLength();
        return this.#expect('hole', 12);
      case NBD_REPLY_TYPE_BLOCK_STATUS:
        return this.#startStatus(reply, 'structured', 4, 8);
      case NBD_REPLY_TYPE_BLOCK_STATUS_EXT:
        return this.#startStatus(reply, 'extended', 8, 16);
      default:
        // Bit 15 marks errors, also those of types unknown here. Any other unknown type may be content: we cannot go on.
        if (!(this.#type & ERROR_CHUNK)) return this.#refuseChunk();
        if (payloadBytes < 6 || payloadBytes > MAX_ERROR_CHUNK_BYTES) return this.#refuseLength();
        return this.#expect('error', payloadBytes);
    }
  }

  #startStatus(
    reply: ExpectedReply,
    mode: ReplyMode,
    headBytes: number,
    extentBytes: number,
  ): ProtocolViolation | undefined {
    if (reply.type !== NBD_CMD_BLOCK_STATUS || this.#mode !== mode) return this.#refuseChunk();
    const count = (this.#payloadBytes - headBytes) / extentBytes;
    if (!Number.isInteger(count) || count < 1 || count > MAX_EXTENTS_IN_CHUNK) return this.#refuseLength();
    if (count > 1 && reply.flags & NBD_CMD_FLAG_REQ_ONE) return this.#refuseLength();
    this.#extentsLeft = count;
    return this.#expect('status', headBytes);
  }

  #readDataOffset(bytes: Buffer, at: number): ProtocolViolation | undefined {
    const reply = this.#current;
    const start = readUInt64(bytes, at) - reply.offset;
    return this.#startData(reply, start, start + this.#payloadBytes - 8);
  }

  #startData(reply: ExpectedReply, start: number, end: number): ProtocolViolation | undefined {
    const misfit = reply.book(start, end);
    if (misfit !== null) return this.#refuseContent(misfit);
    this.#dataAt = start;
    this.#dataEnd = end;
    return this.#expect('data', 0);
  }

  #copyData(bytes: Buffer, at: number): number {
    const target = this.#current.target;
    if (target === null) throw new Error('bug: a read without a buffer');
    const count = bytes.copy(target, this.#dataAt, at, at + this.#dataEnd - this.#dataAt);
    this.#dataAt += count;
    if (this.#dataAt === this.#dataEnd) this.#endChunk();
    return count;
  }

  #readHole(bytes: Buffer, at: number): ProtocolViolation | undefined {
    const reply = this.#current;
    const start = readUInt64(bytes, at) - reply.offset;
    const end = start + bytes.readUInt32BE(at + 8);
    const misfit = reply.book(start, end);
    if (misfit !== null) return this.#refuseContent(misfit);
    reply.target?.fill(0, start, end);
    return this.#endChunk();
  }

  #readStatus(bytes: Buffer, at: number): ProtocolViolation | undefined {
    const reply = this.#current;
    const contextId = bytes.readUInt32BE(at);
    if (!this.#contextIds.has(contextId) || reply.extents.has(contextId)) {
      return this.#refuse(
        'unknown-context',
        `block status of context ${contextId}, unknown or told of already`,
      );
    }
    if (this.#mode === 'extended' && bytes.readUInt32BE(at + 4) !== this.#extentsLeft) {
      return this.#refuseLength();
    }
    this.#extents = [];
    this.#extentBytesLeft = reply.length;
    reply.extents.set(contextId, this.#extents);
    return this.#expect('extent', this.#mode === 'extended' ? 16 : 8);
  }

  #readExtent(bytes: Buffer, at: number): ProtocolViolation | undefined {
    const extended = this.#mode === 'extended';
    const toldBytes = extended ? readUInt64(bytes, at) : bytes.readUInt32BE(at);
    const flags = extended ? readUInt64(bytes, at + 8) : bytes.readUInt32BE(at + 4);
    if (toldBytes === 0) return this.#refuse('bad-length', 'an extent of no length');
    // The last extent may reach beyond what was asked for; what is told of there is not kept.
    const lengthBytes = Math.min(toldBytes, this.#extentBytesLeft);
    if (lengthBytes > 0 && this.#extents.length < MAX_KEPT_EXTENTS) {
      this.#extents.push({ lengthBytes, flags });
      this.#extentBytesLeft -= lengthBytes;
    }
    this.#extentsLeft--;
    return this.#extentsLeft === 0 ? this.#endChunk() : undefined;
  }

  #readError(bytes: Buffer, at: number): ProtocolViolation | undefined {
    const error = bytes.readUInt32BE(at);
    const textBytes = bytes.readUInt16BE(at + 4);
    const room = this.#payloadBytes - 6 - (this.#type === NBD_REPLY_TYPE_ERROR_OFFSET ? 8 : 0);
    // The two types known have nothing else in them; one of the future may have more behind the text.
    const isKnown = this.#type === NBD_REPLY_TYPE_ERROR || this.#type === NBD_REPLY_TYPE_ERROR_OFFSET;
    if (textBytes > room || (isKnown && textBytes !== room) || textBytes > NBD_MAX_STRING_BYTES) {
      return this.#refuseLength();
    }
    // The value must not be zero; a failure without a reason is one still.
    this.#current.fail(
      error === NBD_SUCCESS ? NBD_EINVAL : error,
      displayText(bytes.subarray(at + 6, at + 6 + textBytes)),
    );
    return this.#endChunk();
  }

  #endChunk(): ProtocolViolation | undefined {
    const reply = this.#current;
    this.#reply = undefined;
    this.#extents = [];
    this.#expect('header', this.#headerBytes);
    if (!(this.#flags & NBD_REPLY_FLAG_DONE)) return undefined;
    if (reply.error === NBD_SUCCESS) {
      if (reply.type === NBD_CMD_READ && !reply.isWhole) {
        return this.#refuse('incomplete', 'a read was answered in part');
      }
      if (reply.type === NBD_CMD_BLOCK_STATUS && reply.extents.size < this.#contextIds.size) {
        return this.#refuse('incomplete', 'block status was told for some of the contexts only');
      }
    }
    this.#awaited.finished(reply, this.#cookieHigh, this.#cookieLow);
    return undefined;
  }

  get #current(): ExpectedReply {
    if (this.#reply === undefined) throw new Error('bug: no reply is being read');
    return this.#reply;
  }

  #expect(state: State, byteCount: number): undefined {
    this.#state = state;
    this.#needBytes = byteCount;
    return undefined;
  }

  #refuse(kind: ViolationKind, detail: string): ProtocolViolation {
    this.#violation = { kind, detail };
    this.#reply = undefined;
    this.#expect('header', this.#headerBytes);
    return this.#violation;
  }

  #refuseLength(): ProtocolViolation {
    return this.#refuse('bad-length', `a chunk of type ${this.#type} with ${this.#payloadBytes} bytes`);
  }

  #refuseChunk(): ProtocolViolation {
    return this.#refuse(
      'wrong-reply',
      `a chunk of type ${this.#type} in a ${this.#mode} reply to that command`,
    );
  }

  #refuseContent(misfit: Misfit): ProtocolViolation {
    const details: Record<Misfit, string> = {
      'out-of-range': 'data of a range that was not asked for',
      overlap: 'the same bytes of a read twice',
      fragmented: 'a read in too many pieces',
      'second-chunk': 'a read in two chunks, though it was not to be fragmented',
    };
    return this.#refuse(misfit === 'second-chunk' ? 'wrong-reply' : 'bad-range', details[misfit]);
  }
}

/** Above 2^53 the result is rounded, never brought below it. */
function readUInt64(bytes: Buffer, at: number): number {
  return bytes.readUInt32BE(at) * TWO_TO_32 + bytes.readUInt32BE(at + 4);
}
