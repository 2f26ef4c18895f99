import * as fs from 'node:fs';
import { dirname, isAbsolute, join, normalize, relative, sep } from 'node:path';
import { assert, EngineError, errnoOf } from '../errors.ts';
import type { Disk, DiskFolder } from './disk.ts';
import { diskError } from './disk-error.ts';
import { FileDisk } from './file-disk.ts';

/** A folder of disks in a directory. Subfolders are made as they are needed. */
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
    if (dirname(path) !== this.path) await makeFolder(dirname(path));
    return createDurably(path, sizeBytes);
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
    await removeDurably(this.#pathOf(name));
  }

  async createOutside(path: string, sizeBytes: number): Promise<Disk> {
    return createDurably(outside(path), sizeBytes);
  }

  async openOutside(path: string): Promise<Disk> {
    return FileDisk.open(outside(path));
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
