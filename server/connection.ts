import type { Socket } from 'node:net';
import { assert, EngineError } from '../engine/errors.ts';
import { NBD_FLAG_READ_ONLY } from '../protocol/constants.ts';
import { HandshakeServer } from '../protocol/handshake-server.ts';
import type { ExportDirectory } from '../protocol/session.ts';
import type { BufferPool } from './buffer-pool.ts';
import type { BusyPoll } from './busy-poll.ts';
import type { Counters } from './counters.ts';
import type { EventLog } from './events.ts';
import { ServedExport } from './exports.ts';
import { readInline, type SocketReader } from './inline-socket.ts';
import type { LargeBuffers } from './large-buffers.ts';
import { MAX_UNREAD_HANDSHAKE_BYTES, PROGRESS_BYTES, type ServerLimits } from './limits.ts';
import type { Logger } from './logger.ts';
import type { Permits } from './permits.ts';
import { Receiver } from './receiver.ts';
import { ReplicationExport } from './replication/replication-exports.ts';
import { Sender } from './sender.ts';
import { Transmission, type TransmissionHost } from './transmission.ts';

/** What the connections of a server share. */
export interface ConnectionContext {
  readonly limits: ServerLimits;
  readonly logger: Logger;
  readonly events: EventLog;
  readonly counters: Counters;
  readonly permits: Permits;
  /** Of links of other nodes (rule K13): what clients hold never makes them wait. */
  readonly peerPermits: Permits;
  readonly largeBuffers: LargeBuffers;
  /** The buffer that all sockets read into. */
  readonly receiveBuffer: Buffer;
  readonly slabs: BufferPool;
  readonly outputs: BufferPool;
  readonly busyPoll: BusyPoll;
  /** Whether sockets may fill our memory (see `readInline`). */
  readonly inline: boolean;
  /** Whether one more session may begin, of a link or of a client. */
  readonly mayOpen: (isPeer: boolean) => boolean;
}

/** A session as `status` shows it. */
export interface SessionStatus {
  readonly id: number;
  readonly exportName: string;
  readonly peer: string;
  /** ISO 8601, UTC. */
  readonly since: string;
  readonly readOnly: boolean;
  /** Of a kernel device of this node. */
  readonly kernelDevice: boolean;
  /** Name of the link that it belongs to; empty until that is known; null for a client's session. */
  readonly link: string | null;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  readonly requests: number;
  readonly inFlight: number;
}

/**
 * One client.
 *
 * ```
 *   handshake ──GO──▶ transmission ──DISC, drain──▶ ending ──▶ closed
 *       └──abort, error, time-out──────┴── error ─────┴──────────▲
 * ```
 *
 * `ending`: nothing more is read, what was gathered is sent, then the socket is closed.
 */
export class Connection implements SocketReader, TransmissionHost {
  readonly id: number;
  readonly peer: string;
  readonly receiver: Receiver;
  readonly sender: Sender;
  readonly largeBuffers: LargeBuffers;
  readonly limits: ServerLimits;
  readonly counters: Counters;
  readonly logger: Logger;
  lastProgressMs: number;

  readonly #context: ConnectionContext;
  readonly #directory: ExportDirectory;
  readonly #socket: Socket;
  readonly #since = new Date().toISOString();
  readonly #onClosed: () => void;
  readonly #handshakeTimer: NodeJS.Timeout;
  #handshake: HandshakeServer | null;
  #transmission: Transmission | null = null;
  #state: 'handshake' | 'transmission' | 'ending' | 'closed' = 'handshake';
  #closeReason = 'the client closed the connection';
  #paused = false;
  #movedBytes = 0;

  /** `directory`: what this client may see. */
  constructor(
    accepted: Socket,
    id: number,
    peer: string,
    directory: ExportDirectory,
    context: ConnectionContext,
    onClosed: () => void,
  ) {
    this.id = id;
    this.peer = peer;
    this.#context = context;
    this.#directory = directory;
    this.#onClosed = onClosed;
    this.largeBuffers = context.largeBuffers;
    this.limits = context.limits;
    this.counters = context.counters;
    this.logger = context.logger.child({ session: id });
    this.lastProgressMs = this.nowMs();
    this.receiver = new Receiver(context.receiveBuffer, context.slabs, (buffer, start, end) =>
      this.#consume(buffer, start, end),
    );
    this.#handshake = new HandshakeServer(directory);
    this.#handshakeTimer = setTimeout(
      () => this.fail(`no handshake within ${this.limits.handshakeTimeoutMs} ms`),
      this.limits.handshakeTimeoutMs,
    );
    this.#handshakeTimer.unref();
    this.#socket = readInline(accepted, this, context.inline);
    this.sender = new Sender(
      this.#socket,
      context.outputs,
      (byteCount) => this.#sent(byteCount),
      () => this.#mayAcknowledge(),
    );
    this.#socket.setNoDelay(true);
    this.#socket.setKeepAlive(true, 30_000);
    this.#socket.on('error', (error) => {
      this.#closeReason = error.message;
    });
    this.#socket.on('close', () => this.#cleanUp());
    this.#socket.write(this.#handshake.greeting());
  }

  get permits(): Permits {
    return this.isPeer ? this.#context.peerPermits : this.#context.permits;
  }

  /** It has opened something. */
  get isOpen(): boolean {
    return this.#transmission !== null;
  }

  /** It is of a link of another node. */
  get isPeer(): boolean {
    return this.#transmission?.served.peer !== undefined;
  }

  get transmission(): Transmission | null {
    return this.#transmission;
  }

  nowMs(): number {
    return performance.now();
  }

  status(): SessionStatus | undefined {
    const transmission = this.#transmission;
    if (transmission === null) return undefined;
    return {
      id: this.id,
      exportName: transmission.served.presentName,
      peer: this.peer,
      since: this.#since,
      readOnly: (transmission.rules.transmissionFlags & NBD_FLAG_READ_ONLY) !== 0,
      kernelDevice: transmission.served.forKernelDevice,
      link: transmission.served.peer === undefined ? null : (transmission.served.peer.link ?? ''),
      bytesRead: transmission.bytesRead,
      bytesWritten: transmission.bytesWritten,
      requests: transmission.requests,
      inFlight: transmission.inFlight,
    };
  }

  // The socket's side: see SocketReader.

  nextBuffer(): Buffer {
    return this.receiver.nextBuffer();
  }

  received(byteCount: number): boolean {
    this.#moved(byteCount);
    this.#context.busyPoll.awake();
    return this.#guarded(() => this.receiver.received(byteCount));
  }

  receivedForeign(bytes: Buffer): boolean {
    this.#moved(bytes.length);
    return this.#guarded(() => this.receiver.receivedForeign(bytes));
  }

  // The transmission's side: see TransmissionHost.

  goOn(): void {
    if (this.#state !== 'transmission') return;
    const wasPaused = this.#paused;
    if (this.#guarded(() => this.receiver.pump()) && wasPaused) this.#socket.resume();
  }

  finish(): void {
    if (this.#state !== 'transmission') return;
    this.#closeReason = this.#transmission?.draining
      ? 'the server is shutting down'
      : 'the client disconnected';
    this.#end();
  }

  fail(reason: string): void {
    if (this.#state === 'closed') return;
    this.#closeReason = reason;
    this.#socket.destroy();
  }

  /** Costs this client its connection, and nobody else theirs. */
  bug(error: unknown): void {
    this.logger.error({ err: error }, 'a connection met a bug');
    this.fail('internal error');
  }

  evict(reason: string): void {
    this.#context.events.emit({
      type: 'session.evicted',
      message: `session ${this.id} (${this.peer}) was closed: it ${reason}`,
      data: { session: this.id, peer: this.peer },
    });
    this.fail(reason);
  }

  granted(): void {
    this.#movedBytes = 0;
    this.lastProgressMs = this.nowMs();
  }

  drained(): void {
    this.#onClosed();
  }

  /** At shutdown: answers what is in flight, then closes. */
  drain(): void {
    if (this.#transmission === null) this.fail('the server is shutting down');
    else this.#transmission.drain();
  }

  #moved(byteCount: number): void {
    this.#movedBytes += byteCount;
    if (this.#movedBytes < PROGRESS_BYTES) return;
    this.#movedBytes = 0;
    this.lastProgressMs = this.nowMs();
  }

  /** Runs what handles received bytes; sends what that caused. Returns whether to read on. */
  #guarded(handle: () => void): boolean {
    try {
      handle();
      this.sender.flush();
    } catch (error) {
      this.bug(error);
    }
    this.#paused = this.#transmission?.waiting ?? false;
    return !this.#paused && this.#state !== 'ending';
  }

  #consume(buffer: Buffer, start: number, end: number): number {
    if (this.#transmission !== null) return this.#transmission.consume(buffer, start, end);
    if (this.#handshake === null) return end;
    const step = this.#handshake.receive(buffer.subarray(start, end));
    if (step.output.length > 0) this.#socket.write(step.output);
    if (this.#socket.writableLength > MAX_UNREAD_HANDSHAKE_BYTES) {
      this.fail('it does not take the answers to its options');
      return end;
    }
    switch (step.outcome.kind) {
      case 'more':
        return end;
      case 'close':
        this.#closeReason = step.outcome.reason;
        this.#end();
        return end;
      case 'transmission': {
        clearTimeout(this.#handshakeTimer);
        this.#handshake = null;
        const { session, consumed } = step.outcome;
        const served = session.export;
        assert(
          served instanceof ServedExport || served instanceof ReplicationExport,
          'the directory of exports gave this one',
        );
        if (this.#directory.find(served.name) === undefined) {
          this.fail('the export is gone');
          return end;
        }
        if (!this.#context.mayOpen(served.peer !== undefined)) {
          this.fail('too many connections are open');
          return end;
        }
        this.#transmission = new Transmission(this, session, served);
        this.#state = 'transmission';
        this.#opened(this.#transmission);
        return this.#transmission.consume(buffer, start + consumed, end);
      }
    }
  }

  #opened(transmission: Transmission): void {
    const { name } = transmission.served;
    this.logger.info({ export: name, peer: this.peer }, 'session opened');
    this.#context.events.emit({
      type: 'session.opened',
      message: `${this.peer} opened ${name}`,
      group: transmission.served.groupName,
      data: { session: this.id, export: name, peer: this.peer },
    });
    transmission.served.peer?.opened((reason) => this.fail(reason));
  }

  /** The sender's gate. Losing the connection is how a client learns that what it was not told of may not have happened. */
  #mayAcknowledge(): boolean {
    try {
      this.#transmission?.settle();
      return true;
    } catch (error) {
      if (error instanceof EngineError) this.fail(error.message);
      else this.bug(error);
      return false;
    }
  }

  #sent(byteCount: number): void {
    this.#moved(byteCount);
    const transmission = this.#transmission;
    if (transmission?.waiting) this.goOn();
  }

  #end(): void {
    if (this.#state === 'ending' || this.#state === 'closed') return;
    this.#state = 'ending';
    this.sender.flushAll();
    this.#socket.end();
    this.#socket.destroySoon();
  }

  #cleanUp(): void {
    clearTimeout(this.#handshakeTimer);
    this.#state = 'closed';
    this.receiver.close();
    this.sender.close();
    const transmission = this.#transmission;
    if (transmission !== null) {
      transmission.close();
      transmission.served.peer?.closed(this.#closeReason);
      const { name, groupName } = transmission.served;
      this.logger.info({ export: name, reason: this.#closeReason }, 'session closed');
      this.#context.events.emit({
        type: 'session.closed',
        message: `session of ${this.peer} on ${name} closed: ${this.#closeReason}`,
        group: groupName,
        data: { session: this.id, export: name, peer: this.peer, reason: this.#closeReason },
      });
    } else {
      this.logger.debug({ peer: this.peer, reason: this.#closeReason }, 'connection closed in its handshake');
    }
    // Its place is taken until its last job has ended: who comes and goes leaves no work behind uncounted.
    if (transmission === null || transmission.inFlight === 0) this.#onClosed();
  }
}
