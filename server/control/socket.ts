/** The control socket: the API on a unix socket that only its owner may open. */
import type { Server } from 'node:http';
import type { Logger } from '../logger.ts';
import { listenPrivately } from '../unix-socket.ts';
import { buildApi } from './api.ts';
import { boundConnections } from './connection-bound.ts';
import type { NodeControl } from './node-control.ts';

/** Connections at a time: people and scripts, not a data path. */
const MAX_CONTROL_CONNECTIONS = 128;
/** How long a client may take to fetch its last answer when the node stops, and how often idle connections are closed until then. */
const CLOSE_GRACE_MS = 2000;
const IDLE_CHECK_MS = 10;

export class ControlSocket {
  readonly path: string;
  readonly #server: Server;
  readonly #endStreams: () => void;
  readonly #closeApi: () => Promise<void>;

  private constructor(path: string, server: Server, endStreams: () => void, closeApi: () => Promise<void>) {
    this.path = path;
    this.#server = server;
    this.#endStreams = endStreams;
    this.#closeApi = closeApi;
  }

  /** Throws `in-use`, `exists`, `invalid` (a path too long) or `disk`. */
  static async open(
    path: string,
    node: NodeControl,
    logger: Logger,
    version: string,
  ): Promise<ControlSocket> {
    const { api, endStreams } = await buildApi(node, logger, version);
    await api.ready();
    boundConnections(api.server, MAX_CONTROL_CONNECTIONS);
    try {
      await listenPrivately(api.server, path);
    } catch (error) {
      await api.close();
      throw error;
    }
    return new ControlSocket(path, api.server, endStreams, async () => {
      await api.close();
    });
  }

  /**
   * Removes the socket, ends event streams behind their last event, lets requests have their answers, and closes what does not
   * end by itself.
   */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#endStreams();
    const idle = setInterval(() => this.#server.closeIdleConnections(), IDLE_CHECK_MS);
    const grace = setTimeout(() => this.#server.closeAllConnections(), CLOSE_GRACE_MS);
    await closed;
    clearInterval(idle);
    clearTimeout(grace);
    await this.#closeApi();
  }
}
