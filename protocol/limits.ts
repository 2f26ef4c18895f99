/**
 * Bounds on what a peer may make us hold or do, and the sizes that we advertise. The specification leaves these to the
 * implementation; its own numbers are in constants.ts.
 */
import { NBD_MAX_STRING_BYTES } from './constants.ts';

/**
 * Option data that a server buffers, in bytes. The largest honest option is SET_META_CONTEXT: an export name and a handful of
 * queries, each at most one string long.
 */
export const MAX_OPTION_DATA_BYTES = 8 * NBD_MAX_STRING_BYTES;

/**
 * Option data that a server reads and throws away in one handshake, in bytes: enough to stay in step with a client of a later
 * protocol that sends options unknown here. Beyond it the connection is closed.
 */
export const MAX_SKIPPED_OPTION_BYTES = 1024 * 1024;

/** Options in one handshake. `qemu-nbd --list` sends two or three for each export on one connection, so this is generous. */
export const MAX_OPTIONS_PER_HANDSHAKE = 4096;

/** Replies to one LIST, in bytes; a longer list is refused with TOO_BIG. About 7,000 exports with ordinary names. */
export const MAX_LIST_REPLY_BYTES = 1024 * 1024;

/**
 * Output of one `receive()` of the server, in bytes. Only a client that sends options without waiting for their replies, which the
 * specification forbids, can reach it; it is cut off.
 */
export const MAX_HANDSHAKE_OUTPUT_BYTES = 2 * MAX_LIST_REPLY_BYTES;

/** One reply to an option that a client accepts, in bytes: a name, a description, and room. */
export const MAX_OPTION_REPLY_BYTES = 8 * NBD_MAX_STRING_BYTES;

/** All replies to one option that a client accepts, in bytes: what bounds an endless LIST. */
export const MAX_OPTION_REPLIES_BYTES = 4 * 1024 * 1024;

/** Error texts are cut to this many bytes: "SHOULD be no longer than 256 bytes" (section "Conventions"). */
export const MAX_ERROR_TEXT_BYTES = 256;

/**
 * Largest payload of one request or reply, in bytes. "Any length less than 2^25 bytes SHOULD NOT be considered a denial of service
 * attack" (section "Block size constraints"); every client known keeps to it.
 */
export const MAX_PAYLOAD_BYTES = 32 * 1024 * 1024;

/** What we advertise in NBD_INFO_BLOCK_SIZE, in bytes: any alignment is taken, whole pages are best. */
export const MINIMUM_BLOCK_BYTES = 1;
export const PREFERRED_BLOCK_BYTES = 4096;

/** "MUST NOT be larger than 2^16" for the minimum, "at least 2^9" for the preferred block (section "Block size constraints"). */
export const LARGEST_MINIMUM_BLOCK_BYTES = 65536;
export const SMALLEST_PREFERRED_BLOCK_BYTES = 512;
