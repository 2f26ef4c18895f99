/** Answers to what is not yet a request: broken HTTP, headers that are too long or too slow. In the shape of every refusal. */
import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { ErrorBody } from './shapes.ts';

interface Fault {
  readonly status: number;
  readonly message: string;
}

const FAULTS: Readonly<Record<string, Fault>> = {
  HPE_HEADER_OVERFLOW: { status: 431, message: 'the headers are too long: 16 KiB is the most' },
  ERR_HTTP_REQUEST_TIMEOUT: {
    status: 408,
    message: 'the request did not come in time: send it whole, at once',
  },
  HPE_INVALID_METHOD: { status: 400, message: 'HTTP has no such method' },
};
const NOT_HTTP: Fault = { status: 400, message: 'this is not HTTP/1.1 as it has to be' };

/** Refuses and closes; only closes where nobody would read it. */
export function answerClientError(error: Error, socket: Socket): void {
  const code = String((error as { code?: unknown }).code);
  if (code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const { status, message } = FAULTS[code] ?? NOT_HTTP;
  socket.end(refusalText(status, { code: 'invalid', message }), () => socket.destroy());
}

/** A whole HTTP answer, for where there is no request to answer. */
export function refusalText(status: number, refusal: ErrorBody): string {
  const body = JSON.stringify(refusal);
  return [
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
    'content-type: application/json; charset=utf-8',
    `content-length: ${Buffer.byteLength(body)}`,
    'connection: close',
    '',
    body,
  ].join('\r\n');
}
