/**
 * Errors on the wire, each mapping in one table: the eight values of "Error values" for replies to requests, and the error types of
 * "Option reply types" for the handshake.
 */
import {
  NBD_EINVAL,
  NBD_EIO,
  NBD_ENOMEM,
  NBD_ENOSPC,
  NBD_ENOTSUP,
  NBD_EOVERFLOW,
  NBD_EPERM,
  NBD_ESHUTDOWN,
  NBD_REP_ERR_BLOCK_SIZE_REQD,
  NBD_REP_ERR_EXT_HEADER_REQD,
  NBD_REP_ERR_INVALID,
  NBD_REP_ERR_PLATFORM,
  NBD_REP_ERR_POLICY,
  NBD_REP_ERR_SHUTDOWN,
  NBD_REP_ERR_TLS_REQD,
  NBD_REP_ERR_TOO_BIG,
  NBD_REP_ERR_UNKNOWN,
  NBD_REP_ERR_UNSUP,
  NBD_SUCCESS,
} from './constants.ts';

/** Errno names that have a value of their own on the wire. The first name of a value is the one it is called by. */
const ERRORS: readonly (readonly [errno: string, value: number])[] = [
  ['EPERM', NBD_EPERM],
  ['EIO', NBD_EIO],
  ['ENOMEM', NBD_ENOMEM],
  ['EINVAL', NBD_EINVAL],
  ['ENOSPC', NBD_ENOSPC],
  ['EOVERFLOW', NBD_EOVERFLOW],
  ['ENOTSUP', NBD_ENOTSUP],
  ['ESHUTDOWN', NBD_ESHUTDOWN],
  // "It also SHOULD map the EDQUOT and EFBIG errors to NBD_ENOSPC."
  ['EDQUOT', NBD_ENOSPC],
  ['EFBIG', NBD_ENOSPC],
  ['EACCES', NBD_EPERM],
  ['EROFS', NBD_EPERM],
  ['EOPNOTSUPP', NBD_ENOTSUP],
];

const VALUE_OF_ERRNO = new Map(ERRORS);
const NAME_OF_VALUE = new Map([...ERRORS].reverse().map(([errno, value]) => [value, errno]));

/**
 * The value on the wire for an errno name. What has none there, or no name at all, is an I/O error: the request was fine and the
 * server failed, so EINVAL would blame the wrong side.
 */
export function nbdErrorOf(errno: string | undefined): number {
  return VALUE_OF_ERRNO.get(errno ?? '') ?? NBD_EIO;
}

/**
 * The errno name of a value that a server sent; `success` for 0. "The client SHOULD treat an unexpected error value as if it had been
 * NBD_EINVAL" (section "Error values").
 */
export function nbdErrorName(value: number): string {
  return value === NBD_SUCCESS ? 'success' : (NAME_OF_VALUE.get(value) ?? 'EINVAL');
}

const REPLY_ERROR_NAMES = new Map([
  [NBD_REP_ERR_UNSUP, 'NBD_REP_ERR_UNSUP'],
  [NBD_REP_ERR_POLICY, 'NBD_REP_ERR_POLICY'],
  [NBD_REP_ERR_INVALID, 'NBD_REP_ERR_INVALID'],
  [NBD_REP_ERR_PLATFORM, 'NBD_REP_ERR_PLATFORM'],
  [NBD_REP_ERR_TLS_REQD, 'NBD_REP_ERR_TLS_REQD'],
  [NBD_REP_ERR_UNKNOWN, 'NBD_REP_ERR_UNKNOWN'],
  [NBD_REP_ERR_SHUTDOWN, 'NBD_REP_ERR_SHUTDOWN'],
  [NBD_REP_ERR_BLOCK_SIZE_REQD, 'NBD_REP_ERR_BLOCK_SIZE_REQD'],
  [NBD_REP_ERR_TOO_BIG, 'NBD_REP_ERR_TOO_BIG'],
  [NBD_REP_ERR_EXT_HEADER_REQD, 'NBD_REP_ERR_EXT_HEADER_REQD'],
]);

/** The specification's name of an error reply to an option, or its number in hex. */
export function replyErrorName(type: number): string {
  return REPLY_ERROR_NAMES.get(type) ?? `0x${type.toString(16)}`;
}
