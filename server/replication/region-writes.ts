import type { RegionContent } from '../../engine/link/peer.ts';
import type { RegionIndex } from '../../engine/units.ts';
import type { NbdClient } from '../nbd-client.ts';

/** Payload of one request at most, in bytes: enough that its round trip costs nothing. Larger regions go alone. */
const MAX_WRITE_BYTES = 4 * 1024 * 1024;
/** Regions that one request zeroes at most. */
const MAX_ZEROED_REGIONS = 4096;

/** Neighbours that go in one request. */
interface Run {
  readonly first: RegionIndex;
  end: RegionIndex;
  /** undefined: they read as zeroes. */
  readonly parts: Buffer[] | undefined;
  bytes: number;
}

/** Sends regions, neighbours together and in order; resolves when all are answered. */
export async function sendRegions(
  client: NbdClient,
  regionBytes: number,
  regions: readonly RegionContent[],
): Promise<void> {
  const requests = runsOf(regions, regionBytes).map(({ first, end, parts }) => {
    const offset = first * regionBytes;
    if (parts !== undefined) return client.write(joined(parts), offset);
    return client.writeZeroes(offset, Math.min(end * regionBytes, client.sizeBytes) - offset);
  });
  // All are awaited, so that a buffer is the caller's again only when none of them is under way.
  const [failed] = (await Promise.allSettled(requests)).filter((result) => result.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
}

function runsOf(regions: readonly RegionContent[], regionBytes: number): Run[] {
  const runs: Run[] = [];
  for (const { region, bytes } of regions) {
    const last = runs.at(-1);
    const length = bytes?.length ?? 0;
    const follows = last?.end === region && (last.parts === undefined) === (bytes === undefined);
    const fits =
      bytes === undefined
        ? last !== undefined && last.end - last.first < MAX_ZEROED_REGIONS
        : last !== undefined && last.bytes + Math.max(length, regionBytes) <= MAX_WRITE_BYTES;
    if (last !== undefined && follows && fits) {
      last.end += 1;
      last.bytes += length;
      if (bytes !== undefined) last.parts?.push(bytes);
    } else {
      runs.push({ first: region, end: region + 1, parts: bytes && [bytes], bytes: length });
    }
  }
  return runs;
}

/** Parts that lie one behind the other in memory, as they do where they were read in one go, are not copied. */
function joined(parts: readonly Buffer[]): Buffer {
  const [first] = parts;
  if (first === undefined) return Buffer.alloc(0);
  let end = first.byteOffset;
  for (const part of parts) {
    if (part.buffer !== first.buffer || part.byteOffset !== end) return Buffer.concat(parts);
    end += part.length;
  }
  return Buffer.from(first.buffer, first.byteOffset, end - first.byteOffset);
}
