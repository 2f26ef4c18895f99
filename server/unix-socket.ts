/** Unix sockets in the filesystem: their limits, and getting rid of those that a dead process left. */
import { lstat, stat, unlink } from 'node:fs/promises';
import { connect, type Server } from 'node:net';
import { dirname } from 'node:path';
import { EngineError, errnoOf } from '../engine/errors.ts';

/** `sun_path` of Linux has 108 bytes with its end mark. Node cuts longer names without a word. */
export const MAX_SOCKET_PATH_BYTES = 107;

/** Throws `invalid` for a path that a socket address cannot hold. */
export function checkSocketPath(path: string): void {
  const lengthBytes = Buffer.byteLength(path);
  if (lengthBytes <= MAX_SOCKET_PATH_BYTES) return;
  throw new EngineError(
    'invalid',
    `the socket path ${path} has ${lengthBytes} bytes, Linux takes ${MAX_SOCKET_PATH_BYTES}: use a shorter folder or name another path`,
  );
}

/**
 * Looks whether a listening socket could be made, and changes nothing. True when a dead process left one there. Throws `in-use`
 * when somebody listens, `exists` when the path is something else than a socket, `disk`.
 */
export async function findStaleSocket(path: string): Promise<boolean> {
  checkSocketPath(path);
  try {
    const found = await lstat(path);
    if (!found.isSocket())
      throw new EngineError('exists', `${path} is there and is not a socket: name another path`);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw socketError(path, error);
    // Binding would say EACCES of a folder that is not there.
    await stat(dirname(path)).catch((missing: unknown) => {
      throw socketError(path, missing);
    });
    return false;
  }
  if (await answers(path))
    throw new EngineError('in-use', `another process listens on ${path}: stop it, or name another path`);
  return true;
}

/** Makes room for a listening socket: removes one that nobody listens on. Throws as `findStaleSocket`. */
export async function clearStaleSocket(path: string): Promise<void> {
  if (!(await findStaleSocket(path))) return;
  await unlink(path).catch((error: unknown) => {
    if (errnoOf(error) !== 'ENOENT') throw socketError(path, error);
  });
}

/** Listens with rights for the owner only, from the first moment. `backlog`: connections that may wait to be accepted. */
export async function listenPrivately(server: Server, path: string, backlog = 511): Promise<void> {
  await clearStaleSocket(path);
  await new Promise<void>((resolve, reject) => {
    const failed = (error: unknown): void => reject(socketError(path, error));
    server.once('error', failed);
    // `listen` binds before it returns; the socket gets its mode from the umask then, so that there is no moment between.
    const previous = process.umask(0o177);
    try {
      server.listen({ path, backlog }, () => {
        server.removeListener('error', failed);
        resolve();
      });
    } finally {
      process.umask(previous);
    }
  });
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ path });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', (error: unknown) => {
      socket.destroy();
      // Anything but a clear refusal (a full backlog, missing rights) may be a living server.
      resolve(errnoOf(error) !== 'ECONNREFUSED' && errnoOf(error) !== 'ENOENT');
    });
  });
}

/** One line for a socket that cannot be made. */
export function socketError(path: string, error: unknown): EngineError {
  if (error instanceof EngineError) return error;
  const errno = errnoOf(error);
  const why = SOCKET_REASONS[errno ?? ''] ?? (error instanceof Error ? error.message : String(error));
  return new EngineError('disk', `cannot listen on ${path}: ${why}`, {
    ...(errno === undefined ? {} : { errno }),
    cause: error,
  });
}

const SOCKET_REASONS: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  EPERM: 'permission denied',
  EROFS: 'the filesystem is read-only',
  ENOENT: 'its folder does not exist',
  ENOTDIR: 'its folder is not a folder',
  EADDRINUSE: 'another process listens there',
  ENOSPC: 'the filesystem is full; free some space, or name a path on another',
  EDQUOT: 'the quota is used up; free some space, or name a path on another filesystem',
};
