/**
 * ioctls on files and block devices, `linux/fs.h` and `linux/fiemap.h`.
 *
 * Block devices are zeroed and punched by `fallocate(2)` (Linux 4.9 and later), not by BLKZEROOUT: it takes the same path
 * in the kernel, runs on the thread pool here as it does for files, gives space back where the device can
 * (BLKZEROOUT never does), and says EOPNOTSUPP where a punch would come to writing zeroes.
 */
import ioctl from 'ioctl-napi';
import type { DiskExtent } from './disk.ts';
import { ioctlOnPool } from './native.ts';

/** `_IOR(0x12, 114, size_t)` and `_IO(0x12, 104)` */
const BLKGETSIZE64 = 0x80081272;
const BLKSSZGET = 0x1268;
/** `_IOWR('f', 11, struct fiemap)` */
const FS_IOC_FIEMAP = 0xc020660b;

/** `struct fiemap`: start, length (64 bit), flags, mapped extents, room for extents, reserved; then the extents. */
const FIEMAP_BYTES = 32;
/** `struct fiemap_extent`: logical, physical, length (64 bit), …, flags at 40. */
const FIEMAP_EXTENT_BYTES = 56;
const FIEMAP_EXTENT_LAST = 0x1;
/** Write the file back first, so that delayed allocations are extents on any filesystem. */
const FIEMAP_FLAG_SYNC = 0x1;

/** Filesystems whose FIEMAP tells of delayed allocations by itself: ext2 to ext4, XFS, btrfs (`linux/magic.h`). */
const TELLS_DELAYED_ALLOCATIONS = new Set([0xef53, 0x58465342, 0x9123683e]);

/** Extents asked for at a time: 14 KiB of answer. */
const EXTENTS_PER_CALL = 256;

export interface BlockDeviceSize {
  readonly sizeBytes: number;
  readonly logicalBlockBytes: number;
}

/** Size of an open block device. It does not wait for the device. */
export function blockDeviceSize(fd: number): BlockDeviceSize {
  const size = Buffer.alloc(8);
  ioctl(fd, BLKGETSIZE64, size);
  const block = Buffer.alloc(4);
  ioctl(fd, BLKSSZGET, block);
  return { sizeBytes: Number(size.readBigUInt64LE(0)), logicalBlockBytes: block.readUInt32LE(0) };
}

/** Appends extents of two kinds, merging neighbours: only a range without an extent is a hole. */
class ExtentList {
  readonly extents: { lengthBytes: number; hole: boolean; zero: boolean }[] = [];
  readonly #maxExtents: number;

  constructor(maxExtents: number) {
    this.#maxExtents = maxExtents;
  }

  /** False when there was no room for it. */
  add(lengthBytes: number, hole: boolean): boolean {
    if (lengthBytes <= 0) return true;
    const last = this.extents.at(-1);
    if (last?.hole === hole) {
      last.lengthBytes += lengthBytes;
      return true;
    }
    if (this.extents.length === this.#maxExtents) return false;
    this.extents.push({ lengthBytes, hole, zero: hole });
    return true;
  }
}

/**
 * The extents of a range from `offsetBytes`, with data from `endOfFile` on: a file that was cut short has nothing there that could be read,
 * which a map of its extents shows as a hole.
 */
export function dataBeyond(
  extents: readonly DiskExtent[],
  offsetBytes: number,
  endOfFile: number,
  maxExtents: number,
): DiskExtent[] {
  const list = new ExtentList(maxExtents);
  let at = offsetBytes;
  for (const { lengthBytes, hole } of extents) {
    const insideBytes = Math.min(lengthBytes, Math.max(0, endOfFile - at));
    if (!list.add(insideBytes, hole) || !list.add(lengthBytes - insideBytes, false)) break;
    at += lengthBytes;
  }
  return list.extents;
}

/**
 * Extents of a range of a regular file, as `Disk.extents` has them; undefined where the filesystem cannot tell. The answer may
 * end before the range does. `filesystemType` is that of `statfs(2)`: it decides whether the file has to be written back first.
 */
export async function fileExtents(
  fd: number,
  filesystemType: number,
  offsetBytes: number,
  lengthBytes: number,
  maxExtents: number,
): Promise<DiskExtent[] | undefined> {
  const flags = TELLS_DELAYED_ALLOCATIONS.has(filesystemType) ? 0 : FIEMAP_FLAG_SYNC;
  const list = new ExtentList(maxExtents);
  const endBytes = offsetBytes + lengthBytes;
  const argument = Buffer.alloc(FIEMAP_BYTES + EXTENTS_PER_CALL * FIEMAP_EXTENT_BYTES);
  let at = offsetBytes;
  while (at < endBytes) {
    argument.fill(0, 0, FIEMAP_BYTES);
    argument.writeBigUInt64LE(BigInt(at), 0);
    argument.writeBigUInt64LE(BigInt(endBytes - at), 8);
    argument.writeUInt32LE(flags, 16);
    argument.writeUInt32LE(EXTENTS_PER_CALL, 24);
    const errno = await ioctlOnPool(fd, FS_IOC_FIEMAP, argument);
    if (errno !== undefined) return list.extents.length > 0 ? list.extents : undefined;
    const mapped = argument.readUInt32LE(20);
    let last = mapped < EXTENTS_PER_CALL;
    for (let i = 0; i < mapped; i++) {
      const base = FIEMAP_BYTES + i * FIEMAP_EXTENT_BYTES;
      const start = Math.min(Math.max(Number(argument.readBigUInt64LE(base)), at), endBytes);
      const end = Math.min(
        Number(argument.readBigUInt64LE(base) + argument.readBigUInt64LE(base + 16)),
        endBytes,
      );
      if (!list.add(start - at, true) || !list.add(end - start, false)) return list.extents;
      at = Math.max(at, end);
      if ((argument.readUInt32LE(base + 40) & FIEMAP_EXTENT_LAST) !== 0) last = true;
    }
    if (last) {
      list.add(endBytes - at, true);
      at = endBytes;
    }
  }
  return list.extents;
}
