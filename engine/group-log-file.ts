/** Where the log of a group lies: `log.ring` in its folder, or a file or device that the user named. */
import type { Disk, DiskFolder } from './disk/disk.ts';
import { EngineError } from './errors.ts';
import { createNamed, isCode, LOG_NAME, openNamed, type Undo } from './group-folder.ts';
import type { GroupRecord, LogFileRecord, VolumeRecord } from './group-record.ts';
import { checkLogSize, defaultLogBytes, type GroupSpec } from './group-spec.ts';

import { MIN_LOG_BYTES } from './log/limits.ts';
import { Log } from './log/log.ts';
import { KIB } from './units.ts';

/** What a file that the log is to be kept in has to have blank at its start, in bytes: nobody's data, and no filesystem, begins later. */
const BLANK_BYTES = 64 * KIB;
const RING_UNIT_BYTES = 4 * KIB;

export interface LogPlan {
  readonly record: LogFileRecord;
  /** The file or device that the user named, when it is there. */
  readonly found: Disk | undefined;
}

/** Opens and checks what the user named for the log, and settles its size. Throws `exists`, `invalid`, `in-use`, `not-found`, `disk`. */
export async function planLog(
  folder: DiskFolder,
  spec: GroupSpec,
  volumes: readonly VolumeRecord[],
  undo: Undo[],
): Promise<LogPlan> {
  const { logFile, logBytes, regionBytes } = spec;
  const found = logFile === undefined ? undefined : await openNamed(folder, logFile);
  if (found !== undefined) {
    undo.push(() => found.close());
    await refuseData(found, logFile ?? '');
  }
  const sizeBytes =
    logBytes ?? (found === undefined ? defaultLogBytes(volumes, regionBytes) : ringOf(found.sizeBytes));
  checkLogSize(sizeBytes, volumes, regionBytes);
  if (found !== undefined && found.sizeBytes < Log.bytesNeeded(sizeBytes)) {
    const what =
      `log: ${logFile} has ${found.sizeBytes} bytes, less than the ${Log.bytesNeeded(sizeBytes)} that a log of ` +
      `${sizeBytes} takes; ask for no more, or make it larger first`;
    throw new EngineError('invalid', what);
  }
  return { record: logFile === undefined ? { sizeBytes } : { sizeBytes, file: logFile }, found };
}

/** The largest ring that a disk of that size holds. */
function ringOf(diskBytes: number): number {
  const overheadBytes = Log.bytesNeeded(MIN_LOG_BYTES) - MIN_LOG_BYTES;
  return Math.max(0, Math.floor((diskBytes - overheadBytes) / RING_UNIT_BYTES) * RING_UNIT_BYTES);
}

async function refuseData(disk: Disk, path: string): Promise<void> {
  const start = Buffer.alloc(Math.min(BLANK_BYTES, disk.sizeBytes));
  await disk.read(start, 0, start.length, 0);
  if (start.every((byte) => byte === 0)) return;
  const what =
    `log: ${path} holds something: name another file or device, or, when nobody needs what is there, ` +
    `blank its first ${BLANK_BYTES} bytes (dd if=/dev/zero of=${path} bs=64K count=1 conv=notrunc)`;
  throw new EngineError('exists', what);
}

/** Makes the log of a group. Durable when the promise resolves; the record names it already. */
export async function createLog(
  folder: DiskFolder,
  record: GroupRecord,
  found: Disk | undefined,
  undo: Undo[],
): Promise<Disk> {
  const { file, sizeBytes } = record.log;
  let disk = found;
  if (disk === undefined) {
    const made =
      file === undefined
        ? await folder.create(LOG_NAME, Log.bytesNeeded(sizeBytes))
        : await createNamed(folder, 'log', file, Log.bytesNeeded(sizeBytes));
    undo.push(() => (file === undefined ? folder.remove(LOG_NAME) : folder.removeOutside(file)));
    undo.push(() => made.close());
    disk = made;
  } else {
    const blank = disk;
    // It was blank, and has to be so for the next try.
    undo.push(() => blank.write(Buffer.alloc(BLANK_BYTES), 0, Math.min(BLANK_BYTES, blank.sizeBytes), 0));
  }
  const { number: generation, firstLsn } = record.generation;
  await Log.create(disk, { groupId: record.id, generation, firstLsn, ringBytes: sizeBytes });
  return disk;
}

/** Takes back a log outside the folder: removes its file, or blanks one that was there. */
export async function clearOutsideLog(
  folder: DiskFolder,
  record: GroupRecord,
  wasThere: boolean,
): Promise<void> {
  const { file } = record.log;
  if (file === undefined) return;
  if (!wasThere) {
    await folder.removeOutside(file);
    return;
  }
  const disk = await folder.openOutside(file);
  try {
    const blankBytes = Math.min(BLANK_BYTES, disk.sizeBytes);
    await disk.write(Buffer.alloc(blankBytes), 0, blankBytes, 0);
    await disk.sync();
  } finally {
    await disk.close();
  }
}

/** Opens the disk of a group's log. Throws `corrupt` when it is not there, or was cut short. */
export async function openLog(folder: DiskFolder, record: GroupRecord): Promise<Disk> {
  const { file, sizeBytes } = record.log;
  const disk = file === undefined ? await openOwn(folder, record) : await folder.openOutside(file);
  const needed = Log.bytesNeeded(sizeBytes);
  if (disk.sizeBytes >= needed) return disk;
  await disk.close();
  const what = `group ${record.name}: its log, ${file ?? LOG_NAME}, has ${disk.sizeBytes} bytes, and had ${needed}: put the whole back`;
  throw new EngineError('corrupt', what);
}

async function openOwn(folder: DiskFolder, record: GroupRecord): Promise<Disk> {
  try {
    return await folder.open(LOG_NAME);
  } catch (error) {
    if (!isCode(error, 'not-found')) throw error;
    const what = `group ${record.name}: its log, ${LOG_NAME}, is not there: put it back`;
    throw new EngineError('corrupt', what, { cause: error });
  }
}
