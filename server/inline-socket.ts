import { type OnReadOpts, Socket, type SocketConstructorOpts } from 'node:net';

/** Where an accepted socket puts what it receives. */
export interface SocketReader {
  /** The memory to fill next. */
  nextBuffer(): Buffer;
  /** So many bytes have come in it. Returns false to pause the socket. */
  received(byteCount: number): boolean;
  /** Bytes in memory of the socket's own, where it cannot fill ours. Returns false to pause the socket. */
  receivedForeign(bytes: Buffer): boolean;
}

interface HandleOption extends SocketConstructorOpts {
  /** What `net.Server` itself passes to the sockets that it makes. */
  handle: object;
  onread: OnReadOpts;
}

/**
 * Makes an accepted connection read into memory that we choose (`onread`), without an allocation and a stream event for every read.
 *
 * Node offers `onread` for outgoing sockets only. For an accepted one the handle is moved to a new `Socket` that has it; the option
 * by which this is done is Node's own, and not documented, so: when there is no handle to move (another kind of stream, a
 * later Node), the socket is used as it is, by its `data` events.
 *
 * `accepted` must not be used afterwards. It was accepted with `pauseOnConnect`, so that no byte has been read.
 */
export function readInline(accepted: Socket, reader: SocketReader, allowInline = true): Socket {
  const holder = accepted as unknown as { _handle: object | null };
  const handle = holder._handle;
  if (!allowInline || handle === null || handle === undefined) return readByEvents(accepted, reader);
  holder._handle = null;
  const options: HandleOption = {
    handle,
    readable: true,
    writable: true,
    onread: {
      // The types want a Uint8Array always, and we always give one.
      buffer: () => reader.nextBuffer(),
      callback: (byteCount) => reader.received(byteCount),
    },
  };
  const socket = new Socket(options);
  // Without its handle nothing is left of it but its place in the listener's count.
  accepted.destroy();
  return socket;
}

function readByEvents(socket: Socket, reader: SocketReader): Socket {
  socket.on('data', (bytes: Buffer) => {
    if (!reader.receivedForeign(bytes)) socket.pause();
  });
  socket.resume();
  return socket;
}
