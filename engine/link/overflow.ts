/** What a link holds of the log becomes marks in its DCM, and the log is let go of (rule K6). */
import { decodeControl } from '../control-record.ts';
import type { GroupState } from '../group-state.ts';
import type { LogBatch } from '../log/record.ts';
import { LOG_SECTOR_BYTES, type Lsn, MIB } from '../units.ts';
import type { LinkState } from './link-state.ts';

/** What is left when the lane is taken, at most, in sectors of log, unless the applier is faster: so long others wait for it. */
const IN_LANE_SECTORS = (4 * MIB) / LOG_SECTOR_BYTES;

/** What is applied of the log. */
export interface AppliedLog {
  readonly appliedLsn: () => Lsn;
  /** Resolves when the log is applied beyond the position. */
  readonly applied: (lsn: Lsn) => Promise<void>;
}

/**
 * Marks what is not shipped, as far as it is applied; what follows is marked as it is applied. When it resolves that is durable, and the log is kept for the
 * link no more. Nothing is shipped meanwhile. In no lane. Rejects with `disk`, and the log is kept then.
 */
export async function markUnshipped(
  state: GroupState,
  link: LinkState,
  { appliedLsn, applied }: AppliedLog,
): Promise<void> {
  if (link.logLsn === null) return;
  let from = link.logLsn;
  // After a start the applier may have to come there first: what the secondary has is not to be marked. Until then the log is kept in any case.
  if (appliedLsn() < from) await applied(from - 1);
  while (appliedLsn() - from > IN_LANE_SECTORS) from = await markPiece(state, link, from, appliedLsn());
  await state.lane(async () => {
    while (from < appliedLsn()) from = await markPiece(state, link, from, appliedLsn());
    const takeBack = link.endLog();
    try {
      await link.flush();
      await state.writeRecord(state.checkpointLsn);
    } catch (error) {
      takeBack();
      throw error;
    }
    link.letGo();
  });
}

/** Marks some of the records from `from` on and not beyond `to`, and returns where the next piece begins. */
async function markPiece(state: GroupState, link: LinkState, from: Lsn, to: Lsn): Promise<Lsn> {
  const batches = await state.logReader.batches(from, to);
  for (const batch of batches) markBatch(state, link, batch);
  await state.clock.turn();
  return batches.at(-1)?.endLsn ?? to;
}

function markBatch(state: GroupState, link: LinkState, batch: LogBatch): void {
  const { regionBytes } = state;
  for (const { volumeIndex, offsetBytes, lengthBytes } of batch.records) {
    const first = Math.floor(offsetBytes / regionBytes);
    link.mark(volumeIndex, { first, end: Math.floor((offsetBytes + lengthBytes - 1) / regionBytes) + 1 });
  }
  if (batch.control === undefined) return;
  const control = decodeControl(batch.control, (name) => {
    const volume = state.volumes.find((candidate) => candidate.name === name);
    return volume && state.regionCount(volume);
  });
  if (control.type !== 'restore') return;
  // Its record will not get there: its regions have to.
  for (const { name, restoration } of control.volumes) {
    const volume = state.volumes.find((candidate) => candidate.name === name);
    if (volume !== undefined) for (const run of restoration.runs()) link.mark(volume.index, run);
  }
}
