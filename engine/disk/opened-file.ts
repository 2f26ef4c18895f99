/** Opens and creates what a disk lies over, a regular file or a block device: locked, so that no other process has it, and looked at. */
import * as fs from 'node:fs';
import { promisify } from 'node:util';
import { EngineError } from '../errors.ts';
import { createError, inUse, openError } from './disk-error.ts';
import { blockDeviceSize } from './ioctl.ts';
import { tryLockExclusive } from './native.ts';

/** A page of the kernel's cache, in bytes. */
export const PAGE_BYTES = 4096;

const openFile = promisify(fs.open);
const closeFile = promisify(fs.close);
const syncData = promisify(fs.fdatasync);
const statFile = promisify(fs.fstat);
const truncateFile = promisify(fs.ftruncate);

export interface OpenedFile {
  readonly path: string;
  /** Owned by whoever gets this. */
  readonly fd: number;
  readonly readOnly: boolean;
  readonly device: boolean;
  readonly sizeBytes: number;
  /** As `Disk.blockBytes`. */
  readonly blockBytes: number;
  /** As `statfs` has it; 0 for a device. */
  readonly filesystemType: number;
}

/** Opens what is there, and locks it unless it is for reading only. Throws `not-found`, `in-use`, `invalid` for what is neither file nor device. */
export async function openExisting(path: string, readOnly: boolean): Promise<OpenedFile> {
  let fd: number | undefined;
  try {
    const found = await fs.promises.stat(path);
    if (!found.isFile() && !found.isBlockDevice())
      throw new EngineError(
        'invalid',
        `${path} is neither a regular file nor a block device: name one of these`,
      );
    // On a block device O_EXCL means: nobody else has it so, neither a mount nor another server.
    const { O_RDONLY, O_RDWR, O_EXCL } = fs.constants;
    const writing = found.isBlockDevice() ? O_RDWR | O_EXCL : O_RDWR;
    fd = await openFile(path, readOnly ? O_RDONLY : writing);
    return await lookAt(path, fd, readOnly);
  } catch (error) {
    if (fd !== undefined) await closeFile(fd);
    throw await openError(path, error);
  }
}

/** Creates a sparse file, and locks it. Throws `exists`; on any error no file is left. The folder is not synced. */
export async function createSparse(path: string, sizeBytes: number): Promise<OpenedFile> {
  let fd: number | undefined;
  try {
    fd = await openFile(path, 'wx+', 0o600);
    await truncateFile(fd, sizeBytes);
    await syncData(fd);
    return await lookAt(path, fd, false);
  } catch (error) {
    if (fd !== undefined) {
      await closeFile(fd);
      await fs.promises.unlink(path);
    }
    throw await createError(path, sizeBytes, error);
  }
}

async function lookAt(path: string, fd: number, readOnly: boolean): Promise<OpenedFile> {
  const stat = await statFile(fd);
  if (!readOnly && !tryLockExclusive(fd)) throw inUse(path);
  if (stat.isBlockDevice()) {
    const { sizeBytes, logicalBlockBytes } = blockDeviceSize(fd);
    const blockBytes = Math.max(PAGE_BYTES, logicalBlockBytes);
    return { path, fd, readOnly, device: true, sizeBytes, blockBytes, filesystemType: 0 };
  }
  const filesystemType = (await fs.promises.statfs(path)).type;
  return {
    path,
    fd,
    readOnly,
    device: false,
    sizeBytes: stat.size,
    blockBytes: PAGE_BYTES,
    filesystemType,
  };
}
