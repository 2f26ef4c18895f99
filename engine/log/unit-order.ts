import type { LogRecord } from './record.ts';

/** A record with the bytes that hold its payload. */
export interface Piece {
  readonly record: LogRecord;
  readonly bytes: Buffer;
}

/**
 * The records of a unit, all of one volume, in the order of the volume, which the page cache and the disk take several times faster than the
 * order of a random load. Records that overlap stay in the order of the log among each other; one that a later one covers whole is left out.
 */
export function inVolumeOrder(pieces: readonly Piece[]): Piece[] {
  const order = pieces.map((_, index) => index);
  const offset = (index: number) => pieces[index]?.record.offsetBytes ?? 0;
  const end = (index: number) => offset(index) + (pieces[index]?.record.lengthBytes ?? 0);
  order.sort((a, b) => offset(a) - offset(b) || a - b);
  const result: Piece[] = [];
  for (let at = 0; at < order.length; ) {
    let reachBytes = end(order[at] ?? 0);
    let to = at + 1;
    while (to < order.length && offset(order[to] ?? 0) < reachBytes) {
      reachBytes = Math.max(reachBytes, end(order[to] ?? 0));
      to++;
    }
    const cluster = to === at + 1 ? [order[at] ?? 0] : order.slice(at, to).sort((a, b) => a - b);
    for (let i = 0; i < cluster.length; i++) {
      const index = cluster[i] ?? 0;
      const next = cluster[i + 1];
      const covered = next !== undefined && offset(next) <= offset(index) && end(next) >= end(index);
      const piece = pieces[index];
      if (!covered && piece !== undefined) result.push(piece);
    }
    at = to;
  }
  return result;
}
