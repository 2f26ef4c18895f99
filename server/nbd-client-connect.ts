/** A socket to an NBD server, and the handshake on it: what `NbdClient` and `attach` start from. */
import { connect, type NetConnectOpts, type Socket } from 'node:net';
import { assert } from '../engine/errors.ts';
import {
  type Challenge,
  HandshakeClient,
  type HandshakeClientOptions,
  type HandshakeClientOutcome,
} from '../protocol/handshake-client.ts';
import type { ListedExport } from '../protocol/option-reply.ts';
import type { NegotiatedSession } from '../protocol/session.ts';
import { formatNbdUri, type NbdUri, parseNbdUri } from '../protocol/uri.ts';
import { NbdConnectionError, type NbdConnectionErrorCode } from './nbd-client-errors.ts';

/** What one read of the socket brings at most, unless it lands in the buffer of a request. */
const RECEIVE_BUFFER_BYTES = 64 * 1024;

/** How long a TCP connection is silent before the kernel asks whether the other side is there still. */
const KEEP_ALIVE_AFTER_MS = 10_000;

export const DEFAULT_CONNECT_TIMEOUT_MS = 10_000;

export interface HandshakeWishes {
  readonly structuredReplies: boolean;
  readonly extendedHeaders: boolean;
  /** Meta contexts, by their full names. What the server does not have is not in the session. */
  readonly contexts: readonly string[];
  readonly challenge?: Challenge | undefined;
  readonly offsetUnitBytes?: number | undefined;
}

/** Takes what the socket brings. */
export interface ByteReader {
  /** Where the next bytes are to land, if anywhere but in the connection's own buffer. */
  directTarget(): Buffer | undefined;
  /** So many bytes have landed in what `directTarget` gave. */
  landed(byteCount: number): void;
  /** These bytes have come; they are valid during the call only. */
  receive(bytes: Buffer): void;
}

/** A socket that has come through the handshake. Nothing reads from it until `readInto`. */
export interface NegotiatedSocket {
  readonly socket: Socket;
  readonly session: NegotiatedSession;
  /** From now on the socket is read. To be called at most once. */
  readInto(reader: ByteReader): void;
}

export function asUri(uri: NbdUri | string): NbdUri {
  return typeof uri === 'string' ? parseNbdUri(uri) : uri;
}

/**
 * Connects and negotiates for the transmission phase. Rejects with `NbdConnectionError`; `timeoutMs` covers both. When it resolves the
 * socket is not being read: everything that the server says from here on is still in the kernel. `where`: what it is called in errors.
 */
export async function connectAndNegotiate(
  uri: NbdUri,
  wants: HandshakeWishes,
  timeoutMs: number,
  where = formatNbdUri(uri),
): Promise<NegotiatedSocket> {
  const { outcome, socket, relay } = await shakeHands(
    uri,
    {
      exportName: uri.exportName,
      wants,
      mode: 'go',
      challenge: wants.challenge,
      offsetUnitBytes: wants.offsetUnitBytes,
    },
    timeoutMs,
    where,
  );
  assert(outcome.kind === 'transmission', 'a handshake for transmission ends in it');
  return { socket, session: outcome.session, readInto: (reader) => relay.start(socket, reader) };
}

/** The exports of a server, as far as it tells. Rejects with `NbdConnectionError`. The export name in the URI means nothing here. */
export async function listExports(
  uri: NbdUri | string,
  timeoutMs: number = DEFAULT_CONNECT_TIMEOUT_MS,
): Promise<readonly ListedExport[]> {
  const wants: HandshakeWishes = { structuredReplies: false, extendedHeaders: false, contexts: [] };
  const { outcome, socket } = await shakeHands(
    asUri(uri),
    { exportName: '', wants, mode: 'list' },
    timeoutMs,
  );
  socket.destroySoon();
  assert(outcome.kind === 'list', 'a handshake for a list ends in it');
  return outcome.exports;
}

type Success = Exclude<HandshakeClientOutcome, { kind: 'more' | 'failed' }>;

interface Shaken {
  readonly outcome: Success;
  /** With a listener for errors that does nothing: they show as its closing. */
  readonly socket: Socket;
  readonly relay: Relay;
}

function shakeHands(
  uri: NbdUri,
  options: HandshakeClientOptions,
  timeoutMs: number,
  where = formatNbdUri(uri),
): Promise<Shaken> {
  if (uri.tls) {
    return Promise.reject(new NbdConnectionError('unsupported', `${where}: TLS is not supported yet`));
  }
  return new Promise((resolve, reject) => {
    const handshake = new HandshakeClient(options);
    const relay = new Relay();
    let isConnected = false;
    const socket = connect({ ...addressOptions(uri), onread: relay.onread });
    const settle = (): void => {
      clearTimeout(timer);
      socket.off('end', onClosed).off('close', onClosed).off('error', onError);
      socket.on('error', () => undefined);
    };
    const fail = (code: NbdConnectionErrorCode, why: string, cause?: unknown): void => {
      settle();
      socket.destroy();
      reject(new NbdConnectionError(code, `${where}: ${why}`, cause));
    };
    const onClosed = (): void => fail('refused', handshake.serverClosed().reason);
    const onError = (error: Error): void => fail(isConnected ? 'lost' : 'unreachable', error.message, error);
    const timer = setTimeout(() => fail('timeout', `no NBD handshake within ${timeoutMs} ms`), timeoutMs);
    socket.once('connect', () => {
      isConnected = true;
    });
    socket.on('end', onClosed).on('close', onClosed).on('error', onError);
    relay.stage = (bytes) => {
      const { output, outcome } = handshake.receive(bytes);
      if (output.length > 0) socket.write(output);
      if (outcome.kind === 'more') return true;
      if (outcome.kind === 'failed') {
        // Soft disconnect: what the machine says last is sent before the socket is closed.
        settle();
        socket.destroySoon();
        reject(new NbdConnectionError('refused', `${where}: ${outcome.reason}`));
      } else if (outcome.kind === 'transmission' && outcome.consumed < bytes.length) {
        fail('protocol', 'the server replies before it was asked anything');
      } else {
        settle();
        resolve({ outcome, socket, relay });
      }
      return false;
    };
  });
}

function addressOptions(uri: NbdUri): NetConnectOpts {
  if (uri.address.kind === 'unix') return { path: uri.address.path };
  return {
    host: uri.address.host,
    port: uri.address.port,
    // A request is often one small packet that waits for its answer: see the pitfalls of Nagle's algorithm.
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: KEEP_ALIVE_AFTER_MS,
  };
}

/** Connects what libuv reads to whoever is to have it now. */
class Relay {
  /** Takes the bytes of the handshake. Returns false to stop reading. */
  stage: (bytes: Buffer) => boolean = () => true;
  readonly onread: { buffer: () => Buffer; callback: (byteCount: number) => boolean };

  readonly #ownBuffer: Buffer = Buffer.allocUnsafeSlow(RECEIVE_BUFFER_BYTES);
  #reader: ByteReader | null = null;
  #isDirect = false;

  constructor() {
    this.onread = { buffer: () => this.#nextBuffer(), callback: (byteCount) => this.#came(byteCount) };
  }

  start(socket: Socket, reader: ByteReader): void {
    this.#reader = reader;
    socket.resume();
  }

  #nextBuffer(): Buffer {
    const target = this.#reader?.directTarget();
    this.#isDirect = target !== undefined;
    return target ?? this.#ownBuffer;
  }

  #came(byteCount: number): boolean {
    const reader = this.#reader;
    if (reader === null) return this.stage(this.#ownBuffer.subarray(0, byteCount));
    if (this.#isDirect) reader.landed(byteCount);
    else reader.receive(this.#ownBuffer.subarray(0, byteCount));
    return true;
  }
}
