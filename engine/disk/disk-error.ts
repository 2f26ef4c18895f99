/** Errors of files and folders, as a line for people: what, why, and what to do. */
import * as fs from 'node:fs';
import { dirname } from 'node:path';
import { EngineError, errnoOf } from '../errors.ts';

/** What an errno means to a user, and what can be done. */
const ADVICE: Readonly<Record<string, string>> = {
  EACCES: 'permission is denied; run as a user who may, or change its permissions or those of its folders',
  EPERM: 'it is not permitted; run as a user who may, or see whether the file is immutable (lsattr)',
  EDQUOT: 'the disk quota is used up; free space, or raise the quota',
  EFBIG: 'the filesystem cannot hold a file of that size; use a smaller size or another filesystem',
  EIO: 'the device reports an error; see the log of the kernel (dmesg)',
  ELOOP: 'symbolic links lead in a circle; name the file itself',
  EMFILE: 'too many files are open in this process; raise its limit (ulimit -n)',
  ENAMETOOLONG: 'the name is too long for the filesystem; use a shorter one',
  ENFILE: 'too many files are open on this machine; raise the limit (sysctl fs.file-max)',
  ENOSPC: 'no space is left; free space on its filesystem, or use another',
  EROFS: 'the filesystem is read-only; mount it for writing, or use another',
  ETXTBSY: 'it is in use as a program or as swap space; use another file',
};

/** An errno with what it means and what to do, where that is known. */
export function explainErrno(errno: string): string {
  const advice = ADVICE[errno];
  return advice === undefined ? errno : `${errno}, ${advice}`;
}

/** What a disk refuses becomes an error of ours that keeps the errno, with the path in its message. */
export function diskError(path: string, what: string, cause: unknown): EngineError {
  if (cause instanceof EngineError) return cause;
  const errno = errnoOf(cause) ?? 'EIO';
  return new EngineError('disk', `${path}: ${what} failed: ${explainErrno(errno)}`, { errno, cause });
}

export function inUse(path: string): EngineError {
  const why = 'is in use: by another volume, a mount, or another program; end that use, or name another';
  return new EngineError('in-use', `${path} ${why}`);
}

/**
 * Why a file could not be opened. `not-found` carries the errno `ENOTDIR` when its folder is what is missing, so that making
 * the file would not help.
 */
export async function openError(path: string, cause: unknown): Promise<EngineError> {
  if (cause instanceof EngineError) return cause;
  const errno = errnoOf(cause);
  if (errno === 'EBUSY') return inUse(path);
  if (errno === 'ENOENT' && (await isLinkToNothing(path))) return linkToNothing(path, cause);
  if (errno === 'ENOENT' || errno === 'ENOTDIR')
    return (await missingFolder(path, cause)) ?? notFound(`${path} does not exist`, 'ENOENT', cause);
  return diskError(path, 'opening', cause);
}

/** Why a file could not be made, with `sizeBytes`. */
export async function createError(path: string, sizeBytes: number, cause: unknown): Promise<EngineError> {
  if (cause instanceof EngineError) return cause;
  const errno = errnoOf(cause);
  if (errno === 'EEXIST') {
    if (await isLinkToNothing(path)) return linkToNothing(path, cause);
    return new EngineError('exists', `${path} exists already: name another file, or move it away`, { cause });
  }
  if (errno === 'ENOENT' || errno === 'ENOTDIR') {
    const missing = await missingFolder(path, cause);
    if (missing !== undefined) return missing;
  }
  if (errno === 'EFBIG') {
    const what =
      `${path}: the filesystem cannot hold a file of ${sizeBytes} bytes (EFBIG): ` +
      'use a smaller size or another filesystem';
    return new EngineError('disk', what, { errno, cause });
  }
  return diskError(path, `making a file of ${sizeBytes} bytes`, cause);
}

async function isLinkToNothing(path: string): Promise<boolean> {
  const own = await fs.promises.lstat(path).catch(() => undefined);
  if (own?.isSymbolicLink() !== true) return false;
  return (await fs.promises.stat(path).catch((error: unknown) => errnoOf(error))) === 'ENOENT';
}

function linkToNothing(path: string, cause: unknown): EngineError {
  const what =
    `${path} is a symbolic link to a file that does not exist: ` +
    'make that file first, remove the link, or name the file itself';
  return new EngineError('invalid', what, { errno: 'ENOENT', cause });
}

/** The error for a path whose folder does not exist, or is none; undefined when it is there. */
async function missingFolder(path: string, cause: unknown): Promise<EngineError | undefined> {
  const folder = dirname(path);
  const found = await fs.promises.stat(folder).catch((error: unknown) => errnoOf(error));
  if (found === 'ENOENT')
    return notFound(`the folder ${folder} does not exist: make it first, or name another`, 'ENOTDIR', cause);
  if (found === 'ENOTDIR' || (typeof found === 'object' && !found.isDirectory()))
    return notFound(`${folder} is no folder: name another`, 'ENOTDIR', cause);
  return undefined;
}

function notFound(message: string, errno: string, cause: unknown): EngineError {
  return new EngineError('not-found', message, { errno, cause });
}
