import type { Socket } from 'node:net';
import { assert } from '../engine/errors.ts';
import {
  BASE_ALLOCATION,
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_DISC,
  NBD_CMD_FLAG_DF,
  NBD_CMD_FLAG_FAST_ZERO,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
} from '../protocol/constants.ts';
import type { ExpectedReply } from '../protocol/expected-reply.ts';
import type { Challenge } from '../protocol/handshake-client.ts';
import type { BlockStatusExtent, ReplyMode } from '../protocol/reply.ts';
import { ReplyParser } from '../protocol/reply-parser.ts';
import { RequestEncoder } from '../protocol/request-encoder.ts';
import type { NegotiatedSession } from '../protocol/session.ts';
import { formatNbdUri, type NbdUri } from '../protocol/uri.ts';
import {
  asUri,
  connectAndNegotiate,
  DEFAULT_CONNECT_TIMEOUT_MS,
  type NegotiatedSocket,
} from './nbd-client-connect.ts';
import { NbdConnectionError } from './nbd-client-errors.ts';
import { Flights, type Outgoing } from './nbd-client-flights.ts';
import { descriptorOf } from './socket-handle.ts';

export interface NbdClientOptions {
  /** Asks for structured replies; true unless told. What the server does not have is used without. */
  readonly structuredReplies?: boolean;
  /** Asks for extended headers, which bring structured replies with them; as `structuredReplies` unless told. */
  readonly extendedHeaders?: boolean;
  /** Meta contexts to ask for, by their full names; `base:allocation` unless told, and none without structured replies. */
  readonly contexts?: readonly string[];
  /** Asked before the export is: see `Challenge`. */
  readonly challenge?: Challenge;
  /** What all offsets are multiples of: see `HandshakeClientOptions`. */
  readonly offsetUnitBytes?: number;
  /** For connecting and the handshake together; 10 seconds unless told. */
  readonly timeoutMs?: number;
  /** What the server is called in errors: its URI, unless told. */
  readonly where?: string;
  /** Requests in flight at most; what comes beyond waits its turn. 128 unless told. */
  readonly maxInFlight?: number;
  /** Payload bytes, of reads and writes, in flight at most; a single larger request goes alone. 64 MiB unless told. */
  readonly maxInFlightBytes?: number;
}

export interface ReadOptions {
  /** In one piece, or not at all (`NBD_CMD_FLAG_DF`). */
  readonly df?: boolean;
}

export interface FuaOption {
  /** Answered only when it is durable (`NBD_CMD_FLAG_FUA`). */
  readonly fua?: boolean;
}

export interface WriteZeroesOptions extends FuaOption {
  /** The space stays allocated. */
  readonly noHole?: boolean;
  /** Fails with `NBD_ENOTSUP` where it would be no faster than writing. */
  readonly fastZero?: boolean;
}

/** A negotiated connection that nobody reads from, for the kernel to take over. */
export interface NbdHandover {
  /** Valid until `close`. */
  readonly fd: number;
  readonly session: NegotiatedSession;
  /** Lets go of the socket in this process. A kernel that was given it keeps it. */
  close(): void;
}

/** After the goodbye, how long the server has to close its side before the socket is closed under it. */
const GOODBYE_TIMEOUT_MS = 5000;

/**
 * A client of an NBD server, with many requests in flight.
 *
 * Each request is a promise. It rejects with `NbdClientError` when the server refused it, and with `NbdConnectionError` when the
 * connection ended first: then nobody knows whether it was done. Requests are sent in the order of the calls; the server may do them
 * in any other.
 *
 * Buffers are lent until the promise settles: a write's must not change, a read's belongs to the connection.
 *
 * Whether a request is legal is for the server to say, so that tests can ask for what it has to refuse. Offsets and lengths that
 * cannot be written into a request at all are a bug of the caller.
 */
export class NbdClient {
  readonly session: NegotiatedSession;
  /** Resolves when the connection is over: with undefined after `disconnect`, else with the reason. Never rejects. */
  readonly closed: Promise<NbdConnectionError | undefined>;

  readonly #where: string;
  readonly #socket: Socket;
  readonly #encoder: RequestEncoder;
  readonly #offsetUnitBytes: number;
  readonly #flights: Flights;
  #corked = false;
  #goodbye: Promise<void> | null = null;
  #saidGoodbye = false;
  #ended: NbdConnectionError | null = null;
  #resolveClosed: (reason: NbdConnectionError | undefined) => void = () => undefined;

  /** Connects and negotiates; rejects with `NbdConnectionError`, or with `NbdUriError` for a text that is no URI. */
  static async connect(uri: NbdUri | string, options: NbdClientOptions = {}): Promise<NbdClient> {
    const target = asUri(uri);
    const structuredReplies = options.structuredReplies ?? true;
    const wants = {
      structuredReplies,
      extendedHeaders: options.extendedHeaders ?? structuredReplies,
      contexts: options.contexts ?? (structuredReplies ? [BASE_ALLOCATION] : []),
      challenge: options.challenge,
      offsetUnitBytes: options.offsetUnitBytes,
    };
    const timeoutMs = options.timeoutMs ?? DEFAULT_CONNECT_TIMEOUT_MS;
    const where = options.where ?? formatNbdUri(target);
    const negotiated = await connectAndNegotiate(target, wants, timeoutMs, where);
    return new NbdClient(negotiated, where, options);
  }

  /**
   * Connects and negotiates what the kernel's client can handle (simple replies, ordinary headers), and stops there: not a byte of
   * the transmission phase is read in this process. Rejects as `connect` does, and with `SocketHandleError`.
   */
  static async handshake(
    uri: NbdUri | string,
    options: { readonly timeoutMs?: number } = {},
  ): Promise<NbdHandover> {
    const wants = { structuredReplies: false, extendedHeaders: false, contexts: [] };
    const timeoutMs = options.timeoutMs ?? DEFAULT_CONNECT_TIMEOUT_MS;
    const { socket, session } = await connectAndNegotiate(asUri(uri), wants, timeoutMs);
    try {
      return { fd: descriptorOf(socket), session, close: () => void socket.destroy() };
    } catch (error) {
      socket.destroy();
      throw error;
    }
  }

  private constructor(negotiated: NegotiatedSocket, where: string, options: NbdClientOptions) {
    const { socket, session } = negotiated;
    this.session = session;
    this.#where = where;
    this.#socket = socket;
    this.#offsetUnitBytes = options.offsetUnitBytes ?? 1;
    this.#encoder = new RequestEncoder(session.extendedHeaders, this.#offsetUnitBytes);
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    this.#flights = new Flights({
      maxInFlight: options.maxInFlight ?? 128,
      maxInFlightBytes: options.maxInFlightBytes ?? 64 * 1024 * 1024,
      send: (request, cookieHigh, cookieLow) => this.#send(request, cookieHigh, cookieLow),
    });
    const contextIds = session.contexts.map((context) => context.id);
    const parser = new ReplyParser(replyMode(session), this.#flights, contextIds);
    const judge = (violation: { readonly detail: string } | undefined): void => {
      if (violation === undefined) return;
      this.#end('protocol', `the server broke the NBD protocol: ${violation.detail}`);
    };
    negotiated.readInto({
      directTarget: () => parser.directTarget(),
      landed: (byteCount) => judge(parser.landed(byteCount)),
      receive: (bytes) => judge(parser.receive(bytes)),
    });
    socket.on('error', (error) => this.#end('lost', error.message, error));
    socket.on('end', () => this.#serverClosed());
    socket.on('close', () => this.#serverClosed());
  }

  get sizeBytes(): number {
    return this.session.export.sizeBytes;
  }

  /** Requests sent that have no answer yet. */
  get inFlight(): number {
    return this.#flights.inFlight;
  }

  /** Fills `target`. When it rejects, `target` may hold part of the range. */
  async read(target: Buffer, offsetBytes: number, options: ReadOptions = {}): Promise<void> {
    await this.#request(NBD_CMD_READ, options.df ? NBD_CMD_FLAG_DF : 0, offsetBytes, target.length, target);
  }

  /** Reads into a new buffer. */
  async readBuffer(offsetBytes: number, lengthBytes: number, options: ReadOptions = {}): Promise<Buffer> {
    const target = Buffer.allocUnsafe(lengthBytes);
    await this.read(target, offsetBytes, options);
    return target;
  }

  async write(data: Uint8Array, offsetBytes: number, options: FuaOption = {}): Promise<void> {
    await this.#request(NBD_CMD_WRITE, fuaFlag(options), offsetBytes, data.length, null, data);
  }

  /** Resolves when all writes that were answered before the call are durable. */
  async flush(): Promise<void> {
    await this.#request(NBD_CMD_FLUSH, 0, 0, 0);
  }

  async trim(offsetBytes: number, lengthBytes: number, options: FuaOption = {}): Promise<void> {
    await this.#request(NBD_CMD_TRIM, fuaFlag(options), offsetBytes, lengthBytes);
  }

  async writeZeroes(
    offsetBytes: number,
    lengthBytes: number,
    options: WriteZeroesOptions = {},
  ): Promise<void> {
    let flags = fuaFlag(options);
    if (options.noHole) flags |= NBD_CMD_FLAG_NO_HOLE;
    if (options.fastZero) flags |= NBD_CMD_FLAG_FAST_ZERO;
    await this.#request(NBD_CMD_WRITE_ZEROES, flags, offsetBytes, lengthBytes);
  }

  /** Asks the server to have the range in its cache soon. */
  async cache(offsetBytes: number, lengthBytes: number): Promise<void> {
    await this.#request(NBD_CMD_CACHE, 0, offsetBytes, lengthBytes);
  }

  /**
   * Extents from `offsetBytes` on, by the name of each context in the session. They never reach beyond the range, and may end before
   * it does; there is at least one. `one`: one extent only (`NBD_CMD_FLAG_REQ_ONE`).
   */
  async blockStatus(
    offsetBytes: number,
    lengthBytes: number,
    options: { one?: boolean } = {},
  ): Promise<ReadonlyMap<string, readonly BlockStatusExtent[]>> {
    const flags = options.one ? NBD_CMD_FLAG_REQ_ONE : 0;
    const { extents } = await this.#request(NBD_CMD_BLOCK_STATUS, flags, offsetBytes, lengthBytes);
    return new Map(this.session.contexts.map(({ id, name }) => [name, extents.get(id) ?? []]));
  }

  /**
   * Says goodbye (`NBD_CMD_DISC`) once everything in flight was answered, and resolves when the connection is closed. Takes no further
   * requests from the call on. Does not reject: what became of each request its own promise says.
   */
  disconnect(): Promise<void> {
    this.#goodbye ??= this.#disconnect();
    return this.#goodbye;
  }

  /** Closes at once; what is in flight rejects. Resolves when the socket is closed. */
  async close(): Promise<void> {
    this.#end('closed', 'the connection was closed here');
    await this.closed;
  }

  async #disconnect(): Promise<void> {
    await this.#flights.idle();
    if (this.#ended === null) {
      this.#saidGoodbye = true;
      this.#send({ type: NBD_CMD_DISC, flags: 0, offset: 0, length: 0, target: null, payload: null }, 0, 0);
      this.#socket.end();
      const timer = setTimeout(() => this.#socket.destroy(), GOODBYE_TIMEOUT_MS);
      void this.closed.then(() => clearTimeout(timer));
    }
    await this.closed;
  }

  #request(
    type: number,
    flags: number,
    offset: number,
    length: number,
    target: Buffer | null = null,
    payload: Uint8Array | null = null,
  ): Promise<ExpectedReply> {
    assert(
      Number.isSafeInteger(offset / this.#offsetUnitBytes) && offset >= 0,
      `an offset of ${offset} bytes`,
    );
    assert(
      Number.isSafeInteger(length) && length >= 0 && length <= this.#encoder.maximumLengthBytes,
      `a length of ${length} bytes`,
    );
    if (this.#ended !== null) return Promise.reject(this.#ended);
    if (this.#goodbye !== null) {
      return Promise.reject(new NbdConnectionError('closed', `${this.#where}: this side is disconnecting`));
    }
    return this.#flights.add({ type, flags, offset, length, target, payload });
  }

  #send(request: Outgoing, cookieHigh: number, cookieLow: number): void {
    const header = Buffer.allocUnsafe(this.#encoder.headerBytes);
    this.#encoder.write(
      header,
      0,
      request.type,
      request.flags,
      cookieHigh,
      cookieLow,
      request.offset,
      request.length,
    );
    if (!this.#corked) {
      // All requests made in one go leave in one system call.
      this.#corked = true;
      this.#socket.cork();
      process.nextTick(() => {
        this.#corked = false;
        this.#socket.uncork();
      });
    }
    this.#socket.write(header);
    if (request.payload !== null && request.payload.length > 0) this.#socket.write(request.payload);
  }

  #serverClosed(): void {
    if (this.#saidGoodbye && this.#flights.inFlight === 0) this.#finish(undefined);
    else this.#end('lost', 'the server closed the connection');
  }

  #end(code: NbdConnectionError['code'], why: string, cause?: unknown): void {
    if (this.#ended !== null) return;
    this.#finish(new NbdConnectionError(code, `${this.#where}: ${why}`, cause));
  }

  /** The end, whatever its reason. The socket goes first: no byte lands in a lent buffer after its promise has settled. */
  #finish(reason: NbdConnectionError | undefined): void {
    if (this.#ended !== null) return;
    this.#ended = reason ?? new NbdConnectionError('closed', `${this.#where}: disconnected`);
    this.#socket.destroy();
    this.#flights.rejectAll(this.#ended);
    if (this.#socket.closed) this.#resolveClosed(reason);
    else this.#socket.once('close', () => this.#resolveClosed(reason));
  }
}

function replyMode(session: NegotiatedSession): ReplyMode {
  if (session.extendedHeaders) return 'extended';
  return session.structuredReplies ? 'structured' : 'simple';
}

function fuaFlag(options: FuaOption): number {
  return options.fua ? NBD_CMD_FLAG_FUA : 0;
}
