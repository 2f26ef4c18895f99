import { nbdErrorName } from '../protocol/errors.ts';

/** The server refused a request, or failed at it. The connection goes on. */
export class NbdClientError extends Error {
  /** The error value on the wire: `NBD_EIO`, … */
  readonly code: number;

  /** `what`: the request, for a person. `text`: the server's words, often empty. */
  constructor(what: string, code: number, text: string) {
    super(`${what}: ${nbdErrorName(code)}${text === '' ? '' : ` (${text})`}`);
    this.name = nbdErrorName(code);
    this.code = code;
  }
}

export type NbdConnectionErrorCode =
  /** No connection: nobody listens there, no such host, no rights. */
  | 'unreachable'
  /** Connected, but not in the time given. */
  | 'timeout'
  /** The server does not serve what was asked for, or not to us. */
  | 'refused'
  /** What was asked for cannot be done by this client (TLS). */
  | 'unsupported'
  /** The server broke the NBD protocol. */
  | 'protocol'
  /** The connection broke, or the server closed it. */
  | 'lost'
  /** This side closed it. */
  | 'closed'
  /** More requests wait than the client keeps. The connection goes on. */
  | 'overloaded';

/** There is no connection to the server, or none any more. What was in flight may or may not have been done. */
export class NbdConnectionError extends Error {
  readonly code: NbdConnectionErrorCode;

  constructor(code: NbdConnectionErrorCode, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'NbdConnectionError';
    this.code = code;
  }
}
