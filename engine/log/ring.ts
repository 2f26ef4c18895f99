import type { Disk } from '../disk/disk.ts';
import { LOG_RING_OFFSET_BYTES } from '../formats.ts';
import { LOG_SECTOR_BYTES, type Lsn } from '../units.ts';

/** A page of the kernel's cache, in sectors: what is written ends on one, so that the kernel never has to read a page in part. */
export const PAGE_SECTORS = 8;

/** `lsn`, or the next one on a page boundary. Exact for all LSNs. */
export function pageAligned(lsn: Lsn): Lsn {
  return Math.ceil(lsn / PAGE_SECTORS) * PAGE_SECTORS;
}

/**
 * The ring: where an LSN lies on the disk. It is a whole number of pages, so that LSNs and bytes of the disk have the same pages. Batches
 * are not padded to its end: they wrap (rule L8).
 */
export class Ring {
  readonly #disk: Disk;
  readonly sectors: number;

  constructor(disk: Disk, ringBytes: number) {
    this.#disk = disk;
    this.sectors = ringBytes / LOG_SECTOR_BYTES;
  }

  /** Bytes from the start of the ring. `%` is exact for safe integers. */
  #placeBytes(lsn: Lsn): number {
    return (lsn % this.sectors) * LOG_SECTOR_BYTES;
  }

  /** Takes its space on the disk. Rejects with code `disk`. */
  async allocate(): Promise<void> {
    const ringBytes = this.sectors * LOG_SECTOR_BYTES;
    try {
      await this.#disk.zero(LOG_RING_OFFSET_BYTES, ringBytes, false);
    } catch (error) {
      // On a full disk, what it took of the last space is missed by others.
      await Promise.allSettled([this.#disk.punch(LOG_RING_OFFSET_BYTES, ringBytes)]);
      throw error;
    }
  }

  /** Into the page cache, now. No longer than the ring. */
  writeNow(lsn: Lsn, source: Buffer, sourceStart: number, lengthBytes: number): void {
    const place = this.#placeBytes(lsn);
    const first = Math.min(lengthBytes, this.sectors * LOG_SECTOR_BYTES - place);
    this.#disk.writeNow(source, sourceStart, first, LOG_RING_OFFSET_BYTES + place);
    if (first < lengthBytes)
      this.#disk.writeNow(source, sourceStart + first, lengthBytes - first, LOG_RING_OFFSET_BYTES);
  }

  /** As `writeNow`, waiting for the disk. */
  async write(lsn: Lsn, source: Buffer): Promise<void> {
    const place = this.#placeBytes(lsn);
    const first = Math.min(source.length, this.sectors * LOG_SECTOR_BYTES - place);
    await this.#disk.write(source, 0, first, LOG_RING_OFFSET_BYTES + place);
    if (first < source.length)
      await this.#disk.write(source, first, source.length - first, LOG_RING_OFFSET_BYTES);
  }

  /** Reads from `startBytes` after an LSN on. No longer than the ring. */
  async read(
    lsn: Lsn,
    startBytes: number,
    target: Buffer,
    targetStart: number,
    lengthBytes: number,
  ): Promise<void> {
    const ringBytes = this.sectors * LOG_SECTOR_BYTES;
    const place = (this.#placeBytes(lsn) + startBytes) % ringBytes;
    const first = Math.min(lengthBytes, ringBytes - place);
    await this.#readPiece(target, targetStart, first, LOG_RING_OFFSET_BYTES + place);
    if (first < lengthBytes)
      await this.#readPiece(target, targetStart + first, lengthBytes - first, LOG_RING_OFFSET_BYTES);
  }

  async #readPiece(
    target: Buffer,
    targetStart: number,
    lengthBytes: number,
    offsetBytes: number,
  ): Promise<void> {
    if (!this.#disk.tryRead(target, targetStart, lengthBytes, offsetBytes))
      await this.#disk.read(target, targetStart, lengthBytes, offsetBytes);
  }
}
