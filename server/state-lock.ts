/**
 * One `serve` per state folder: an advisory lock (`flock`) on `lock`, which ends with the process however it ends. The
 * file stays; its content, the pid of the holder, only serves the message of the one that comes second, and so may be missing.
 */
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { tryLockExclusive } from '../engine/disk/native.ts';
import { EngineError, errnoOf } from '../engine/errors.ts';
import { folderError } from './state-folder.ts';
import type { StatePaths } from './state-paths.ts';

export class StateLock {
  readonly #handle: FileHandle;

  private constructor(handle: FileHandle) {
    this.#handle = handle;
  }

  /** Throws `in-use`, with the pid of the holder. */
  static async take(paths: StatePaths): Promise<StateLock> {
    let handle: FileHandle;
    try {
      handle = await open(paths.lock, constants.O_RDWR | constants.O_CREAT, 0o600);
    } catch (error) {
      if (errnoOf(error) === 'EISDIR')
        throw new EngineError('disk', `${paths.lock} is a folder, where the lock file belongs: move it away`);
      throw folderError(paths.folder, error);
    }
    try {
      if (!tryLockExclusive(handle.fd)) {
        const holder = (await handle.readFile('utf8')).trim();
        const who = /^\d+$/.test(holder) ? `pid ${holder}` : 'another process';
        throw new EngineError(
          'in-use',
          `${paths.folder} is being served by ${who}: stop it first, or use another --state`,
        );
      }
      await nameHolder(handle);
      return new StateLock(handle);
    } catch (error) {
      await handle.close();
      throw folderError(paths.folder, error);
    }
  }

  async release(): Promise<void> {
    await this.#handle.truncate(0).catch(() => {});
    await this.#handle.close();
  }
}

/** On a full disk nobody could start a node to trim its volumes, if this were needed. */
async function nameHolder(handle: FileHandle): Promise<void> {
  try {
    await handle.truncate(0);
    await handle.write(`${process.pid}\n`, 0);
  } catch (error) {
    const errno = errnoOf(error);
    if (errno !== 'ENOSPC' && errno !== 'EDQUOT') throw error;
  }
}
