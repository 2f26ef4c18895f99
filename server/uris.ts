/** NBD URIs as people give them, on the command line and in the configuration file. */
import { isAbsolute } from 'node:path';
import { EngineError } from '../engine/errors.ts';
import { type NbdUri, NbdUriError, parseNbdUri } from '../protocol/uri.ts';
import { checkSocketPath } from './unix-socket.ts';

/** A URI to listen at: plain NBD, on an absolute unix socket path or a TCP address, without an export. Throws `invalid`. */
export function parseListenUri(text: string): NbdUri {
  const uri = parseUri(text);
  if (uri.tls)
    throw new EngineError(
      'unsupported',
      `${text}: listening with TLS is not supported; use nbd: or nbd+unix:`,
    );
  if (uri.exportName !== '') {
    throw new EngineError(
      'invalid',
      `${text} names an export: a listener serves all of them, leave '${uri.exportName}' out`,
    );
  }
  if (uri.address.kind === 'unix') {
    if (!isAbsolute(uri.address.path))
      throw new EngineError('invalid', `${text}: the socket is not an absolute path`);
    checkSocketPath(uri.address.path);
  }
  return uri;
}

/** Any NBD URI. Throws `invalid`. */
export function parseUri(text: string): NbdUri {
  try {
    return parseNbdUri(text);
  } catch (error) {
    if (error instanceof NbdUriError) throw new EngineError('invalid', error.message, { cause: error });
    throw error;
  }
}
