import type { DiskExtent } from '../../engine/disk/disk.ts';
import { assert, EngineError } from '../../engine/errors.ts';
import {
  CHECKSUM_BYTES,
  MAX_CHECKSUMS,
  MAX_CONTENT_REGIONS,
  type ReplicaPort,
} from '../../engine/link/peer.ts';
import type { RegionRun } from '../../engine/map/region-map.ts';
import { NBD_STATE_ZERO } from '../../protocol/constants.ts';
import type { BlockStatusExtent } from '../../protocol/reply.ts';
import { ReplicationDevice } from './replication-device.ts';
import { forTheWire } from './wire-errors.ts';

/** Of one request: it takes as long as it takes to read the regions. */
export const CHECKSUM_PAYLOAD_BYTES = MAX_CHECKSUMS * CHECKSUM_BYTES;

export interface ChecksumsOf {
  readonly port: ReplicaPort;
  readonly session: number;
  readonly verifyId: string;
  readonly volume: string;
  readonly sizeBytes: number;
  readonly regionBytes: number;
}

/**
 * Checksums of the regions of a volume, as the image of a verification has them, one behind the other: that of region N at N times their length. A region that
 * reads as zeroes has zeroes for a checksum, so that the holes of this export are the blank regions.
 */
export class ChecksumsDevice extends ReplicationDevice {
  override readonly regionBytes = CHECKSUM_BYTES;
  readonly sizeBytes: number;
  readonly #of: ChecksumsOf;
  readonly #regions: number;

  constructor(of: ChecksumsOf) {
    super();
    this.#of = of;
    this.#regions = Math.ceil(of.sizeBytes / of.regionBytes);
    this.sizeBytes = this.#regions * CHECKSUM_BYTES;
  }

  override read(
    target: Buffer,
    targetStart: number,
    lengthBytes: number,
    offsetBytes: number,
  ): Promise<void> {
    const { port, session, verifyId, volume } = this.#of;
    return this.call(async () => {
      const first = offsetBytes / CHECKSUM_BYTES;
      const end = (offsetBytes + lengthBytes) / CHECKSUM_BYTES;
      const sums = await port.checksums(session, verifyId, volume, first, end);
      assert(sums.length === lengthBytes, 'a checksum of every region is told');
      sums.copy(target, targetStart);
    });
  }

  override write(): Promise<void> {
    return Promise.reject(new EngineError('invalid', 'checksums are only read', { errno: 'EPERM' }));
  }

  override async allocation(
    offsetBytes: number,
    lengthBytes: number,
    maxExtents: number,
  ): Promise<DiskExtent[]> {
    const { port, session, verifyId, volume } = this.#of;
    const first = offsetBytes / CHECKSUM_BYTES;
    const asked = Math.min(lengthBytes / CHECKSUM_BYTES, MAX_CONTENT_REGIONS);
    const end = Math.min(first + asked, this.#regions);
    try {
      return extentsOf(await port.content(session, verifyId, volume, first, end), first, end, maxExtents);
    } catch (error) {
      throw forTheWire(error);
    }
  }
}

function extentsOf(runs: readonly RegionRun[], first: number, end: number, maxExtents: number): DiskExtent[] {
  const extents: DiskExtent[] = [];
  let at = first;
  const upTo = (to: number, blank: boolean): void => {
    if (to <= at || extents.length >= maxExtents) return;
    extents.push({ lengthBytes: (to - at) * CHECKSUM_BYTES, hole: blank, zero: blank });
    at = to;
  };
  for (const run of runs) {
    upTo(run.first, true);
    upTo(run.end, false);
  }
  upTo(end, true);
  return extents;
}

/** The same on the client: adds the regions that have content, of extents that begin at a region. Returns where they end. */
export function addContent(
  runs: { first: number; end: number }[],
  extents: readonly BlockStatusExtent[],
  first: number,
): number {
  let at = first;
  for (const { lengthBytes, flags } of extents) {
    const end = at + Math.ceil(lengthBytes / CHECKSUM_BYTES);
    const last = runs.at(-1);
    const isBlank = (flags & NBD_STATE_ZERO) !== 0;
    if (!isBlank && last?.end === at) last.end = end;
    else if (!isBlank) runs.push({ first: at, end });
    at = end;
  }
  return at;
}
