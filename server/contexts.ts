/**
 * The metadata contexts of an export: `base:allocation`, and for each older snapshot A which regions may differ between A and what the export
 * shows, under two names: `tidemark:changed:A`, and `qemu:dirty-bitmap:A`, which existing backup tools ask for (docs/interop/nbd of QEMU).
 */
import { EngineError } from '../engine/errors.ts';
import { PAGE_REGIONS } from '../engine/map/region-map.ts';
import { BASE_ALLOCATION } from '../protocol/constants.ts';
import type { BlockStatusExtent } from '../protocol/reply.ts';
import type { MetaContext } from '../protocol/session.ts';
import type { ExportedGroup, SnapshotView } from './group-control.ts';
import { MAX_REGIONS_PER_REPLY } from './limits.ts';

const CHANGED_PREFIXES = ['tidemark:changed:', 'qemu:dirty-bitmap:'] as const;
/** Bit 0 of both: the extent differs, or may. QEMU calls it NBD_STATE_DIRTY. */
const STATE_CHANGED = 1 << 0;
/** Regions that the group is asked about at a time, a page of its maps: bounds the list that it makes, of which a reply may take little, at 16384 runs. */
const WINDOW_REGIONS = PAGE_REGIONS;

/** What an export shows: a volume as it is, or as a snapshot has it. */
export interface ImageOfGroup {
  readonly group: ExportedGroup;
  readonly volume: string;
  readonly snapshot: SnapshotView | undefined;
}

/** A context that a client selected, as we serve it. */
export type SelectedContext =
  | { readonly id: number; readonly kind: 'allocation' }
  /** `since` is undefined when the snapshot went away while the client was still shaking hands. */
  | { readonly id: number; readonly kind: 'changed'; readonly since: SnapshotView | undefined }
  /** The export itself tells it, of an inner range; at most so many extents. */
  | {
      readonly id: number;
      readonly kind: 'told';
      readonly extents: (offsetBytes: number, lengthBytes: number, maxExtents: number) => BlockStatusExtent[];
    };

/** Full names of the contexts that the image has now. */
export function contextNames(image: ImageOfGroup): string[] {
  const names = baseSnapshots(image).map((snapshot) => snapshot.name);
  return [BASE_ALLOCATION, ...CHANGED_PREFIXES.flatMap((prefix) => names.map((name) => `${prefix}${name}`))];
}

/** Snapshots that something may have changed since: all older ones. */
function baseSnapshots({ group, snapshot }: ImageOfGroup): readonly SnapshotView[] {
  if (snapshot === undefined) return group.snapshots;
  return group.snapshots.filter((other) => other.lsn < snapshot.lsn && other.id !== snapshot.id);
}

/**
 * From the names that were negotiated to what they mean, once a session: a name that is given to another snapshot later must not make a
 * client believe that it got the changes since the one it meant.
 */
export function resolveContexts(image: ImageOfGroup, contexts: readonly MetaContext[]): SelectedContext[] {
  return contexts.flatMap(({ id, name }): SelectedContext[] => {
    if (name === BASE_ALLOCATION) return [{ id, kind: 'allocation' }];
    const prefix = CHANGED_PREFIXES.find((each) => name.startsWith(each));
    if (prefix === undefined) return [];
    const wanted = name.slice(prefix.length);
    const since = image.group.snapshots.find((snapshot) => snapshot.name === wanted);
    return [{ id, kind: 'changed', since }];
  });
}

/** What is asked of a context: a range in bytes, inside the image. */
export interface ExtentQuery {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly regionBytes: number;
  /** Extents at most; the last one may end before the range does. */
  readonly maxExtents: number;
  /** Regions looked at, at most; the range may not be covered then. */
  readonly maxRegions?: number;
}

/**
 * Extents from the start of the range, changed and unchanged in turn. Throws `unavailable` when one of the two images is not what it was when
 * the session began: deleted, or refreshed.
 */
export function changedExtents(
  image: ImageOfGroup,
  since: SnapshotView | undefined,
  query: ExtentQuery,
): BlockStatusExtent[] {
  const from = sameSnapshot(image.group, since);
  const to = image.snapshot === undefined ? undefined : sameSnapshot(image.group, image.snapshot);
  const { offsetBytes, lengthBytes, regionBytes, maxExtents } = query;
  const endBytes = offsetBytes + lengthBytes;
  const endRegion = Math.ceil(endBytes / regionBytes);
  const firstRegion = Math.floor(offsetBytes / regionBytes);
  const lastLook = Math.min(endRegion, firstRegion + (query.maxRegions ?? MAX_REGIONS_PER_REPLY));
  const extents = new ExtentList(offsetBytes, endBytes, maxExtents);
  for (let region = firstRegion; region < lastLook && !extents.full; ) {
    const windowEnd = Math.min(lastLook, (Math.floor(region / WINDOW_REGIONS) + 1) * WINDOW_REGIONS);
    for (const run of image.group.changedRuns(image.volume, from, to, region, windowEnd)) {
      if (extents.full) break;
      extents.extend(run.first * regionBytes, 0);
      extents.extend(run.end * regionBytes, STATE_CHANGED);
    }
    extents.extend(windowEnd * regionBytes, 0);
    region = windowEnd;
  }
  return extents.list;
}

/** Whether an extent of `changedExtents` may differ. */
export function isChanged(extent: BlockStatusExtent): boolean {
  return (extent.flags & STATE_CHANGED) !== 0;
}

/** The present name of a snapshot that a session began with. */
function sameSnapshot(group: ExportedGroup, wanted: SnapshotView | undefined): string {
  const now = wanted && group.snapshots.find((snapshot) => snapshot.id === wanted.id);
  if (wanted !== undefined && now !== undefined && now.lsn === wanted.lsn) return now.name;
  const what = wanted === undefined ? 'a snapshot' : `snapshot ${wanted.name}`;
  throw new EngineError(
    'unavailable',
    `${what} of group ${group.name} was deleted or refreshed since this session began: connect again`,
    { errno: 'EIO' },
  );
}

/** Extents in a row, neighbours with the same flags merged, cut to a range and a number. */
class ExtentList {
  readonly list: { lengthBytes: number; readonly flags: number }[] = [];
  full = false;
  #at: number;
  readonly #end: number;
  readonly #maxExtents: number;

  constructor(startBytes: number, endBytes: number, maxExtents: number) {
    this.#at = startBytes;
    this.#end = endBytes;
    this.#maxExtents = maxExtents;
  }

  /** Everything from the end of the last extent up to `toBytes` has these flags. */
  extend(toBytes: number, flags: number): void {
    const lengthBytes = Math.min(toBytes, this.#end) - this.#at;
    if (lengthBytes <= 0 || this.full) return;
    const last = this.list.at(-1);
    if (last !== undefined && last.flags === flags) last.lengthBytes += lengthBytes;
    else if (this.list.length < this.#maxExtents) this.list.push({ lengthBytes, flags });
    else {
      this.full = true;
      return;
    }
    this.#at += lengthBytes;
  }
}
