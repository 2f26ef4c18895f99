/**
 * A group on disk: `group.record`, and for each volume `maps/NAME.map` and, unless it lives in a file or device of the user's,
 * `volumes/NAME.img`.
 *
 * A group is made all or not at all, in this order: (1) what exists and the user named is opened and checked; (2) a record
 * of state *creating*; (3) files and maps; (4) the record of state *ready*. It is removed the other way round, by way
 * of *deleting*. Whoever finds a group in between removes the files that its record names, then the record. Files
 * without an intact record may be anyone's, and are never touched.
 */
import { randomUUID } from 'node:crypto';
import type { Clock } from './clock.ts';
import type { Disk, DiskFolder } from './disk/disk.ts';
import { EngineError } from './errors.ts';
import {
  GROUP_RECORD_FILE_BYTES,
  type GroupRecord,
  GroupRecordFile,
  type VolumeRecord,
} from './group-record.ts';
import { checkGroupSpec, checkVolumeSize, type GroupSpec, type VolumeSpec } from './group-spec.ts';
import { MapFile } from './map/map-file.ts';
import { type MapIdentity, mapFileBytes } from './map/map-format.ts';
import { Volume } from './volume.ts';

const RECORD_NAME = 'group.record';
const dataName = (volume: string) => `volumes/${volume}.img`;
const mapName = (volume: string) => `maps/${volume}.map`;

/** An open group, in its parts. Whoever gets it closes the volumes and the file. */
export interface OpenGroup {
  readonly record: GroupRecord;
  readonly file: GroupRecordFile;
  readonly volumes: ReadonlyMap<string, Volume>;
  /** Damage that was found and dealt with, a line each. */
  readonly warnings: readonly string[];
}

/** Undoes what was done so far, newest first. `clean`: every step before it succeeded, so that nothing is left of what they undo. */
type Undo = (clean: boolean) => Promise<void>;

async function undoAll(steps: Undo[]): Promise<void> {
  // Best effort: the record says what is left, and the next `open` or `create` removes it. The error that led here is the one to tell.
  let clean = true;
  for (const step of steps.reverse()) {
    await step(clean).catch(() => {
      clean = false;
    });
  }
}

/** `Group.open`. */
export async function openGroup(folder: DiskFolder, clock: Clock): Promise<OpenGroup> {
  const file = await openRecord(folder);
  const record = file?.record;
  if (file === undefined || record === undefined) throw await noRecord(folder, file);
  if (record.state !== 'ready') {
    await file.close();
    await clearAway(folder, record);
    const what = `group ${record.name} was never finished, or half removed: what was left of it is gone now`;
    throw new EngineError('not-found', what);
  }
  const undo: Undo[] = [() => file.close()];
  try {
    const volumes = new Map<string, Volume>();
    const warnings: string[] = [];
    for (const volume of record.volumes) {
      const opened = await openVolume(folder, record, volume, clock, warnings);
      undo.push(() => opened.close());
      volumes.set(volume.name, opened);
    }
    return { record, file, volumes, warnings };
  } catch (error) {
    await undoAll(undo);
    throw error;
  }
}

/** `Group.destroy`. */
export async function destroyGroup(folder: DiskFolder): Promise<void> {
  const file = await openRecord(folder);
  const record = file?.record;
  if (file === undefined || record === undefined) throw await noRecord(folder, file);
  try {
    await file.write({ ...record, state: 'deleting' });
  } finally {
    await file.close();
  }
  await clearAway(folder, record);
}

/** `Group.create`. */
export async function createGroup(folder: DiskFolder, spec: GroupSpec, clock: Clock): Promise<OpenGroup> {
  checkGroupSpec(spec);
  await refuseOrClear(folder, spec.name);
  const undo: Undo[] = [];
  try {
    const outside = new Map<string, Disk>();
    const volumes: VolumeRecord[] = [];
    for (const volume of spec.volumes) {
      const found = await openExisting(folder, volume, undo);
      if (found !== undefined) outside.set(volume.name, found);
      volumes.push(planVolume(spec, volume, found));
    }
    const record: GroupRecord = {
      state: 'creating',
      id: randomUUID(),
      name: spec.name,
      role: 'primary',
      createdAt: new Date(clock.nowMs()).toISOString(),
      regionBytes: spec.regionBytes,
      volumes,
    };
    const file = await createRecord(folder, record, undo);
    const made = new Map<string, Volume>();
    for (const volume of volumes)
      made.set(
        volume.name,
        await createVolume(folder, record, volume, outside.get(volume.name), clock, undo),
      );
    const ready: GroupRecord = { ...record, state: 'ready' };
    undo.push(() => takeBack(folder, file));
    await file.write(ready);
    return { record: ready, file, volumes: made, warnings: [] };
  } catch (error) {
    await undoAll(undo);
    throw error;
  }
}

/** Opens the file that the user named, when it is there; undefined when one has to be made. */
async function openExisting(folder: DiskFolder, volume: VolumeSpec, undo: Undo[]): Promise<Disk | undefined> {
  if (volume.file === undefined) return undefined;
  try {
    const disk = await folder.openOutside(volume.file);
    undo.push(() => disk.close());
    return disk;
  } catch (error) {
    const missing = error instanceof EngineError && error.code === 'not-found';
    if (!missing) throw error;
    // Its folder is missing: no size would help.
    if (error.errno === 'ENOTDIR') throw error;
    if (volume.sizeBytes !== undefined) return undefined;
    const what = `volume ${volume.name}: ${volume.file} does not exist; give a size, and it is made`;
    throw new EngineError('not-found', what, { cause: error });
  }
}

/** Settles the size of a volume, and gives it its id. */
function planVolume(spec: GroupSpec, volume: VolumeSpec, found: Disk | undefined): VolumeRecord {
  const sizeBytes = volume.sizeBytes ?? found?.sizeBytes ?? 0;
  checkVolumeSize(volume.name, sizeBytes, spec.regionBytes);
  if (found !== undefined && found.sizeBytes < sizeBytes) {
    const what =
      `volume ${volume.name}: ${volume.file} has ${found.sizeBytes} bytes, less than the ${sizeBytes} asked for; ` +
      'ask for no more, or make it larger first';
    throw new EngineError('invalid', what);
  }
  const base = { name: volume.name, id: randomUUID(), sizeBytes };
  return volume.file === undefined ? base : { ...base, file: volume.file };
}

async function createRecord(folder: DiskFolder, record: GroupRecord, undo: Undo[]): Promise<GroupRecordFile> {
  const disk = await folder.create(RECORD_NAME, GROUP_RECORD_FILE_BYTES);
  // Never before the files that it names: without it they would be nobody's, and no group could be made here.
  undo.push(async (clean) => {
    if (clean) await folder.remove(RECORD_NAME);
  });
  const file = await GroupRecordFile.open(disk);
  undo.push(() => file.close());
  await file.write(record);
  return file;
}

/** Makes what a volume lacks. Everything is durable when the promise resolves. */
async function createVolume(
  folder: DiskFolder,
  record: GroupRecord,
  volume: VolumeRecord,
  existing: Disk | undefined,
  clock: Clock,
  undo: Undo[],
): Promise<Volume> {
  const data = existing ?? (await createData(folder, volume, undo));
  const identity = mapIdentity(record, volume);
  const mapDisk = await folder.create(mapName(volume.name), mapFileBytes(identity));
  undo.push(() => folder.remove(mapName(volume.name)));
  undo.push(() => mapDisk.close());
  // What a file held before is content that a first synchronisation has to move.
  const map = await MapFile.create(mapDisk, identity, clock, { allWritten: existing !== undefined });
  return volumeOf(record, volume, data, map);
}

async function createData(folder: DiskFolder, volume: VolumeRecord, undo: Undo[]): Promise<Disk> {
  const { file } = volume;
  const disk =
    file === undefined
      ? await folder.create(dataName(volume.name), volume.sizeBytes)
      : await createOutside(folder, volume.name, file, volume.sizeBytes);
  undo.push(() => (file === undefined ? folder.remove(dataName(volume.name)) : folder.removeOutside(file)));
  undo.push(() => disk.close());
  return disk;
}

/** A record that could not be made durable as *ready* may be that even so: it says *deleting* before a file of it goes. */
async function takeBack(folder: DiskFolder, file: GroupRecordFile): Promise<void> {
  await file.close();
  // Opened anew: a file whose sync has failed takes no more (rule L6).
  const again = await openRecord(folder);
  try {
    if (again?.record !== undefined) await again.write({ ...again.record, state: 'deleting' });
  } finally {
    await again?.close();
  }
}

async function createOutside(
  folder: DiskFolder,
  volume: string,
  file: string,
  sizeBytes: number,
): Promise<Disk> {
  try {
    return await folder.createOutside(file, sizeBytes);
  } catch (error) {
    if (!(error instanceof EngineError) || error.code !== 'exists') throw error;
    // It was not there when the volumes were looked through.
    const what =
      `volume ${volume}: ${file} was made just now, for another volume of this group (by another name of it) ` +
      'or by another program: name another file';
    throw new EngineError('exists', what, { cause: error });
  }
}

async function openRecord(folder: DiskFolder): Promise<GroupRecordFile | undefined> {
  try {
    return await GroupRecordFile.open(await folder.open(RECORD_NAME));
  } catch (error) {
    if (error instanceof EngineError && error.code === 'not-found') return undefined;
    throw error;
  }
}

/** Closes a record file without a record, and says what that means. */
async function noRecord(folder: DiskFolder, file: GroupRecordFile | undefined): Promise<EngineError> {
  await file?.close();
  const files = await groupFiles(folder);
  if (files.length > 0) {
    const what = `there is data (${files[0]}, …) without an intact record of its group: put the record back, or move the data away`;
    return new EngineError('corrupt', what);
  }
  // A crash while the very first record was written: there is nothing but that.
  if (file !== undefined) await folder.remove(RECORD_NAME);
  return new EngineError('not-found', 'there is no group');
}

async function groupFiles(folder: DiskFolder): Promise<string[]> {
  return (await folder.list()).filter((name) => /^(volumes|maps)\//.test(name));
}

/** Makes sure that there is no group, and nothing left of one. */
async function refuseOrClear(folder: DiskFolder, name: string): Promise<void> {
  const file = await openRecord(folder);
  const record = file?.record;
  if (file === undefined || record === undefined) {
    const error = await noRecord(folder, file);
    if (error.code !== 'not-found') throw error;
    return;
  }
  await file.close();
  if (record.state === 'ready') throw new EngineError('exists', `group ${name} exists already`);
  await clearAway(folder, record);
}

/** Removes the files of a group in the folder, and the record last. */
async function clearAway(folder: DiskFolder, record: GroupRecord): Promise<void> {
  for (const volume of record.volumes) {
    await folder.remove(dataName(volume.name));
    await folder.remove(mapName(volume.name));
  }
  await folder.remove(RECORD_NAME);
}

function mapIdentity(record: GroupRecord, volume: VolumeRecord): MapIdentity {
  return { volumeId: volume.id, sizeBytes: volume.sizeBytes, regionBytes: record.regionBytes };
}

function volumeOf(record: GroupRecord, volume: VolumeRecord, data: Disk, map: MapFile): Volume {
  const { name, id, sizeBytes } = volume;
  const identity = { name, id, sizeBytes, regionBytes: record.regionBytes };
  return new Volume(identity, data, map, record.role === 'secondary');
}

async function openVolume(
  folder: DiskFolder,
  record: GroupRecord,
  volume: VolumeRecord,
  clock: Clock,
  warnings: string[],
): Promise<Volume> {
  const undo: Undo[] = [];
  try {
    const data =
      volume.file === undefined
        ? await folder.open(dataName(volume.name))
        : await folder.openOutside(volume.file);
    undo.push(() => data.close());
    if (data.sizeBytes < volume.sizeBytes) {
      const what =
        `volume ${volume.name}: its data, ${volume.file ?? dataName(volume.name)}, has ${data.sizeBytes} bytes, and had ` +
        `${volume.sizeBytes}: put the whole back, or, if what was cut off may read as zeroes, ` +
        `grow it to that size (truncate -s ${volume.sizeBytes})`;
      throw new EngineError('corrupt', what);
    }
    const mapDisk = await folder.open(mapName(volume.name));
    undo.push(() => mapDisk.close());
    const map = await MapFile.open(mapDisk, mapIdentity(record, volume), clock);
    for (const warning of map.warnings) warnings.push(`volume ${volume.name}: ${warning}`);
    return volumeOf(record, volume, data, map);
  } catch (error) {
    await undoAll(undo);
    throw error;
  }
}
