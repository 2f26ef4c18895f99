import { NBD_CMD_FLAG_DF, NBD_SUCCESS } from './constants.ts';
import type { BlockStatusExtent } from './reply.ts';

/**
 * Pieces with gaps between them that a read may arrive in at one time. Servers send their chunks in order, or nearly; without
 * a bound, a hostile one could have us remember every second byte.
 */
export const MAX_READ_FRAGMENTS = 1024;

/**
 * Extents kept of one block status reply, for each context. What comes beyond is read and dropped: a reply may always tell of less
 * than was asked for.
 */
export const MAX_KEPT_EXTENTS = 65_536;

/** What of a request decides how its reply is read. */
export interface SentRequest {
  /** `NBD_CMD_…`. */
  readonly type: number;
  /** `NBD_CMD_FLAG_…`, OR-ed. */
  readonly flags: number;
  /** In bytes from the start of the export. */
  readonly offset: number;
  /** In bytes. */
  readonly length: number;
  /** Of a read: where its data go, `length` bytes long and lent until the reply is finished. Null for all others. */
  readonly target: Buffer | null;
}

/** Why a piece of a reply does not fit what came before it. */
export type Misfit = 'out-of-range' | 'overlap' | 'fragmented' | 'second-chunk';

/** A reply that is awaited, and what has come of it. Written by `ReplyParser` only. */
export class ExpectedReply implements SentRequest {
  readonly type: number;
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
  readonly target: Buffer | null;

  /** The first error that the server told of; the whole request has failed when it is not `NBD_SUCCESS`. */
  error: number = NBD_SUCCESS;
  /** The server's words about it, fit for one line of a log; often empty. */
  errorText = '';
  /** Of a block status request: extents by context id, from the request's offset, none beyond its end. */
  readonly extents: Map<number, BlockStatusExtent[]> = new Map();

  #contentChunks = 0;
  /** Starts and ends of what was read, relative to `offset`, ascending, with a gap between each two. */
  readonly #pieces: number[] = [];

  constructor(request: SentRequest) {
    this.type = request.type;
    this.flags = request.flags;
    this.offset = request.offset;
    this.length = request.length;
    this.target = request.target;
  }

  /** Whether every byte of a read has come. */
  get isWhole(): boolean {
    if (this.length === 0) return true;
    return this.#pieces.length === 2 && this.#pieces[0] === 0 && this.#pieces[1] === this.length;
  }

  fail(error: number, text: string): void {
    if (this.error !== NBD_SUCCESS) return;
    this.error = error;
    this.errorText = text;
  }

  /** Books the bytes from `start` to `end`, relative to the request's offset. Returns why they cannot be right, or null. */
  book(start: number, end: number): Misfit | null {
    // "Structured reply types": content stays within the bounds of the request and never overlaps; with DF it is one chunk.
    if (start < 0 || start >= end || end > this.length) return 'out-of-range';
    this.#contentChunks++;
    if (this.#contentChunks > 1 && this.flags & NBD_CMD_FLAG_DF) return 'second-chunk';
    const pieces = this.#pieces;
    const last = pieces.length - 1;
    if (last >= 0 && pieces[last] === start) {
      pieces[last] = end;
      return null;
    }
    return this.#insert(start, end);
  }

  #insert(start: number, end: number): Misfit | null {
    const pieces = this.#pieces;
    // From the end, since servers hardly ever go back: `at` is the place of the first piece that starts behind `start`.
    let at = pieces.length;
    while (at > 0 && (pieces[at - 2] ?? 0) > start) at -= 2;
    const endBefore = at > 0 ? (pieces[at - 1] ?? 0) : -1;
    const startAfter = pieces[at] ?? Number.POSITIVE_INFINITY;
    if (endBefore > start || startAfter < end) return 'overlap';
    const joinsBefore = endBefore === start;
    const joinsAfter = startAfter === end;
    if (joinsBefore && joinsAfter) pieces.splice(at - 1, 2);
    else if (joinsBefore) pieces[at - 1] = end;
    else if (joinsAfter) pieces[at] = start;
    else pieces.splice(at, 0, start, end);
    return pieces.length > 2 * MAX_READ_FRAGMENTS ? 'fragmented' : null;
  }
}
