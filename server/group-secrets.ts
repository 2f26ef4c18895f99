/** The secret of a group, and those of the groups that its links go to: files of mode 0600 in the group's folder, 64 hex digits each. */
import { randomBytes } from 'node:crypto';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { explainErrno } from '../engine/disk/disk-error.ts';
import { EngineError, errnoOf } from '../engine/errors.ts';
import { replaceFile, syncFolder } from './durable-file.ts';

const SECRET_BYTES = 32;
const SECRET = /^[0-9a-f]{64}$/;

/** Reads a secret as it is written in a file or given to a command. Throws `invalid`. */
export function parseSecret(where: string, text: string): Buffer {
  const digits = text.trim();
  if (SECRET.test(digits)) return Buffer.from(digits, 'hex');
  throw new EngineError('invalid', `${where} has no secret: one is ${2 * SECRET_BYTES} hex digits in a line`);
}

/** The secret of the group in that folder, made where there is none. Throws `disk`, `invalid`. */
export async function ensureSecret(groupFolder: string): Promise<Buffer> {
  const path = join(groupFolder, 'secret');
  const known = await readSecret(path);
  if (known !== undefined) return known;
  const made = randomBytes(SECRET_BYTES);
  await writeSecret(path, made);
  return made;
}

/** Of the group at the other end of a link; undefined when the link was given none. */
export function readLinkSecret(groupFolder: string, link: string): Promise<Buffer | undefined> {
  return readSecret(linkPath(groupFolder, link));
}

export async function writeLinkSecret(groupFolder: string, link: string, secret: Buffer): Promise<void> {
  const path = linkPath(groupFolder, link);
  await told(path, () => mkdir(dirname(path), { recursive: true, mode: 0o700 }));
  await writeSecret(path, secret);
}

export async function removeLinkSecret(groupFolder: string, link: string): Promise<void> {
  const path = linkPath(groupFolder, link);
  await told(path, () => rm(path, { force: true }));
  await syncFolder(dirname(path)).catch(() => undefined);
}

function linkPath(groupFolder: string, link: string): string {
  return join(groupFolder, 'links', `${link}.secret`);
}

async function readSecret(path: string): Promise<Buffer | undefined> {
  const text = await told(path, () =>
    readFile(path, 'utf8').catch((error: unknown) => {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw error;
    }),
  );
  return text === undefined ? undefined : parseSecret(path, text);
}

function writeSecret(path: string, secret: Buffer): Promise<void> {
  return told(path, () => replaceFile(path, `${secret.toString('hex')}\n`));
}

async function told<Result>(path: string, run: () => Promise<Result>): Promise<Result> {
  try {
    return await run();
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === undefined) throw error;
    throw new EngineError('disk', `${path}: ${explainErrno(errno)}`, { errno, cause: error });
  }
}
