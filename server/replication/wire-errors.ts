/**
 * Refusals between two nodes. An answer to a command carries code, message and errno whole. A reply to a request of the log or of regions has one of the eight
 * errors of NBD and a short text, so that the code is folded into the error on one side, and out of it on the other.
 */
import { EngineError, type EngineErrorCode } from '../../engine/errors.ts';
import {
  NBD_EINVAL,
  NBD_ENOMEM,
  NBD_ENOSPC,
  NBD_ENOTSUP,
  NBD_EOVERFLOW,
  NBD_EPERM,
  NBD_ESHUTDOWN,
} from '../../protocol/constants.ts';
import { NbdClientError, NbdConnectionError } from '../nbd-client-errors.ts';

/** An errno for a refusal that has none: the server would answer EIO, which blames its disk. */
const ERRNO_OF_CODE: Readonly<Record<EngineErrorCode, string>> = {
  invalid: 'EINVAL',
  'not-found': 'EINVAL',
  exists: 'EINVAL',
  'in-use': 'EPERM',
  corrupt: 'EIO',
  disk: 'EIO',
  unavailable: 'ESHUTDOWN',
  unsupported: 'ENOTSUP',
};

const CODE_OF_ERROR: ReadonlyMap<number, readonly [EngineErrorCode, errno: string]> = new Map([
  [NBD_EINVAL, ['invalid', 'EINVAL']],
  [NBD_EOVERFLOW, ['invalid', 'EINVAL']],
  [NBD_EPERM, ['in-use', 'EPERM']],
  [NBD_ENOSPC, ['in-use', 'ENOSPC']],
  [NBD_ENOTSUP, ['unsupported', 'ENOTSUP']],
  [NBD_ESHUTDOWN, ['unavailable', 'ESHUTDOWN']],
  [NBD_ENOMEM, ['unavailable', 'ENOMEM']],
]);

/** On the server: what a request is refused with. */
export function forTheWire(error: unknown): unknown {
  if (!(error instanceof EngineError) || error.errno !== undefined) return error;
  return new EngineError(error.code, error.message, { errno: ERRNO_OF_CODE[error.code], cause: error });
}

/** On the client: what its caller is told. */
export function fromTheWire(error: unknown): unknown {
  if (error instanceof NbdConnectionError)
    return new EngineError('unavailable', error.message, { cause: error });
  if (!(error instanceof NbdClientError)) return error;
  const [code, errno] = CODE_OF_ERROR.get(error.code) ?? ['disk', 'EIO'];
  return new EngineError(code, `the secondary refuses: ${error.message}`, { errno, cause: error });
}
