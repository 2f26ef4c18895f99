/** Request types that are counted, in the order of their numbers in the specification. */
export const REQUEST_NAMES = [
  'read',
  'write',
  'disconnect',
  'flush',
  'trim',
  'cache',
  'write_zeroes',
  'block_status',
] as const;

/** Counters of the data path, since the start of the process. Plain numbers: they are touched for each request. */
export class Counters {
  /** Requests by type number; the last one counts unknown types. */
  readonly requests = new Float64Array(REQUEST_NAMES.length + 1);
  /** Requests answered with an error. */
  errors = 0;
  bytesRead = 0;
  bytesWritten = 0;
  /** Reads and writes that could not be served from the page cache at once. */
  waited = 0;

  countRequest(type: number): void {
    const slot = Math.min(type, REQUEST_NAMES.length);
    this.requests[slot] = (this.requests[slot] ?? 0) + 1;
  }
}
