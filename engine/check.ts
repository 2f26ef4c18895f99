/**
 * Checks the files of a group whose node is stopped, and changes nothing: for `tidemark check GROUP`.
 *
 * Each file is looked at by itself, so that one damage does not hide another; and then the engine opens the group as it would at a start, with
 * whatever it writes dropped, so that what it would refuse is found whatever it is.
 */
import { addUnreadable, ChainCheck } from './check/check-chain.ts';
import { checkLog, checkRecord, checkVolume } from './check/check-files.ts';
import { ReadOnlyFolder } from './check/read-only.ts';
import { type CheckReport, Findings, type LogFigures } from './check/report.ts';
import type { Clock } from './clock.ts';
import type { DiskFolder } from './disk/disk.ts';
import { type OpenGroup, openGroup } from './group-files.ts';
import type { GroupRecord } from './group-record.ts';
import { closeState, recover } from './group-recovery.ts';

/** What the maps of a group may take while it is looked at, in bytes: no limit of its own. */
const UNBOUNDED_MEMORY_BYTES = Number.MAX_SAFE_INTEGER;

/** Throws `not-found` when there is no group, `in-use` when a node has it open; whatever else is wrong is in the report. */
export async function checkGroup(folder: DiskFolder, clock: Clock): Promise<CheckReport> {
  const findings = new Findings();
  const untouched = new ReadOnlyFolder(folder);
  const found = await checkRecord(untouched, findings);
  if (found === undefined) return report(undefined, findings, false, undefined);
  const { record, outdated } = found;
  if (record.state !== 'ready') {
    const what = `the group is ${record.state}: its creation was never finished, or its removal was cut short`;
    findings.add(
      'note',
      'group.record',
      what,
      'what is left of it is cleared away by the next start, create or delete',
    );
    return report(record, findings, false, undefined);
  }
  for (const volume of record.volumes) await checkVolume(untouched, record, volume, findings);
  if (outdated) {
    const what = 'the record is of a version that had no log and no snapshots';
    findings.add('note', 'group.record', what, 'the group gets its log when it is opened');
    return report(record, findings, findings.worst !== 'damage', undefined);
  }
  const log = await checkLog(untouched, record, findings);
  await new ChainCheck(untouched, record, findings).files(log?.batches ?? []);
  const opens = await tryOpen(untouched, clock, findings);
  return report(record, findings, opens, log?.figures);
}

function report(
  record: GroupRecord | undefined,
  findings: Findings,
  opens: boolean,
  log: LogFigures | undefined,
): CheckReport {
  const group =
    record === undefined ? undefined : { name: record.name, id: record.id, regionBytes: record.regionBytes };
  return { group, severity: findings.worst, opens, log, findings: findings.all };
}

/** Whether the engine opens it; what cannot be read then is found. */
async function tryOpen(folder: DiskFolder, clock: Clock, findings: Findings): Promise<boolean> {
  let opened: OpenGroup | undefined;
  try {
    opened = await openGroup(folder, clock);
    const recovered = await recover(folder, opened, clock, {
      memoryBytes: UNBOUNDED_MEMORY_BYTES,
      emit: () => {},
    });
    addUnreadable(recovered, findings);
    await closeState(recovered.state);
    await recovered.state.log.close();
    return true;
  } catch (error) {
    findings.addError('group', error, 'a node does not open the group because of this');
    return false;
  } finally {
    await closeOpened(opened);
  }
}

async function closeOpened(opened: OpenGroup | undefined): Promise<void> {
  if (opened === undefined) return;
  for (const { map, disk } of opened.parts) {
    await map.close();
    await disk.close();
  }
  await opened.logDisk.close();
  await opened.file.close();
}
