/** What two nodes compare of an image without moving it: which regions have content at all, and a checksum of each. The same on both sides of a link. */
import { createHash } from 'node:crypto';
import type { GroupState, GroupVolume } from '../group-state.ts';
import { CHECKSUM_BYTES } from '../link/peer.ts';
import type { RegionRun } from '../map/region-map.ts';
import { KIB, type RegionIndex } from '../units.ts';
import type { Layer } from './chain.ts';
import { isZero } from './region-copy.ts';

/** Read and hashed in one go: a millisecond at most, in which nobody else gets on. */
const PIECE_BYTES = 256 * KIB;
/** Extents that are asked for at a time. */
const EXTENTS_AT_ONCE = 1024;

/**
 * Regions from `first` up to `end` that may have content, in order; the others read as zeroes. Decided by what is allocated on the disk, and not by the map
 * *written since creation*: what lies where nobody has ever written is a difference too, and what was trimmed costs nothing.
 */
export async function contentRuns(
  state: GroupState,
  volume: GroupVolume,
  view: Layer,
  first: RegionIndex,
  end: RegionIndex,
): Promise<RegionRun[]> {
  const { regionBytes } = state;
  const runs: { first: RegionIndex; end: RegionIndex }[] = [];
  const endBytes = Math.min(volume.sizeBytes, end * regionBytes);
  for (let at = first * regionBytes; at < endBytes; ) {
    for (const extent of await state.reader.extents(volume, view, at, endBytes - at, EXTENTS_AT_ONCE)) {
      const stop = at + extent.lengthBytes;
      if (!extent.zero) addRun(runs, Math.floor(at / regionBytes), Math.ceil(stop / regionBytes));
      at = stop;
    }
  }
  return runs;
}

/** Two extents may lie in one region. */
function addRun(
  runs: { first: RegionIndex; end: RegionIndex }[],
  first: RegionIndex,
  end: RegionIndex,
): void {
  const last = runs.at(-1);
  if (last !== undefined && first <= last.end) last.end = end;
  else runs.push({ first, end });
}

/** `CHECKSUM_BYTES` for each region from `first` up to `end`. Ends early, with less, once `isOver`. */
export async function checksumsOf(
  state: GroupState,
  volume: GroupVolume,
  view: Layer,
  first: RegionIndex,
  end: RegionIndex,
  isOver: () => boolean,
): Promise<Buffer> {
  const sums = Buffer.alloc((end - first) * CHECKSUM_BYTES);
  const piece = Buffer.allocUnsafe(Math.min(PIECE_BYTES, state.regionBytes));
  let sinceTurn = 0;
  for (let region = first; region < end; region++) {
    const hash = createHash('sha256');
    let blank = true;
    const startBytes = region * state.regionBytes;
    const stopBytes = startBytes + state.bytesOf(volume, region);
    for (let at = startBytes; at < stopBytes; at += piece.length) {
      const bytes = piece.subarray(0, Math.min(piece.length, stopBytes - at));
      await state.reader.read(volume, view, bytes, 0, bytes.length, at);
      blank &&= isZero(bytes);
      hash.update(bytes);
      sinceTurn += bytes.length;
      if (sinceTurn >= PIECE_BYTES) {
        sinceTurn = 0;
        await state.clock.turn();
      }
      if (isOver()) return sums.subarray(0, (region - first) * CHECKSUM_BYTES);
    }
    if (!blank) hash.digest().copy(sums, (region - first) * CHECKSUM_BYTES, 0, CHECKSUM_BYTES);
  }
  return sums;
}
