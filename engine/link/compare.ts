/**
 * Compares a volume of two images at one LSN, of which one is here and the other on the secondary: only which regions have content, and checksums of
 * those, pass over the link. What has no content on either side is not looked at, so that a sparse volume costs next to nothing.
 */

import { EngineError } from '../errors.ts';
import type { GroupState, GroupVolume } from '../group-state.ts';
import { RegionMap, type RegionRun } from '../map/region-map.ts';
import type { Layer } from '../snapshot/chain.ts';
import { checksumsOf, contentRuns } from '../snapshot/checksums.ts';
import type { RegionIndex } from '../units.ts';
import { CHECKSUM_BYTES, MAX_CHECKSUMS, MAX_CONTENT_REGIONS, type PeerSession } from './peer.ts';

/** Blank regions in a row that a step reads on the way, so that it is one request. */
const MOST_GAP = 8;

/** What a step has looked at. */
export interface Step {
  readonly regions: number;
  /** Read here. */
  readonly contentBytes: number;
  /** That have come. */
  readonly checksumBytes: number;
}

export interface Comparison {
  readonly state: GroupState;
  readonly session: Pick<PeerSession, 'content' | 'checksums'>;
  readonly verifyId: string;
  readonly layer: Layer;
  /** Content that is read for one step on each side, or one region. */
  readonly stepBytes: number;
  /** After each step. It waits for its pace, and rejects to end the comparison. */
  readonly stepped: (step: Step) => Promise<void>;
  readonly differs: (region: RegionIndex) => void;
  /** Everything below that region is compared. */
  readonly reached: (region: RegionIndex) => void;
}

/** Rejects with what either side refuses. */
export async function compareVolume(comparison: Comparison, volume: GroupVolume): Promise<void> {
  const { state, session, verifyId, layer } = comparison;
  const count = state.regionCount(volume);
  for (let first = 0; first < count; first += MAX_CONTENT_REGIONS) {
    const end = Math.min(count, first + MAX_CONTENT_REGIONS);
    const [here, there] = await bothOf(
      contentRuns(state, volume, layer, first, end),
      session.content(verifyId, volume.name, first, end),
    );
    const window = new RegionMap(end - first);
    for (const run of [...here, ...there]) setIn(window, run, first);
    await compareWindow(comparison, volume, window, first);
    comparison.reached(end);
  }
}

function setIn(window: RegionMap, run: RegionRun, base: RegionIndex): void {
  const [first, end] = [Math.max(0, run.first - base), Math.min(window.length, run.end - base)];
  if (first < end) window.setRange(first, end);
}

async function compareWindow(
  comparison: Comparison,
  volume: GroupVolume,
  window: RegionMap,
  base: RegionIndex,
): Promise<void> {
  const { state, stepBytes } = comparison;
  const most = Math.max(1, Math.min(MAX_CHECKSUMS, Math.floor(stepBytes / state.regionBytes)));
  for (let at = next(window, 0); at < window.length; ) {
    const end = stepEnd(window, at, most);
    await compareStep(comparison, volume, window, { first: at, end }, base);
    comparison.reached(base + end);
    at = next(window, end);
  }
}

/** A step begins and ends with a region that has content. */
function stepEnd(window: RegionMap, first: number, most: number): number {
  let end = first + 1;
  for (let at = next(window, end); at < window.length; at = next(window, end)) {
    if (at - end > MOST_GAP || at + 1 - first > most) break;
    end = at + 1;
  }
  return end;
}

async function compareStep(
  comparison: Comparison,
  volume: GroupVolume,
  window: RegionMap,
  step: RegionRun,
  base: RegionIndex,
): Promise<void> {
  const { state, session, verifyId, layer } = comparison;
  const [first, end] = [base + step.first, base + step.end];
  const [here, there] = await bothOf(
    checksumsOf(state, volume, layer, first, end, () => false),
    session.checksums(verifyId, volume.name, first, end),
  );
  if (there.length !== here.length)
    throw new EngineError(
      'unavailable',
      `the secondary answers with ${there.length} bytes of checksums, not ${here.length}`,
    );
  let contentBytes = 0;
  let regions = 0;
  for (let region = first; region < end; region++) {
    if (!window.has(region - base)) continue;
    regions++;
    contentBytes += state.bytesOf(volume, region);
    const at = (region - first) * CHECKSUM_BYTES;
    if (here.compare(there, at, at + CHECKSUM_BYTES, at, at + CHECKSUM_BYTES) !== 0)
      comparison.differs(region);
  }
  await comparison.stepped({ regions, contentBytes, checksumBytes: there.length });
}

/** Both have ended when it settles: nobody reads an image that is let go of. */
async function bothOf<A, B>(a: Promise<A>, b: Promise<B>): Promise<[A, B]> {
  await Promise.allSettled([a, b]);
  return [await a, await b];
}

function next(map: RegionMap, from: number): number {
  return from < map.length ? map.nextSet(from) : map.length;
}
