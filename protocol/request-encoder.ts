import {
  EXTENDED_REQUEST_HEADER_BYTES,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_WRITE,
  NBD_EXTENDED_REQUEST_MAGIC,
  NBD_REQUEST_MAGIC,
  REQUEST_HEADER_BYTES,
} from './constants.ts';

const TWO_TO_32 = 0x1_0000_0000;

/** Longest range of a request without extended headers, in bytes: its field has 32 bits. */
export const MAX_COMPACT_LENGTH_BYTES = TWO_TO_32 - 1;

/**
 * Writes request headers into a buffer of the caller ("Request message", and the extended request that takes its place
 * once `NBD_OPT_EXTENDED_HEADERS` was agreed on). One for a session; it holds no state but the mode.
 *
 * Whether the server will like the request is not its business: it writes what it is told, so that tests can tell it
 * what a server has to refuse.
 */
export class RequestEncoder {
  readonly extended: boolean;
  readonly headerBytes: number;
  /** Longest range that a request can name, in bytes. */
  readonly maximumLengthBytes: number;

  readonly #offsetUnitBytes: number;

  /** `offsetUnitBytes`: a power of two that all offsets are multiples of; see `HandshakeClientOptions`. */
  constructor(extendedHeaders: boolean, offsetUnitBytes = 1) {
    this.#offsetUnitBytes = offsetUnitBytes;
    this.extended = extendedHeaders;
    this.headerBytes = extendedHeaders ? EXTENDED_REQUEST_HEADER_BYTES : REQUEST_HEADER_BYTES;
    this.maximumLengthBytes = extendedHeaders ? Number.MAX_SAFE_INTEGER : MAX_COMPACT_LENGTH_BYTES;
  }

  /**
   * Writes `headerBytes` bytes at `at`; returns the position after them. The cookie is eight opaque bytes, as two halves. `offset` and
   * `length` are in bytes. The offset is a safe integer of units; `length` is a safe integer, and for a write that of the payload, which follows
   * the header.
   */
  write(
    out: Buffer,
    at: number,
    type: number,
    flags: number,
    cookieHigh: number,
    cookieLow: number,
    offset: number,
    length: number,
  ): number {
    if (!Number.isSafeInteger(offset / this.#offsetUnitBytes) || offset < 0)
      throw new Error(`bug: an offset of ${offset} bytes`);
    if (!Number.isSafeInteger(length) || length < 0 || length > this.maximumLengthBytes) {
      throw new Error(`bug: a length of ${length} bytes in a request`);
    }
    const extended = this.extended;
    // Once extended headers were agreed on, every write has to say that it carries a payload.
    const allFlags = extended && type === NBD_CMD_WRITE ? flags | NBD_CMD_FLAG_PAYLOAD_LEN : flags;
    out.writeUInt32BE(extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC, at);
    out.writeUInt16BE(allFlags, at + 4);
    out.writeUInt16BE(type, at + 6);
    out.writeUInt32BE(cookieHigh, at + 8);
    out.writeUInt32BE(cookieLow, at + 12);
    out.writeUInt32BE(Math.floor(offset / TWO_TO_32), at + 16);
    out.writeUInt32BE(offset % TWO_TO_32, at + 20);
    if (!extended) return out.writeUInt32BE(length, at + 24);
    out.writeUInt32BE(Math.floor(length / TWO_TO_32), at + 24);
    return out.writeUInt32BE(length % TWO_TO_32, at + 28);
  }
}
