/** The files of a group in its folder, by name, and how they are cleared away. */
import type { Disk, DiskFolder } from './disk/disk.ts';
import { EngineError } from './errors.ts';
import { type GroupRecord, GroupRecordFile } from './group-record.ts';

export const RECORD_NAME = 'group.record';
export const LOG_NAME = 'log.ring';
export const RESERVE_NAME = 'reserve';
export const dataName = (volume: string): string => `volumes/${volume}.img`;
export const mapName = (volume: string): string => `maps/${volume}.map`;

/** What snapshots, restores and links keep: `snapshots/ID/VOLUME.KIND`, `restores/ID/VOLUME.map`, `links/ID/VOLUME.dcm`; and a secondary, `replica/VOLUME.needs`. */
const CHAIN_FILE = /^(snapshots|restores|links|replica)\//;
/** Whatever a group has beside its record. */
const GROUP_FILE = /^((volumes|maps|snapshots|restores|links|replica)\/|(log\.ring|reserve)$)/;

/** Undoes what was done so far, newest first. `clean`: every step before it succeeded, so that nothing is left of what they undo. */
export type Undo = (clean: boolean) => Promise<void>;

export async function undoAll(steps: Undo[]): Promise<void> {
  // Best effort: the record says what is left, and the next `open` or `create` removes it. The error that led here is the one to tell.
  let clean = true;
  for (const step of steps.reverse()) {
    await step(clean).catch(() => {
      clean = false;
    });
  }
}

export function isCode(error: unknown, code: EngineError['code']): error is EngineError {
  return error instanceof EngineError && error.code === code;
}

/** Opens a file that the user named; undefined when it is not there, and can be made. */
export async function openNamed(folder: DiskFolder, path: string): Promise<Disk | undefined> {
  try {
    return await folder.openOutside(path);
  } catch (error) {
    // Where its folder is missing it cannot be made.
    if (isCode(error, 'not-found') && error.errno !== 'ENOTDIR') return undefined;
    throw error;
  }
}

/** Makes a file that the user named, for `what`, and that was not there just now. */
export async function createNamed(
  folder: DiskFolder,
  what: string,
  path: string,
  sizeBytes: number,
): Promise<Disk> {
  try {
    return await folder.createOutside(path, sizeBytes);
  } catch (error) {
    if (!isCode(error, 'exists')) throw error;
    const why =
      `${what}: ${path} was made just now, for another part of this group (by another name of it) ` +
      'or by another program: name another file';
    throw new EngineError('exists', why, { cause: error });
  }
}

export async function openRecord(folder: DiskFolder): Promise<GroupRecordFile | undefined> {
  try {
    return await GroupRecordFile.open(await folder.open(RECORD_NAME));
  } catch (error) {
    if (isCode(error, 'not-found')) return undefined;
    throw error;
  }
}

/** Closes a record file without a record, and says what that means. */
export async function noRecord(folder: DiskFolder, file: GroupRecordFile | undefined): Promise<EngineError> {
  await file?.close();
  const files = (await folder.list()).filter((name) => GROUP_FILE.test(name));
  if (files.length > 0) {
    const what = `there is data (${files[0]}, …) without an intact record of its group: put the record back, or move the data away`;
    return new EngineError('corrupt', what);
  }
  // A crash while the very first record was written: there is nothing but that.
  if (file !== undefined) await folder.remove(RECORD_NAME);
  return new EngineError('not-found', 'there is no group');
}

/** Removes the files of a group in the folder, and the record last. Files and devices outside stay. */
export async function clearAway(folder: DiskFolder, record: GroupRecord): Promise<void> {
  for (const name of await folder.list()) if (CHAIN_FILE.test(name)) await folder.remove(name);
  for (const volume of record.volumes) {
    await folder.remove(dataName(volume.name));
    await folder.remove(mapName(volume.name));
  }
  await folder.remove(LOG_NAME);
  await folder.remove(RESERVE_NAME);
  await folder.remove(RECORD_NAME);
}
