/**
 * Importing an image: a volume-changing operation that finds out by itself what it changes. Each region is compared with the volume, and only one that
 * differs is written, as clients write: into the log where the group logs, so that snapshots and maps follow by themselves.
 */
import type { Clock } from './clock.ts';
import type { Disk } from './disk/disk.ts';
import { EngineError } from './errors.ts';
import { isZero } from './snapshot/region-copy.ts';
import type { Volume } from './volume.ts';

export interface ImportResult {
  readonly regionsCompared: number;
  readonly regionsWritten: number;
  readonly bytesWritten: number;
}

/** An image may be shorter than the volume: the rest stays as it is. `progress` is told bytes. Durable when it resolves, and where the links want it. */
export async function importImage(
  volume: Volume,
  image: Disk,
  clock: Clock,
  progress: (doneBytes: number) => void,
): Promise<ImportResult> {
  if (image.sizeBytes > volume.sizeBytes) {
    const what = `the image has ${image.sizeBytes} bytes, volume ${volume.name} ${volume.sizeBytes}: import an image that fits`;
    throw new EngineError('invalid', what);
  }
  const wanted = Buffer.allocUnsafe(volume.regionBytes);
  const present = Buffer.allocUnsafe(volume.regionBytes);
  let regionsCompared = 0;
  let regionsWritten = 0;
  let bytesWritten = 0;
  for (let at = 0; at < image.sizeBytes; at += volume.regionBytes) {
    const lengthBytes = Math.min(volume.regionBytes, image.sizeBytes - at);
    await image.read(wanted, 0, lengthBytes, at);
    await volume.read(present, 0, lengthBytes, at);
    regionsCompared++;
    const content = wanted.subarray(0, lengthBytes);
    if (!content.equals(present.subarray(0, lengthBytes))) {
      if (isZero(content)) await volume.trim(at, lengthBytes);
      else await volume.write(content, 0, lengthBytes, at);
      regionsWritten++;
      bytesWritten += lengthBytes;
    }
    progress(at + lengthBytes);
    await clock.turn();
  }
  await volume.flush();
  if (volume.holdsReplies) await volume.acknowledged();
  return { regionsCompared, regionsWritten, bytesWritten };
}
