import {
  EXTENDED_REQUEST_HEADER_BYTES,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_WRITE,
  NBD_EXTENDED_REQUEST_MAGIC,
  NBD_REQUEST_MAGIC,
  REQUEST_HEADER_BYTES,
} from './constants.ts';
import type { ReplyTo } from './reply.ts';

const TWO_TO_32 = 0x1_0000_0000;

/**
 * Reads request headers where they lie ("Request message" and "Extended request" of the specification).
 *
 * The hot path of the server: no object is made for a request. The fields hold the request read last; they are
 * plain numbers, and the cookie is kept as two halves because it is eight opaque bytes. Read by hand and not by
 * `layouts.ts`, which is the oracle of its tests: see `scripts/micro`, where it is measured.
 *
 * `offset` and `length` are doubles. Above 2^53 they are rounded, never brought below it, so that a comparison with the
 * size of a volume (at most 2^52) is right for every value.
 */
export class RequestParser {
  readonly headerBytes: number;
  type = 0;
  flags = 0;
  cookieHigh = 0;
  cookieLow = 0;
  offsetHigh = 0;
  offsetLow = 0;
  /** In bytes from the start of the export. */
  offset = 0;
  /** In bytes: of the range that the request is about, or of its payload. */
  length = 0;
  /** Bytes that follow the header and belong to the request; 0 for most. */
  payloadBytes = 0;

  readonly #extended: boolean;

  constructor(extendedHeaders: boolean) {
    this.#extended = extendedHeaders;
    this.headerBytes = extendedHeaders ? EXTENDED_REQUEST_HEADER_BYTES : REQUEST_HEADER_BYTES;
  }

  /**
   * Reads the header at `start`; the caller has seen to it that `headerBytes` bytes are there. Returns false when its magic
   * is wrong: the stream is out of step then, and the connection has to be closed.
   */
  read(buffer: Buffer, start: number): boolean {
    const magic = this.#extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC;
    if (buffer.readUInt32BE(start) !== magic) return false;
    this.flags = buffer.readUInt16BE(start + 4);
    this.type = buffer.readUInt16BE(start + 6);
    this.cookieHigh = buffer.readUInt32BE(start + 8);
    this.cookieLow = buffer.readUInt32BE(start + 12);
    this.offsetHigh = buffer.readUInt32BE(start + 16);
    this.offsetLow = buffer.readUInt32BE(start + 20);
    this.offset = this.offsetHigh * TWO_TO_32 + this.offsetLow;
    this.length = this.#extended
      ? buffer.readUInt32BE(start + 24) * TWO_TO_32 + buffer.readUInt32BE(start + 28)
      : buffer.readUInt32BE(start + 24);
    // A write always carries its data. With extended headers any other command may carry a payload, and says so by a flag.
    const carries =
      this.type === NBD_CMD_WRITE || (this.#extended && (this.flags & NBD_CMD_FLAG_PAYLOAD_LEN) !== 0);
    this.payloadBytes = carries ? this.length : 0;
    return true;
  }

  /** What the reply to the request read last has to repeat, for a reply that comes later. */
  replyTo(): ReplyTo {
    const { cookieHigh, cookieLow, offsetHigh, offsetLow } = this;
    return { cookieHigh, cookieLow, offsetHigh, offsetLow };
  }
}
