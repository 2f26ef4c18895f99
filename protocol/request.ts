import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_DISC,
  NBD_CMD_FLAG_DF,
  NBD_CMD_FLAG_FAST_ZERO,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_EINVAL,
  NBD_ENOSPC,
  NBD_EOVERFLOW,
  NBD_EPERM,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_SEND_CACHE,
  NBD_FLAG_SEND_DF,
  NBD_FLAG_SEND_FAST_ZERO,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
  NBD_SUCCESS,
} from './constants.ts';

/** What was negotiated, as far as it decides whether a request is legal. */
export interface TransmissionRules {
  readonly sizeBytes: number;
  readonly transmissionFlags: number;
  readonly minimumBlockBytes: number;
  readonly maximumPayloadBytes: number;
  readonly extendedHeaders: boolean;
  /** How many meta contexts the client selected. */
  readonly contextCount: number;
}

/**
 * Decides whether a request is legal ("Request types", "Command flags", "Block size constraints"): the one place where
 * that is decided. Returns `NBD_SUCCESS`, or the error to answer with.
 *
 * A payload that is too long for the connection to go on is not its business: see `payloadIsTolerable`.
 */
export function validateRequest(
  type: number,
  flags: number,
  offset: number,
  length: number,
  rules: TransmissionRules,
): number {
  const offered = rules.transmissionFlags;
  let allowed = allowedFlags(type, rules);
  // "valid for all commands, provided NBD_FLAG_SEND_FUA has been negotiated"
  if (offered & NBD_FLAG_SEND_FUA) allowed |= NBD_CMD_FLAG_FUA;
  if (flags & ~allowed) return NBD_EINVAL;

  switch (type) {
    case NBD_CMD_READ:
      if (length > rules.maximumPayloadBytes) return flags & NBD_CMD_FLAG_DF ? NBD_EOVERFLOW : NBD_EINVAL;
      return checkRange(offset, length, NBD_EINVAL, rules);
    case NBD_CMD_WRITE:
      if (offered & NBD_FLAG_READ_ONLY) return NBD_EPERM;
      if (length > rules.maximumPayloadBytes) return NBD_EINVAL;
      return checkRange(offset, length, NBD_ENOSPC, rules);
    case NBD_CMD_TRIM:
      if (offered & NBD_FLAG_READ_ONLY) return NBD_EPERM;
      return offered & NBD_FLAG_SEND_TRIM ? checkRange(offset, length, NBD_EINVAL, rules) : NBD_EINVAL;
    case NBD_CMD_WRITE_ZEROES:
      if (offered & NBD_FLAG_READ_ONLY) return NBD_EPERM;
      return offered & NBD_FLAG_SEND_WRITE_ZEROES
        ? checkRange(offset, length, NBD_ENOSPC, rules)
        : NBD_EINVAL;
    case NBD_CMD_CACHE:
      return offered & NBD_FLAG_SEND_CACHE ? checkRange(offset, length, NBD_EINVAL, rules) : NBD_EINVAL;
    case NBD_CMD_BLOCK_STATUS:
      // "the client MUST NOT send a block status request of length 0", nor one without a negotiated context
      if (rules.contextCount === 0 || length === 0) return NBD_EINVAL;
      return checkRange(offset, length, NBD_EINVAL, rules);
    case NBD_CMD_FLUSH:
      // "offset and length are reserved and MUST be 0"
      if (!(offered & NBD_FLAG_SEND_FLUSH)) return NBD_EINVAL;
      return offset === 0 && length === 0 ? NBD_SUCCESS : NBD_EINVAL;
    case NBD_CMD_DISC:
      return NBD_SUCCESS;
    default:
      return NBD_EINVAL;
  }
}

/** The flags that a command may carry, FUA apart. */
function allowedFlags(type: number, rules: TransmissionRules): number {
  switch (type) {
    case NBD_CMD_READ:
      return rules.transmissionFlags & NBD_FLAG_SEND_DF ? NBD_CMD_FLAG_DF : 0;
    case NBD_CMD_WRITE:
      return rules.extendedHeaders ? NBD_CMD_FLAG_PAYLOAD_LEN : 0;
    case NBD_CMD_WRITE_ZEROES:
      return rules.transmissionFlags & NBD_FLAG_SEND_FAST_ZERO
        ? NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO
        : NBD_CMD_FLAG_NO_HOLE;
    case NBD_CMD_BLOCK_STATUS:
      return NBD_CMD_FLAG_REQ_ONE;
    default:
      return 0;
  }
}

function checkRange(offset: number, length: number, beyondEnd: number, rules: TransmissionRules): number {
  if (offset + length > rules.sizeBytes) return beyondEnd;
  const block = rules.minimumBlockBytes;
  if (block !== 1 && (offset % block !== 0 || length % block !== 0)) return NBD_EINVAL;
  return NBD_SUCCESS;
}

/**
 * Whether a payload of that many bytes is read and thrown away, so that its request can be answered with an error; beyond it
 * the connection is closed. Twice the largest payload that we take ("a client SHOULD NOT send …; the server MAY disconnect").
 */
export function payloadIsTolerable(payloadBytes: number, rules: TransmissionRules): boolean {
  return payloadBytes <= 2 * rules.maximumPayloadBytes;
}
