/** The disk's own rate of what a fresh snapshot makes a server do: copies of regions, made durable before what was there is overwritten. */
import { closeSync, fdatasyncSync, ftruncateSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { generator } from './random.ts';

const REGION_BYTES = 64 * 1024;
/** Copies that share a sync. */
const BATCH = 64;

/**
 * Copies regions of a file, in random order, to their own places in a new sparse file, with a sync after each 64. Gives copies a second; ends
 * early when there is nothing left to copy.
 */
export function copyRate(
  source: string,
  target: string,
  sizeBytes: number,
  seconds: number,
  seed: number,
): number {
  const from = openSync(source, 'r');
  const to = openSync(target, 'wx');
  try {
    ftruncateSync(to, sizeBytes);
    const order = shuffled(Math.floor(sizeBytes / REGION_BYTES), generator(seed));
    const region = Buffer.alloc(REGION_BYTES);
    const startMs = performance.now();
    let copied = 0;
    while (copied < order.length && performance.now() - startMs < seconds * 1000) {
      for (const index of order.subarray(copied, copied + BATCH)) {
        readSync(from, region, 0, REGION_BYTES, index * REGION_BYTES);
        writeSync(to, region, 0, REGION_BYTES, index * REGION_BYTES);
      }
      fdatasyncSync(to);
      copied += Math.min(BATCH, order.length - copied);
    }
    return copied / ((performance.now() - startMs) / 1000);
  } finally {
    closeSync(from);
    closeSync(to);
    rmSync(target);
  }
}

function shuffled(count: number, random: () => number): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, index) => index);
  for (let last = count - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1));
    const kept = order[last] ?? 0;
    order[last] = order[other] ?? 0;
    order[other] = kept;
  }
  return order;
}

/**
 * Writes in `seconds` from a fresh snapshot that the disk allows: random small writes find their region not yet preserved with a probability that
 * falls as more are, each of those costs a copy, copies are made at `copiesPerSecond`, and writes that need none go at `writesPerSecond` at most.
 */
export function allowedWrites(
  regions: number,
  copiesPerSecond: number,
  writesPerSecond: number,
  seconds: number,
): number {
  const step = 0.001;
  let preserved = 0;
  let writes = 0;
  for (let at = 0; at < seconds; at += step) {
    const fresh = Math.max(0, 1 - preserved / regions);
    const rate = Math.min(writesPerSecond, fresh > 0 ? copiesPerSecond / fresh : Number.POSITIVE_INFINITY);
    writes += rate * step;
    preserved += rate * fresh * step;
  }
  return writes;
}
