import * as fs from 'node:fs';
import { dirname, isAbsolute, join, normalize, relative, sep } from 'node:path';
import { assert, EngineError, errnoOf } from '../errors.ts';
import type { Disk, DiskFolder, DiskSpace } from './disk.ts';
import { diskError } from './disk-error.ts';
import { FileDisk } from './file-disk.ts';

/** How often a file is tried whose folder is removed at that moment by somebody else. */
const CREATE_ATTEMPTS = 10;

/** A folder of disks in a directory. Subfolders are made as they are needed, and go with the last disk in them. */
export class FileFolder implements DiskFolder {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  /** Opens a directory by absolute path; makes it, durably, when it is not there (its parent has to be). */
  static async open(path: string): Promise<FileFolder> {
    assert(isAbsolute(path), 'a folder is named by its absolute path');
    await makeFolder(path);
    return new FileFolder(path);
  }

  async create(name: string, sizeBytes: number): Promise<Disk> {
    const path = this.#pathOf(name);
    for (let attempt = 1; ; attempt++) {
      await this.#makeFolders(dirname(path));
      try {
        return await createDurably(path, sizeBytes);
      } catch (error) {
        // Its folder was empty, and went with the removal of what had been in it.
        const folderGone = error instanceof EngineError && error.code === 'not-found';
        if (!folderGone || attempt === CREATE_ATTEMPTS) throw error;
      }
    }
  }

  async #makeFolders(path: string): Promise<void> {
    if (path === this.path) return;
    await this.#makeFolders(dirname(path));
    await makeFolder(path);
  }

  async open(name: string): Promise<Disk> {
    return FileDisk.open(this.#pathOf(name));
  }

  async list(): Promise<string[]> {
    try {
      const entries = await fs.promises.readdir(this.path, { recursive: true, withFileTypes: true });
      const files = entries.filter((entry) => !entry.isDirectory());
      return files.map((entry) => relative(this.path, join(entry.parentPath, entry.name))).sort();
    } catch (error) {
      throw diskError(this.path, 'reading the folder', error);
    }
  }

  async remove(name: string): Promise<void> {
    const path = this.#pathOf(name);
    await removeDurably(path);
    // An empty folder that comes back after a power cut harms nobody, so that its removal is not synced.
    for (let folder = dirname(path); folder !== this.path; folder = dirname(folder))
      if (!(await removeIfEmpty(folder))) return;
  }

  async space(): Promise<DiskSpace> {
    try {
      const { bsize, bavail, blocks } = await fs.promises.statfs(this.path);
      return { freeBytes: bavail * bsize, totalBytes: blocks * bsize };
    } catch (error) {
      throw diskError(this.path, 'asking for the space', error);
    }
  }

  async createOutside(path: string, sizeBytes: number): Promise<Disk> {
    return createDurably(outside(path), sizeBytes);
  }

  async openOutside(path: string): Promise<Disk> {
    return FileDisk.open(outside(path));
  }

  async openImage(path: string): Promise<Disk> {
    return FileDisk.openImage(outside(path));
  }

  async removeOutside(path: string): Promise<void> {
    await removeDurably(outside(path));
  }

  #pathOf(name: string): string {
    const path = join(this.path, name);
    assert(name !== '' && path.startsWith(this.path + sep), 'the name lies inside the folder');
    return path;
  }
}

function outside(path: string): string {
  assert(isAbsolute(path), 'a file outside is named by its absolute path');
  return normalize(path);
}

async function createDurably(path: string, sizeBytes: number): Promise<FileDisk> {
  const disk = await FileDisk.create(path, sizeBytes);
  try {
    await syncFolder(dirname(path));
  } catch (error) {
    await disk.close();
    await fs.promises.unlink(path);
    throw error;
  }
  return disk;
}

async function removeDurably(path: string): Promise<void> {
  try {
    await fs.promises.unlink(path);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw diskError(path, 'removing', error);
  }
  try {
    // Also when it is gone already: the removal before this one may have got no further.
    await syncFolder(dirname(path));
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
  }
}

/** Returns whether it is gone. */
async function removeIfEmpty(path: string): Promise<boolean> {
  try {
    await fs.promises.rmdir(path);
    return true;
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'ENOENT') return true;
    if (errno === 'ENOTEMPTY' || errno === 'EEXIST') return false;
    throw diskError(path, 'removing the folder', error);
  }
}

async function makeFolder(path: string): Promise<void> {
  try {
    await fs.promises.mkdir(path, { mode: 0o700 });
    await syncFolder(dirname(path));
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'EEXIST') return;
    if (errno === 'ENOENT')
      throw new EngineError('not-found', `the folder ${dirname(path)} does not exist: make it first`, {
        cause: error,
      });
    throw diskError(path, 'making the folder', error);
  }
}

/** A new name, or one taken away, is durable only with its folder. */
async function syncFolder(path: string): Promise<void> {
  try {
    const handle = await fs.promises.open(path, 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw diskError(path, 'syncing the folder', error);
  }
}
