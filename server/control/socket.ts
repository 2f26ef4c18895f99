/** The control socket: the API on a unix socket that only its owner may open. */
import type { Server } from 'node:http';
import type { Logger } from '../logger.ts';
import { listenPrivately } from '../unix-socket.ts';
import { buildApi } from './api.ts';
import type { NodeControl } from './node-control.ts';

/** Connections at a time: people and scripts, not a data path. */
const MAX_CONTROL_CONNECTIONS = 128;

export class ControlSocket {
  readonly path: string;
  readonly #server: Server;
  readonly #closeApi: () => Promise<void>;

  private constructor(path: string, server: Server, closeApi: () => Promise<void>) {
    this.path = path;
    this.#server = server;
    this.#closeApi = closeApi;
  }

  /** Throws `in-use`, `exists`, `invalid` (a path too long) or `disk`. */
  static async open(
    path: string,
    node: NodeControl,
    logger: Logger,
    version: string,
  ): Promise<ControlSocket> {
    const api = await buildApi(node, logger, version);
    await api.ready();
    api.server.maxConnections = MAX_CONTROL_CONNECTIONS;
    try {
      await listenPrivately(api.server, path);
    } catch (error) {
      await api.close();
      throw error;
    }
    return new ControlSocket(path, api.server, async () => {
      await api.close();
    });
  }

  /** Ends all connections, event streams too, and removes the socket. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await closed;
    await this.#closeApi();
  }
}
