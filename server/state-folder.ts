/**
 * The state folder of a node: `node.json` (who this node is), `lock`, `groups/`, and the sockets unless told otherwise.
 *
 * A folder that was copied or mounted from another machine is refused: two nodes with one state would both believe that
 * they own the volumes.
 */
import { createHash, randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { type Static, Type } from 'typebox';
import { Value } from 'typebox/value';
import { EngineError, errnoOf } from '../engine/errors.ts';
import { replaceFile, syncFolder } from './durable-file.ts';
import type { StatePaths } from './state-paths.ts';

/** Version of the layout of the state folder. */
const STATE_FORMAT = 1;

const NodeFile = Type.Object({
  format: Type.Literal(STATE_FORMAT),
  id: Type.String({ pattern: '^[0-9a-f-]{36}$' }),
  createdAt: Type.String({ minLength: 1 }),
  machine: Type.Union([Type.String({ pattern: '^[0-9a-f]{64}$' }), Type.Null()]),
});

export type NodeIdentity = Static<typeof NodeFile>;

/** What tells this machine from others: a digest of `/etc/machine-id`, which itself is not to be shown. Null where there is none. */
export async function machineDigest(file = '/etc/machine-id'): Promise<string | null> {
  try {
    const id = (await readFile(file, 'utf8')).trim();
    return id === '' ? null : createHash('sha256').update('tidemark\0').update(id).digest('hex');
  } catch {
    return null;
  }
}

export interface IdentityOptions {
  readonly machine: string | null;
  /** Take over a folder of another machine. */
  readonly adopt: boolean;
  readonly nowMs: number;
}

/**
 * Looks whether the folder can be served, and changes nothing. Undefined when it is new. Throws `corrupt`, `unsupported`,
 * `in-use` (another machine's) or `disk`.
 */
export async function readIdentity(
  paths: StatePaths,
  options: IdentityOptions,
): Promise<NodeIdentity | undefined> {
  let text: string;
  try {
    text = await readFile(paths.nodeFile, 'utf8');
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw folderError(paths.folder, error);
    await refuseOrphanedGroups(paths);
    return undefined;
  }
  const identity = parseNodeFile(paths.nodeFile, text);
  const foreign =
    identity.machine !== null && options.machine !== null && identity.machine !== options.machine;
  if (foreign && !options.adopt) {
    throw new EngineError(
      'in-use',
      `${paths.folder} is the state of another machine (node ${identity.id}): serve it there, or take it over with --adopt if that machine will not`,
    );
  }
  return identity;
}

/**
 * Makes the folder this node's: writes `node.json` when it is new or adopted. The caller holds the lock. A node that is
 * adopted gets a new id, because the machine it came from may still use the old one.
 */
export async function claimIdentity(
  paths: StatePaths,
  options: IdentityOptions,
): Promise<{ identity: NodeIdentity; adopted: boolean }> {
  const known = await readIdentity(paths, options);
  const adopted =
    known !== undefined &&
    known.machine !== null &&
    options.machine !== null &&
    known.machine !== options.machine;
  try {
    await makeFolders(paths.groups);
    if (known !== undefined && !adopted) return { identity: known, adopted };
    const identity: NodeIdentity = {
      format: STATE_FORMAT,
      id: randomUUID(),
      createdAt: known?.createdAt ?? new Date(options.nowMs).toISOString(),
      machine: options.machine,
    };
    await replaceFile(paths.nodeFile, `${JSON.stringify(identity, null, 2)}\n`);
    await syncFolder(paths.folder);
    return { identity, adopted };
  } catch (error) {
    throw folderError(paths.folder, error);
  }
}

/** Makes the folder when it is not there, readable by its owner only. */
export async function makeStateFolder(paths: StatePaths): Promise<void> {
  try {
    await makeFolders(paths.folder);
  } catch (error) {
    throw folderError(paths.folder, error);
  }
}

/** As `mkdir -p`. Node's own `recursive` never returns where the parent is there and says ENOENT all the same (`/proc`). */
async function makeFolders(path: string): Promise<void> {
  const make = () => mkdir(path, { mode: 0o700 });
  try {
    await make();
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'ENOENT' && dirname(path) !== path) {
      await makeFolders(dirname(path));
      await make();
    } else if (errno !== 'EEXIST' || !(await stat(path)).isDirectory()) throw error;
  }
}

function parseNodeFile(path: string, text: string): NodeIdentity {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new EngineError(
      'corrupt',
      `${path} is corrupt: it is not JSON; restore it from a backup of the state folder`,
    );
  }
  const format = (value as { format?: unknown } | null)?.format;
  if (typeof format === 'number' && format > STATE_FORMAT) {
    throw new EngineError(
      'unsupported',
      `${path} has format ${format}, this version of tidemark knows ${STATE_FORMAT}: use the version that wrote it, or a later one`,
    );
  }
  if (!Value.Check(NodeFile, value)) {
    const where = Value.Errors(NodeFile, value)[0]?.instancePath || 'its content';
    throw new EngineError(
      'corrupt',
      `${path} is corrupt (${where}): restore it from a backup of the state folder`,
    );
  }
  return value;
}

/** Groups without a `node.json` are somebody's data, of whom we know nothing. */
async function refuseOrphanedGroups(paths: StatePaths): Promise<void> {
  let entries: string[];
  try {
    entries = await readdir(paths.groups);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return;
    throw folderError(paths.folder, error);
  }
  if (entries.some((name) => !name.startsWith('.'))) {
    throw new EngineError(
      'corrupt',
      `${paths.nodeFile} is missing though there are groups: restore it from a backup of the state folder`,
    );
  }
}

/** One line for a state folder that the operating system does not let us use. */
export function folderError(folder: string, error: unknown): EngineError {
  if (error instanceof EngineError) return error;
  const errno = errnoOf(error);
  const why = FOLDER_REASONS[errno ?? ''] ?? (error instanceof Error ? error.message : String(error));
  return new EngineError('disk', `cannot use the state folder ${folder}: ${why}`, {
    ...(errno === undefined ? {} : { errno }),
    cause: error,
  });
}

const FOLDER_REASONS: Readonly<Record<string, string>> = {
  EACCES: 'permission denied; name another with --state',
  EPERM: 'permission denied; name another with --state',
  EROFS: 'the filesystem is read-only; name another with --state',
  ENOTDIR: 'a part of its path is not a folder; name another with --state',
  EEXIST: 'it is not a folder; name another with --state',
  ENOENT: 'no folder can be made there; name another with --state',
  EISDIR: 'a folder is where one of its files belongs; move it away',
  ENOSPC: 'the filesystem is full; free some space, or name another with --state',
  EDQUOT: 'the quota is used up; free some space, or name another with --state',
};
