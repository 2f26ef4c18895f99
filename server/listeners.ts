/** What a node is to listen at: whether it could, and one line for when it cannot. */
import { createServer } from 'node:net';
import { dirname, relative } from 'node:path';
import { EngineError, errnoOf } from '../engine/errors.ts';
import { formatNbdUri, type NbdUri } from '../protocol/uri.ts';
import type { Settings } from './config.ts';
import { findStaleSocket } from './unix-socket.ts';

/** Looks whether the listeners of a new state folder could be had, and changes nothing. Throws `in-use`, `exists` or `disk`. */
export async function checkListeners({ listen, controlPath, stateFolder }: Settings): Promise<void> {
  for (const uri of listen) {
    if (uri.address.kind === 'tcp') await tryPort(uri, uri.address.host, uri.address.port);
    else await checkSocket(uri.address.path, stateFolder);
  }
  await checkSocket(controlPath, stateFolder);
}

/** Sockets in the state folder come when it is there. */
async function checkSocket(path: string, stateFolder: string): Promise<void> {
  if (relative(stateFolder, dirname(path)) !== '') await findStaleSocket(path);
}

async function tryPort(uri: NbdUri, host: string, port: number): Promise<void> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(listenerError(uri, error)));
    server.listen({ host, port }, resolve);
  });
  await new Promise((resolve) => server.close(resolve));
}

/** One line for a listener that the operating system refused. */
export function listenerError(uri: NbdUri, error: unknown): EngineError {
  if (error instanceof EngineError) return error;
  const errno = errnoOf(error);
  const why = LISTEN_REASONS[errno ?? ''] ?? (error instanceof Error ? error.message : String(error));
  return new EngineError('disk', `cannot listen at ${formatNbdUri(uri)}: ${why}`, { cause: error });
}

const LISTEN_REASONS: Readonly<Record<string, string>> = {
  EADDRINUSE: 'another process listens there',
  EADDRNOTAVAIL: 'this machine has no such address',
  EACCES: 'permission denied',
  ENOTFOUND: 'the host name is unknown',
};
