/**
 * A bound on the connections of the control socket that nobody can use to lock the owner out: when all are taken, a new one
 * takes the place of the one that has been silent or half-sent for longest. Only when each has a request that is being
 * answered is the new one refused, and told so.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { refusalText } from './client-error.ts';

export function boundConnections(server: Server, most: number): void {
  /** Without a whole request, the one that has been so for longest first. */
  const waiting = new Set<Socket>();
  const answering = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    if (waiting.size + answering.size >= most) {
      const [oldest] = waiting;
      if (oldest === undefined) {
        refuse(socket, most);
        return;
      }
      waiting.delete(oldest);
      oldest.destroy();
    }
    waiting.add(socket);
    socket.once('close', () => {
      waiting.delete(socket);
      answering.delete(socket);
    });
  });
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    const { socket } = request;
    const begin = (): void => {
      if (!waiting.delete(socket)) return;
      answering.add(socket);
    };
    // A body that does not come is as half-sent as a header.
    if (request.complete || isWithoutBody(request)) begin();
    else request.once('end', begin);
    response.once('close', () => {
      if (answering.delete(socket) && !socket.destroyed) waiting.add(socket);
    });
  });
}

function isWithoutBody({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] === undefined && Number(headers['content-length'] ?? 0) === 0;
}

function refuse(socket: Socket, most: number): void {
  const message = `${most} requests are being answered, which is the most: try again when one has ended`;
  socket.on('error', () => socket.destroy());
  socket.end(refusalText(503, { code: 'unavailable', message }), () => socket.destroy());
}
