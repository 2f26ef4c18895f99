/**
 * The file descriptor of a socket. Node has no public way to it, and the kernel's NBD device has to be given one: this is the only
 * place that looks inside.
 */
import type { Socket } from 'node:net';

/** What libuv's stream handles look like from JavaScript, as far as we use it. */
interface StreamHandle {
  readonly fd: number;
}

export class SocketHandleError extends Error {
  readonly code = 'no-descriptor';

  constructor() {
    super(
      `this Node (${process.version}) does not tell the file descriptor of a socket, without which none can be handed to the kernel: use Node 20, 22 or 24`,
    );
    this.name = 'SocketHandleError';
  }
}

/**
 * The descriptor under a connected socket. The socket keeps owning it: it is valid until the socket is destroyed. Throws
 * `SocketHandleError` where Node does not tell.
 */
export function descriptorOf(socket: Socket): number {
  const handle = (socket as unknown as { readonly _handle?: Partial<StreamHandle> | null })._handle;
  const fd = handle?.fd;
  if (typeof fd !== 'number' || !Number.isInteger(fd) || fd < 0) throw new SocketHandleError();
  return fd;
}
