/**
 * Memory of a run: what the disks of a run hold is given back all at once, when the next run begins. Buffers of their own for every page and every write
 * would keep the garbage collector busier than the engine.
 */
const CHUNK_BYTES = 1024 * 1024;

const chunks: Buffer[] = [];
let chunk = 0;
let used = 0;

/** Bytes with whatever was there before, until the next `resetArena`. */
export function takeBytes(count: number): Buffer {
  if (count > CHUNK_BYTES) return Buffer.allocUnsafeSlow(count);
  if (used + count > CHUNK_BYTES) {
    chunk++;
    used = 0;
  }
  const bytes = chunks[chunk] ?? Buffer.allocUnsafeSlow(CHUNK_BYTES);
  chunks[chunk] = bytes;
  const start = used;
  used += count;
  return bytes.subarray(start, used);
}

/** All that was taken may be taken again. */
export function resetArena(): void {
  chunk = 0;
  used = 0;
}
