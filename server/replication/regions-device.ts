import { EngineError } from '../../engine/errors.ts';
import type { RegionContent, ReplicaPort } from '../../engine/link/peer.ts';
import type { RegionRun } from '../../engine/map/region-map.ts';
import type { BlockStatusExtent } from '../../protocol/reply.ts';
import { ReplicationDevice } from './replication-device.ts';

/** Bit 0 of an extent of this context: the secondary needs the regions. */
export const NEEDS_CONTEXT = 'tidemark:needs';
const STATE_NEEDED = 1 << 0;
/** Regions handed over in one call; a request that zeroes more is cut. */
const REGIONS_A_CALL = 1024;

export interface RegionsOf {
  readonly port: ReplicaPort;
  readonly session: number;
  readonly round: string | undefined;
  readonly volume: string;
  readonly sizeBytes: number;
  readonly regionBytes: number;
}

/** A volume of a secondary, as a round of its primary writes it: whole regions. */
export class RegionsDevice extends ReplicationDevice {
  override readonly regionBytes: number;
  readonly sizeBytes: number;
  readonly #of: RegionsOf;

  constructor(of: RegionsOf) {
    super();
    this.#of = of;
    this.sizeBytes = of.sizeBytes;
    this.regionBytes = of.regionBytes;
  }

  override write(
    source: Buffer,
    sourceStart: number,
    lengthBytes: number,
    offsetBytes: number,
  ): Promise<void> {
    const bytes = source.subarray(sourceStart, sourceStart + lengthBytes);
    return this.call(() => this.#regions(offsetBytes, lengthBytes, bytes));
  }

  override trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.call(() => this.#regions(offsetBytes, lengthBytes, undefined));
  }

  override flush(): Promise<void> {
    const round = this.#of.round;
    return this.callAfterAll(async () => {
      await this.#of.port.syncRegions(this.#of.session, requireRound(round));
    });
  }

  /** What is needed of a range, from its start; the last extent may end before the range does. */
  needed(offsetBytes: number, lengthBytes: number, maxExtents: number): BlockStatusExtent[] {
    const endBytes = offsetBytes + lengthBytes;
    const extents: BlockStatusExtent[] = [];
    let at = offsetBytes;
    const upTo = (toBytes: number, flags: number): void => {
      const lengthBytes = Math.min(toBytes, endBytes) - at;
      if (lengthBytes <= 0 || extents.length >= maxExtents) return;
      extents.push({ lengthBytes, flags });
      at += lengthBytes;
    };
    const from = Math.floor(offsetBytes / this.regionBytes);
    for (const run of this.#of.port.needs(this.#of.session, this.#of.volume, from, maxExtents)) {
      upTo(run.first * this.regionBytes, 0);
      upTo(run.end * this.regionBytes, STATE_NEEDED);
      if (at >= endBytes || extents.length >= maxExtents) return extents;
    }
    upTo(endBytes, 0);
    return extents;
  }

  async #regions(offsetBytes: number, lengthBytes: number, bytes: Buffer | undefined): Promise<void> {
    const { regionBytes, sizeBytes } = this;
    const endBytes = offsetBytes + lengthBytes;
    const ragged = endBytes % regionBytes !== 0 && endBytes !== sizeBytes;
    if (offsetBytes % regionBytes !== 0 || ragged || lengthBytes === 0)
      throw new EngineError(
        'invalid',
        `${lengthBytes} bytes at ${offsetBytes}: only whole regions of ${regionBytes} bytes are taken`,
      );
    const { port, session, volume } = this.#of;
    const round = requireRound(this.#of.round);
    let regions: RegionContent[] = [];
    for (let at = offsetBytes; at < endBytes; at += regionBytes) {
      const content = bytes?.subarray(at - offsetBytes, Math.min(at + regionBytes, endBytes) - offsetBytes);
      regions.push({ region: at / regionBytes, bytes: content });
      if (regions.length < REGIONS_A_CALL) continue;
      await port.writeRegions(session, round, volume, regions);
      regions = [];
    }
    if (regions.length > 0) await port.writeRegions(session, round, volume, regions);
  }
}

function requireRound(round: string | undefined): string {
  if (round !== undefined) return round;
  throw new EngineError('invalid', 'the export was opened without a round: it only says what is needed');
}

/** The same on the client: regions of extents that begin at the start of a region. */
export function neededRuns(
  extents: readonly BlockStatusExtent[],
  fromBytes: number,
  regionBytes: number,
): RegionRun[] {
  const runs: RegionRun[] = [];
  let at = fromBytes;
  for (const { lengthBytes, flags } of extents) {
    const end = at + lengthBytes;
    if ((flags & STATE_NEEDED) !== 0)
      runs.push({ first: Math.floor(at / regionBytes), end: Math.ceil(end / regionBytes) });
    at = end;
  }
  return runs;
}
