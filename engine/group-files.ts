/**
 * A group on disk: `group.record`; for each volume `maps/NAME.map` and, unless it lives in a file or device of the user's,
 * `volumes/NAME.img`; `log.ring`, unless that lives elsewhere; and what its snapshots and restores keep (`group-folder.ts`).
 *
 * A group is made all or not at all, in this order: (1) what exists and the user named is opened and checked; (2) a record
 * of state *creating*; (3) files, maps and the log; (4) the record of state *ready*. It is removed the other way round, by way
 * of *deleting*. Whoever finds a group in between removes the files that its record names, then the record. Files
 * without an intact record may be anyone's, and are never touched.
 */
import { randomUUID } from 'node:crypto';
import type { Clock } from './clock.ts';
import type { Disk, DiskFolder } from './disk/disk.ts';
import { EngineError } from './errors.ts';
import { GROUP_RECORD_SLOTS } from './formats.ts';
import {
  clearAway,
  createNamed,
  dataName,
  LOG_NAME,
  mapName,
  noRecord,
  openNamed,
  openRecord,
  RECORD_NAME,
  type Undo,
  undoAll,
} from './group-folder.ts';
import { clearOutsideLog, createLog, openLog, planLog } from './group-log-file.ts';
import {
  checkRecordSize,
  GROUP_RECORD_FILE_BYTES,
  type GroupRecord,
  GroupRecordFile,
  type ReplicaRecord,
  type VolumeRecord,
} from './group-record.ts';
import {
  checkGroupSpec,
  checkVolumeSize,
  type GroupSpec,
  type ReplicaSpec,
  type VolumeSpec,
} from './group-spec.ts';
import { MapFile } from './map/map-file.ts';
import { type MapIdentity, mapFileBytes } from './map/map-format.ts';
import type { Lsn } from './units.ts';
import type { VolumeIdentity } from './volume.ts';

/** What a volume is made of. */
export interface VolumeParts {
  readonly identity: VolumeIdentity;
  readonly disk: Disk;
  readonly map: MapFile;
}

/** An open group, in its parts. Whoever gets it closes disks, maps and the file. */
export interface OpenGroup {
  readonly record: GroupRecord;
  readonly file: GroupRecordFile;
  /** In the order of the record. */
  readonly parts: readonly VolumeParts[];
  readonly logDisk: Disk;
  /** Damage that was found and dealt with, a line each. */
  readonly warnings: readonly string[];
}

/** One that was made just now. */
export interface CreatedGroup extends OpenGroup {
  /** Takes back what was done outside its folder, once it is closed and removed: files that were made there, and a log in one that was blank. */
  readonly clearOutside: () => Promise<void>;
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
    const parts: VolumeParts[] = [];
    const warnings: string[] = [];
    for (const volume of record.volumes) {
      const opened = await openVolume(folder, record, volume, clock, warnings);
      undo.push(() => closeVolume(opened));
      parts.push(opened);
    }
    const logDisk = file.outdated ? await giveLog(folder, file, record) : await openLog(folder, record);
    return { record, file, parts, logDisk, warnings };
  } catch (error) {
    await undoAll(undo);
    throw error;
  }
}

/** A group of a version that had no log gets one. What a try before this one left is made anew. */
async function giveLog(folder: DiskFolder, file: GroupRecordFile, record: GroupRecord): Promise<Disk> {
  await folder.remove(LOG_NAME);
  const undo: Undo[] = [];
  try {
    const disk = await createLog(folder, record, undefined, undo);
    // Once for each slot, which gets its space by that (rule S4).
    for (let slot = 0; slot < GROUP_RECORD_SLOTS; slot++) {
      // A record that could not be made durable may be so even so: then its log stays.
      undo.length = 0;
      undo.push(() => disk.close());
      await file.write(record);
    }
    return disk;
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

/** `Group.create`. `firstLsn`: where its log begins, 0 unless told. */
export async function createGroup(
  folder: DiskFolder,
  spec: GroupSpec,
  clock: Clock,
  options: { readonly firstLsn?: Lsn } = {},
): Promise<CreatedGroup> {
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
    const log = await planLog(folder, spec, volumes, undo);
    const record = newRecord(spec, volumes, log.record, clock, options.firstLsn ?? 0);
    checkRecordSize(record);
    const file = await createRecord(folder, record, undo);
    const parts: VolumeParts[] = [];
    for (const volume of volumes)
      parts.push(await createVolume(folder, record, volume, outside.get(volume.name), clock, undo));
    const logDisk = await createLog(folder, record, log.found, undo);
    const ready: GroupRecord = { ...record, state: 'ready' };
    undo.push(() => takeBack(folder, file));
    await file.write(ready);
    const made = volumes.filter((volume) => !outside.has(volume.name)).map((volume) => volume.file);
    const clearOutside = async (): Promise<void> => {
      for (const path of made) if (path !== undefined) await folder.removeOutside(path);
      await clearOutsideLog(folder, ready, log.found !== undefined);
    };
    return { record: ready, file, parts, logDisk, warnings: [], clearOutside };
  } catch (error) {
    await undoAll(undo);
    throw error;
  }
}

function newRecord(
  spec: GroupSpec,
  volumes: readonly VolumeRecord[],
  log: GroupRecord['log'],
  clock: Clock,
  firstLsn: Lsn,
): GroupRecord {
  return {
    state: 'creating',
    id: randomUUID(),
    name: spec.name,
    role: spec.replica === undefined ? 'primary' : 'secondary',
    createdAt: new Date(clock.nowMs()).toISOString(),
    regionBytes: spec.regionBytes,
    volumes,
    log,
    onFull: spec.onFull ?? 'hold',
    generation: { number: 1, id: randomUUID(), firstLsn },
    checkpointLsn: firstLsn,
    nodes: [],
    voided: [],
    detached: [],
    memberId: randomUUID(),
    links: [],
    replica: spec.replica === undefined ? null : newReplica(spec.replica, firstLsn),
  };
}

/** It takes its group's id, and the place of its log, from the primary that it meets first. */
function newReplica({ applyDelaySeconds }: ReplicaSpec, firstLsn: Lsn): ReplicaRecord {
  return {
    upstream: null,
    horizonLsn: firstLsn,
    resync: { guardId: null },
    oldImage: null,
    needs: { version: 0, volumes: [] },
    restart: null,
    frozen: false,
    applyDelaySeconds: applyDelaySeconds ?? 0,
  };
}

/** Opens the file that the user named, when it is there; undefined when one has to be made. */
async function openExisting(folder: DiskFolder, volume: VolumeSpec, undo: Undo[]): Promise<Disk | undefined> {
  if (volume.file === undefined) return undefined;
  const disk = await openNamed(folder, volume.file);
  if (disk !== undefined) undo.push(() => disk.close());
  else if (volume.sizeBytes === undefined) {
    const what = `volume ${volume.name}: ${volume.file} does not exist; give a size, and it is made`;
    throw new EngineError('not-found', what);
  }
  return disk;
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
  undo.push(() => disk.close());
  await GroupRecordFile.allocate(disk);
  const file = await GroupRecordFile.open(disk);
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
): Promise<VolumeParts> {
  const disk = existing ?? (await createData(folder, volume, undo));
  const identity = mapIdentity(record, volume);
  const mapDisk = await folder.create(mapName(volume.name), mapFileBytes(identity));
  undo.push(() => folder.remove(mapName(volume.name)));
  undo.push(() => mapDisk.close());
  // What a file held before is content that a first synchronisation has to move.
  const map = await MapFile.create(mapDisk, identity, clock, { allWritten: existing !== undefined });
  return { identity: volumeIdentity(record, volume), disk, map };
}

async function createData(folder: DiskFolder, volume: VolumeRecord, undo: Undo[]): Promise<Disk> {
  const { file } = volume;
  const disk =
    file === undefined
      ? await folder.create(dataName(volume.name), volume.sizeBytes)
      : await createNamed(folder, `volume ${volume.name}`, file, volume.sizeBytes);
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

function mapIdentity(record: GroupRecord, volume: VolumeRecord): MapIdentity {
  return { volumeId: volume.id, sizeBytes: volume.sizeBytes, regionBytes: record.regionBytes };
}

function volumeIdentity(record: GroupRecord, volume: VolumeRecord): VolumeIdentity {
  const { name, id, sizeBytes } = volume;
  return { name, id, sizeBytes, regionBytes: record.regionBytes };
}

async function closeVolume(parts: VolumeParts): Promise<void> {
  await parts.map.close();
  await parts.disk.close();
}

async function openVolume(
  folder: DiskFolder,
  record: GroupRecord,
  volume: VolumeRecord,
  clock: Clock,
  warnings: string[],
): Promise<VolumeParts> {
  const undo: Undo[] = [];
  try {
    const disk =
      volume.file === undefined
        ? await folder.open(dataName(volume.name))
        : await folder.openOutside(volume.file);
    undo.push(() => disk.close());
    if (disk.sizeBytes < volume.sizeBytes) {
      const what =
        `volume ${volume.name}: its data, ${volume.file ?? dataName(volume.name)}, has ${disk.sizeBytes} bytes, and had ` +
        `${volume.sizeBytes}: put the whole back, or, if what was cut off may read as zeroes, ` +
        `grow it to that size (truncate -s ${volume.sizeBytes})`;
      throw new EngineError('corrupt', what);
    }
    const mapDisk = await folder.open(mapName(volume.name));
    undo.push(() => mapDisk.close());
    const map = await MapFile.open(mapDisk, mapIdentity(record, volume), clock);
    for (const warning of map.warnings) warnings.push(`volume ${volume.name}: ${warning}`);
    return { identity: volumeIdentity(record, volume), disk, map };
  } catch (error) {
    await undoAll(undo);
    throw error;
  }
}
