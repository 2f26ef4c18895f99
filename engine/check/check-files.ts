/** Checks what every group has: its record, its volumes with their maps, its log. */
import { decodeControl } from '../control-record.ts';
import type { Disk, DiskFolder } from '../disk/disk.ts';
import {
  GROUP_RECORD_MAGIC,
  GROUP_RECORD_SLOT_BYTES,
  GROUP_RECORD_SLOTS,
  groupRecordHeaderLayout,
  isSealed,
  MAP_ACTIVITY_OFFSET_BYTES,
  MAP_BLOCK_BYTES,
  MAP_FLAG_ALL_WRITTEN,
  MAP_HEADERS,
  MAP_SECTORS_OFFSET_BYTES,
  mapHeaderLayout,
  SECTOR_BYTES,
} from '../formats.ts';
import { dataName, isCode, mapName, noRecord, RECORD_NAME } from '../group-folder.ts';
import { openLog } from '../group-log-file.ts';
import { type GroupRecord, GroupRecordFile, type VolumeRecord } from '../group-record.ts';
import type { LogBatch } from '../log/record.ts';
import { readLog } from '../log/recovery.ts';
import { type LogState, Superblocks } from '../log/superblock.ts';
import { decodeActivity, decodeHeaders, mapFileBytes, regionCount } from '../map/map-format.ts';
import { loadSectors, regionsOfSectors } from '../map/map-sectors.ts';
import { RegionMap, type RegionRun } from '../map/region-map.ts';
import { LOG_SECTOR_BYTES } from '../units.ts';
import { type Findings, type LogFigures, regionsInDoubt } from './report.ts';

const FROM_BACKUP = 'put it back from a backup; nothing else can be done with the group before';
const SUPERSET = 'nothing is lost: a first synchronisation moves more than it has to';

const TORN =
  'a power cut leaves that, and who wrote it was never told that it is durable; damage to what was written last of all looks the same';

type SlotState = 'intact' | 'blank' | 'damaged' | 'missing';

/** Throws `not-found` and `in-use`; undefined when there is a group without a record that can be read. */
export async function checkRecord(
  folder: DiskFolder,
  findings: Findings,
): Promise<{ record: GroupRecord; outdated: boolean } | undefined> {
  let disk: Disk;
  try {
    disk = await folder.open(RECORD_NAME);
  } catch (error) {
    if (isCode(error, 'in-use')) throw error;
    await addMissingRecord(folder, findings, error);
    return undefined;
  }
  try {
    const states: SlotState[] = [];
    for (let slot = 0; slot < GROUP_RECORD_SLOTS; slot++) states.push(await slotState(disk, slot));
    const file = await GroupRecordFile.open(disk);
    const { record, outdated } = file;
    if (record === undefined) await addMissingRecord(folder, findings, undefined);
    else if (states.every((state) => state === 'intact'))
      findings.add(
        'ok',
        RECORD_NAME,
        `both slots are intact; the checkpoint is at LSN ${record.checkpointLsn}`,
      );
    else addBadSlot(findings, states, record);
    return record === undefined ? undefined : { record, outdated };
  } catch (error) {
    findings.addError(RECORD_NAME, error, FROM_BACKUP);
    return undefined;
  } finally {
    await disk.close();
  }
}

async function addMissingRecord(folder: DiskFolder, findings: Findings, error: unknown): Promise<void> {
  if (error !== undefined && !isCode(error, 'not-found')) {
    findings.addError(RECORD_NAME, error, 'without its record the group cannot be checked');
    return;
  }
  const why = await noRecord(folder, undefined);
  if (why.code === 'not-found') throw why;
  const what =
    error === undefined
      ? 'neither of its two slots is intact'
      : 'it is not there, and the data of a group is';
  findings.add('damage', RECORD_NAME, what, FROM_BACKUP);
}

async function slotState(disk: Disk, slot: number): Promise<SlotState> {
  const startBytes = slot * GROUP_RECORD_SLOT_BYTES;
  if (startBytes + GROUP_RECORD_SLOT_BYTES > disk.sizeBytes) return 'missing';
  const bytes = Buffer.alloc(GROUP_RECORD_SLOT_BYTES);
  await disk.read(bytes, 0, bytes.length, startBytes);
  const header = groupRecordHeaderLayout.decode(bytes);
  const endBytes = groupRecordHeaderLayout.span + header.payloadBytes;
  if (
    header.magic.equals(GROUP_RECORD_MAGIC) &&
    endBytes <= bytes.length &&
    isSealed(bytes.subarray(0, endBytes))
  )
    return 'intact';
  return bytes.every((byte) => byte === 0) ? 'blank' : 'damaged';
}

function addBadSlot(findings: Findings, states: readonly SlotState[], record: GroupRecord): void {
  const slot = states.findIndex((state) => state !== 'intact');
  const what = `slot ${slot} is ${states[slot]}; the other one holds, with the checkpoint at LSN ${record.checkpointLsn}`;
  const advice =
    'as a power cut leaves it in the moment of a write, and then nothing is lost; but if this was the newer one and was durable, ' +
    'what the other says of snapshots is out of date: compare `snapshot list` with what you know';
  findings.add('doubt', RECORD_NAME, what, advice);
}

/** The data of a volume, and the map of what was written since its creation. */
export async function checkVolume(
  folder: DiskFolder,
  record: GroupRecord,
  volume: VolumeRecord,
  findings: Findings,
): Promise<void> {
  await checkData(folder, record, volume, findings);
  const where = mapName(volume.name);
  await withDisk(
    () => folder.open(where),
    where,
    findings,
    'put it back from a backup',
    (disk) => checkMap(disk, record, volume, findings),
  );
}

async function checkData(
  folder: DiskFolder,
  { regionBytes }: GroupRecord,
  volume: VolumeRecord,
  findings: Findings,
): Promise<void> {
  const { file, sizeBytes } = volume;
  const where = file ?? dataName(volume.name);
  const open = () => (file === undefined ? folder.open(where) : folder.openOutside(file));
  await withDisk(open, where, findings, `it is all of volume ${volume.name}: put it back`, async (disk) => {
    if (disk.sizeBytes >= sizeBytes) {
      const what = `it has the ${sizeBytes} bytes of volume ${volume.name}, whose content has no checksums`;
      findings.add('ok', where, what);
      return;
    }
    const what = `it has ${disk.sizeBytes} bytes, and had ${sizeBytes}`;
    const advice = `put the whole back, or, if what was cut off may read as zeroes, grow it (truncate -s ${sizeBytes})`;
    const gone = { first: Math.floor(disk.sizeBytes / regionBytes), end: Math.ceil(sizeBytes / regionBytes) };
    findings.add('damage', where, what, advice, regionsInDoubt(volume.name, undefined, [gone]));
  });
}

async function checkMap(
  disk: Disk,
  record: GroupRecord,
  volume: VolumeRecord,
  findings: Findings,
): Promise<void> {
  const where = mapName(volume.name);
  const identity = { volumeId: volume.id, sizeBytes: volume.sizeBytes, regionBytes: record.regionBytes };
  const length = regionCount(identity);
  const inDoubt = (runs: readonly RegionRun[]) => regionsInDoubt(volume.name, undefined, runs);
  const all = inDoubt([{ first: 0, end: length }]);
  const needed = mapFileBytes(identity);
  if (disk.sizeBytes < needed) {
    findings.add(
      'damage',
      where,
      `it has ${disk.sizeBytes} bytes, and had ${needed}`,
      'put it back from a backup',
    );
    return;
  }
  const headers = Buffer.alloc(MAP_HEADERS * MAP_BLOCK_BYTES);
  await disk.read(headers, 0, headers.length, 0);
  const header = decodeHeaders(headers, identity);
  if (header === undefined) {
    findings.add('doubt', where, 'neither header is intact: every region counts as written', SUPERSET, all);
    return;
  }
  const intact = [0, 1].map((slot) =>
    headers.subarray(slot * MAP_BLOCK_BYTES).subarray(0, mapHeaderLayout.span),
  );
  if (!intact.every((bytes) => isSealed(bytes)))
    findings.add('doubt', where, 'one of its two headers is damaged: the other one holds', 'nothing is lost');
  if ((header.flags & MAP_FLAG_ALL_WRITTEN) !== 0) {
    findings.add('ok', where, 'every region counts as written, as it was made');
    return;
  }
  const activity = Buffer.alloc(SECTOR_BYTES);
  await disk.read(activity, 0, activity.length, MAP_ACTIVITY_OFFSET_BYTES);
  if (decodeActivity(activity) === undefined)
    findings.add(
      'doubt',
      where,
      'its activity sector is damaged: every region counts as written',
      SUPERSET,
      all,
    );
  const map = new RegionMap(length);
  const damaged = await loadSectors(disk, MAP_SECTORS_OFFSET_BYTES, map);
  if (damaged.length === 0)
    findings.add('ok', where, `its sectors are intact: ${map.count} of ${length} regions`);
  else {
    const runs = damaged.map((sector) => regionsOfSectors(sector, sector + 1, length));
    const what = `${damaged.length} of its sectors are damaged: their regions count as written`;
    findings.add('doubt', where, what, SUPERSET, inDoubt(runs));
  }
}

/** The log from its tail on. Undefined when it cannot be read; the batches are those that a start would apply. */
export async function checkLog(
  folder: DiskFolder,
  record: GroupRecord,
  findings: Findings,
): Promise<{ figures: LogFigures; batches: readonly LogBatch[] } | undefined> {
  const where = 'log';
  return await withDisk(
    () => openLog(folder, record),
    where,
    findings,
    'restore its file from a copy',
    async (disk) => {
      const { state } = await Superblocks.open(disk, record.id);
      const { checkpointLsn } = record;
      try {
        const found = await readLog(disk, record.id, checkpointLsn);
        for (const warning of found.warnings)
          if (warning.includes('superblock')) findings.add('doubt', where, warning, 'nothing is lost');
          else findings.add('note', where, warning, TORN);
        const figures = figuresOf(state, checkpointLsn, found.state.endLsn, found.batches);
        findings.add('ok', where, `it is whole from LSN ${state.tailLsn} to ${found.state.endLsn}`);
        addReplay(findings, figures);
        addControls(findings, record, found.batches);
        return { figures, batches: found.batches };
      } catch (error) {
        findings.addError(where, error, adviceFor(state, checkpointLsn));
        return undefined;
      }
    },
  );
}

function figuresOf(
  state: LogState,
  checkpointLsn: number,
  endLsn: number,
  batches: readonly LogBatch[],
): LogFigures {
  return {
    sizeBytes: state.ringBytes,
    tailLsn: state.tailLsn,
    checkpointLsn,
    endLsn,
    batches: batches.length,
    records: batches.reduce((sum, batch) => sum + batch.records.length, 0),
    controlRecords: batches.filter((batch) => batch.control !== undefined).length,
    replayBytes: (endLsn - checkpointLsn) * LOG_SECTOR_BYTES,
  };
}

function addReplay(findings: Findings, figures: LogFigures): void {
  if (figures.batches === 0) return;
  const { batches, records, controlRecords, replayBytes } = figures;
  const what = `${replayBytes} bytes wait to be applied: ${batches} batches with ${records} records, and ${controlRecords} control records`;
  findings.add('note', 'log', what, 'a node does that when it is started, while the volumes are in use');
}

function addControls(findings: Findings, record: GroupRecord, batches: readonly LogBatch[]): void {
  const regions = (name: string): number | undefined => {
    const volume = record.volumes.find((candidate) => candidate.name === name);
    return volume === undefined ? undefined : Math.ceil(volume.sizeBytes / record.regionBytes);
  };
  for (const { control, lsn } of batches) {
    if (control === undefined) continue;
    try {
      decodeControl(control, regions);
    } catch (error) {
      findings.addError(`log at LSN ${lsn}`, error, 'report this, and keep a copy of the log');
    }
  }
}

function adviceFor(state: LogState, checkpointLsn: number): string {
  if (checkpointLsn < state.tailLsn)
    return (
      `the record's checkpoint, LSN ${checkpointLsn}, is before what the log has kept, from LSN ${state.tailLsn} on: ` +
      'the record was put back from an older copy, or its newer slot is damaged; restore record and log from one copy'
    );
  return 'up to there the log can be applied, beyond it is lost what was not applied yet: restore the file of the log from a copy';
}

/** Does `work` with a disk, and closes it. What goes wrong is found. */
export async function withDisk<T>(
  open: () => Promise<Disk>,
  where: string,
  findings: Findings,
  advice: string,
  work: (disk: Disk) => Promise<T>,
): Promise<T | undefined> {
  let disk: Disk | undefined;
  try {
    disk = await open();
    return await work(disk);
  } catch (error) {
    findings.addError(where, error, advice);
    return undefined;
  } finally {
    await disk?.close();
  }
}
