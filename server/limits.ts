import { KIB, MIB } from '../engine/units.ts';

/**
 * What bounds the memory and the patience of the NBD server. Every number is a setting (`[limits]` of the configuration
 * file); these are the defaults, each with its reason.
 *
 * Memory of the data path is at most
 * `connections * (RECEIVE_SLAB_BYTES + privateBytesPerConnection + OUTPUT_BUFFER_BYTES) + sharedBytes + PEER_SHARED_BYTES`,
 * where there are `maxConnections + MAX_PEER_CONNECTIONS + PEER_HANDSHAKES` connections at most,
 * and in practice far below: slabs are lent only while a request is incomplete.
 */
export interface ServerLimits {
  /** Connections at a time, handshakes included, but for links of other nodes. One more is closed at once. */
  readonly maxConnections: number;
  /** From accepting a connection to the end of its handshake, in milliseconds. */
  readonly handshakeTimeoutMs: number;
  /** Requests of a connection that wait for a disk. Beyond it the connection is not read from. */
  readonly maxRequestsInFlight: number;
  /** Bytes of replies not yet sent and of small requests that wait for a disk, for each connection. Beyond it the connection is not read from. */
  readonly privateBytesPerConnection: number;
  /** Bytes for requests above `LARGE_REQUEST_BYTES`, shared by all connections. At least the largest payload. */
  readonly sharedBytes: number;
  /** A connection that holds shared bytes, moves less than 1 MiB in so long, and makes others wait for them, is closed. */
  readonly stallTimeoutMs: number;
  /** How long a clean shutdown waits for replies to be taken by their clients. */
  readonly shutdownGraceMs: number;
}

export const DEFAULT_LIMITS: ServerLimits = {
  maxConnections: 256, // a node serves tens of devices, each over a few connections
  handshakeTimeoutMs: 10_000, // round trips take milliseconds; a person on telnet is no client
  maxRequestsInFlight: 256, // twice what the kernel keeps in flight (128)
  privateBytesPerConnection: 1 * MIB, // eight 128 KiB reads in flight, the kernel's default request size
  sharedBytes: 256 * MIB, // eight of the largest requests
  stallTimeoutMs: 30_000, // longer than a retransmission storm, shorter than a hung task warning (120 s)
  shutdownGraceMs: 10_000,
};

/**
 * Payloads up to here are served from the connection's own buffers, at once where the page cache allows; above it they take
 * shared bytes. 256 KiB is what copying tools ask for.
 */
export const LARGE_REQUEST_BYTES = 256 * KIB;
/** Room for the headers of one request or reply, and for its error text. */
const HEADER_ROOM_BYTES = 4 * KIB;
/** What one read from a socket can bring: more than a unix socket's buffer holds (208 KiB by default). */
export const RECEIVE_BUFFER_BYTES = 256 * KIB;
/** Where a connection keeps the start of an incomplete request: room for all of it but a byte, and for one more read behind it. */
export const RECEIVE_SLAB_BYTES = LARGE_REQUEST_BYTES + HEADER_ROOM_BYTES + RECEIVE_BUFFER_BYTES;
/** Replies are gathered in buffers of this size, and each is sent in one write. */
export const OUTPUT_BUFFER_BYTES = LARGE_REQUEST_BYTES + HEADER_ROOM_BYTES;
/** Extents in one reply to a block status request, of all contexts together: 16 KiB of reply with extended headers. */
export const MAX_EXTENTS_PER_REPLY = 1024;
/** Regions that one block status request looks at, for all contexts of changes together: a millisecond or so. A reply may be short. */
export const MAX_REGIONS_PER_REPLY = 1024 * 1024;
/** What a block status request that waits is taken to own: its extents, as the engine finds them and as they are sent. */
export const BLOCK_STATUS_BYTES = 128 * KIB;
/** A connection has moved when it has moved so many bytes: dripping is no progress. */
export const PROGRESS_BYTES = 1 * MIB;
/** Bytes of answers that a client in its handshake may leave unread. */
export const MAX_UNREAD_HANDSHAKE_BYTES = 256 * KIB;
/** Bytes for large requests of links of other nodes, which take nothing of `sharedBytes` (rule K13): four of the largest. */
export const PEER_SHARED_BYTES = 128 * MIB;
/** Connections of links of other nodes, which take nothing of `maxConnections`: a few groups of the most volumes, or tens of ordinary ones. */
export const MAX_PEER_CONNECTIONS = 256;
/** Handshakes beyond `maxConnections`, where a link may come: who it is shows when it has opened something. */
export const PEER_HANDSHAKES = 16;
/** The part of the shared bytes that one connection may hold with more than one request. */
export const SHARE_OF_ONE = 1 / 2;
