import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import type { NbdUri } from '../protocol/uri.ts';
import { BufferPool } from './buffer-pool.ts';
import { BusyPoll } from './busy-poll.ts';
import { Connection, type ConnectionContext, type SessionStatus } from './connection.ts';
import { Counters } from './counters.ts';
import type { EventLog } from './events.ts';
import type { Exports } from './exports.ts';
import { LargeBuffers } from './large-buffers.ts';
import {
  MAX_PEER_CONNECTIONS,
  OUTPUT_BUFFER_BYTES,
  PEER_HANDSHAKES,
  PEER_SHARED_BYTES,
  RECEIVE_BUFFER_BYTES,
  RECEIVE_SLAB_BYTES,
  type ServerLimits,
} from './limits.ts';
import type { Logger } from './logger.ts';
import { Permits } from './permits.ts';
import type { ReplicationExports } from './replication/replication-exports.ts';
import { listenPrivately } from './unix-socket.ts';

/** More than most servers take: a burst of reconnects must not wait for retransmissions. */
const LISTEN_BACKLOG = 1024;
/** Buffers kept for reuse: what two busy connections a core take; more is given back to the heap. */
const BUFFERS_KEPT = 16;

export interface NbdServerOptions {
  readonly exports: Exports;
  /** What other nodes find here; absent: nothing. */
  readonly replication?: ReplicationExports;
  readonly limits: ServerLimits;
  readonly logger: Logger;
  readonly events: EventLog;
  /** False: sockets are read by stream events (see `readInline`); for tests. */
  readonly inline?: boolean;
}

/** Serves exports to NBD clients, on any number of listeners. */
export class NbdServer {
  readonly counters = new Counters();
  readonly permits: Permits;
  readonly #exports: Exports;
  readonly #replication: ReplicationExports | undefined;
  readonly #peerPermits: Permits;
  readonly #largeBuffers: LargeBuffers;
  readonly #context: ConnectionContext;
  readonly #listeners = new Set<Server>();
  readonly #connections = new Set<Connection>();
  readonly #stallTimer: NodeJS.Timeout;
  #nextId = 1;
  #closeListeners: (() => void)[] = [];

  constructor(options: NbdServerOptions) {
    const { limits } = options;
    this.permits = new Permits(limits.sharedBytes, limits.stallTimeoutMs);
    this.#exports = options.exports;
    this.#replication = options.replication;
    this.#peerPermits = new Permits(PEER_SHARED_BYTES, limits.stallTimeoutMs);
    this.#largeBuffers = new LargeBuffers(limits.sharedBytes + PEER_SHARED_BYTES);
    this.#context = {
      limits,
      logger: options.logger,
      events: options.events,
      counters: this.counters,
      permits: this.permits,
      peerPermits: this.#peerPermits,
      largeBuffers: this.#largeBuffers,
      receiveBuffer: Buffer.allocUnsafeSlow(RECEIVE_BUFFER_BYTES),
      slabs: new BufferPool(RECEIVE_SLAB_BYTES, BUFFERS_KEPT),
      outputs: new BufferPool(OUTPUT_BUFFER_BYTES, BUFFERS_KEPT),
      busyPoll: new BusyPoll(),
      inline: options.inline ?? true,
      mayOpen: (isPeer) => this.#mayOpen(isPeer),
    };
    this.#stallTimer = setInterval(
      () => {
        this.permits.evictStuck(performance.now());
        this.#peerPermits.evictStuck(performance.now());
        this.#largeBuffers.trim();
      },
      Math.max(10, limits.stallTimeoutMs / 4),
    );
    this.#stallTimer.unref();
  }

  /** Listens there; the URI returned has the port that was really bound. Rejects with one line when it cannot. */
  async listen(uri: NbdUri): Promise<NbdUri> {
    const server = createServer({ pauseOnConnect: true, noDelay: true }, (socket) =>
      this.#accept(socket, uri),
    );
    const { address } = uri;
    if (address.kind === 'unix') {
      await listenPrivately(server, address.path, LISTEN_BACKLOG);
      this.#listeners.add(server);
      return uri;
    }
    server.listen({ host: address.host, port: address.port, backlog: LISTEN_BACKLOG });
    await once(server, 'listening');
    this.#listeners.add(server);
    const bound = server.address();
    if (bound === null || typeof bound === 'string') return uri;
    return { ...uri, address: { ...address, port: bound.port } };
  }

  /** Sessions that are in transmission. */
  sessions(): SessionStatus[] {
    return [...this.#connections]
      .map((connection) => connection.status())
      .filter((status) => status !== undefined);
  }

  /** Connections, handshakes included. */
  get connectionCount(): number {
    return this.#connections.size;
  }

  /** Ends the sessions that are meant: what they have in flight is answered, what comes after gets ESHUTDOWN. Resolves when they are gone. */
  async closeSessions(isMeant: (session: SessionStatus) => boolean): Promise<void> {
    const concerned = [...this.#connections].filter((connection) => {
      const status = connection.status();
      return status !== undefined && isMeant(status);
    });
    await this.#drain(concerned);
  }

  /** Stops listening, answers what is in flight, tells late requests ESHUTDOWN, and closes all connections. */
  async shutdown(): Promise<void> {
    clearInterval(this.#stallTimer);
    const closed = [...this.#listeners].map((server) => once(server, 'close'));
    for (const server of this.#listeners) server.close();
    await this.#drain([...this.#connections]);
    await Promise.all(closed);
    this.#listeners.clear();
  }

  async #drain(connections: Connection[]): Promise<void> {
    const open = () => connections.some((connection) => this.#connections.has(connection));
    for (const connection of connections) connection.drain();
    const grace = setTimeout(() => {
      for (const connection of connections) connection.fail('it did not take its replies in time');
    }, this.#context.limits.shutdownGraceMs);
    while (open()) {
      await new Promise<void>((resolve) => {
        this.#closeListeners.push(resolve);
      });
    }
    clearTimeout(grace);
  }

  #accept(socket: Socket, uri: NbdUri): void {
    // Links have connections of their own (rule K13), but are in their handshake like everybody else at first.
    const room = this.#replication === undefined ? 0 : PEER_HANDSHAKES;
    const others = this.#connections.size - this.#count((connection) => connection.isPeer);
    if (others >= this.#context.limits.maxConnections + room) {
      socket.destroy();
      this.#refused(uri.address.kind === 'unix' ? uri.address.path : uri.address.port);
      return;
    }
    const id = this.#nextId;
    this.#nextId += 1;
    const peer = describePeer(socket, uri);
    const isLocal = uri.address.kind === 'unix';
    const directory = this.#replication?.directory(this.#exports, isLocal) ?? this.#exports;
    const connection = new Connection(socket, id, peer, directory, this.#context, () => {
      this.#connections.delete(connection);
      for (const listener of this.#closeListeners.splice(0)) listener();
    });
    this.#connections.add(connection);
  }

  /** Whether one more session may begin, of a link or of a client; an event says that it may not. */
  #mayOpen(isPeer: boolean): boolean {
    const open = this.#count((connection) => connection.isOpen && connection.isPeer === isPeer);
    if (open < (isPeer ? MAX_PEER_CONNECTIONS : this.#context.limits.maxConnections)) return true;
    this.#refused(undefined, isPeer);
    return false;
  }

  #count(isMeant: (connection: Connection) => boolean): number {
    let count = 0;
    for (const connection of this.#connections) if (isMeant(connection)) count += 1;
    return count;
  }

  #refused(listener: string | number | undefined, isPeer = false): void {
    const { maxConnections } = this.#context.limits;
    const open = isPeer
      ? `${MAX_PEER_CONNECTIONS} of links are open already`
      : `${maxConnections} are open already (limits.maxConnections)`;
    this.#context.events.emit({
      type: 'connection.refused',
      message: `a connection was refused: ${open}`,
      data: listener === undefined ? {} : { listener },
    });
  }
}

function describePeer(socket: Socket, uri: NbdUri): string {
  if (uri.address.kind === 'unix') return `unix:${uri.address.path}`;
  const host = socket.remoteAddress ?? 'unknown';
  return host.includes(':') ? `[${host}]:${socket.remotePort}` : `${host}:${socket.remotePort}`;
}
