import type { Disk } from '../disk/disk.ts';
import { EngineError } from '../errors.ts';
import { LOG_SECTOR_BYTES, type Lsn, MIB } from '../units.ts';
import { limitsOf } from './limits.ts';
import { HeaderReader, type LogBatch, sectorsOf } from './record.ts';
import { spoilHeader } from './restart.ts';
import { PAGE_SECTORS, Ring } from './ring.ts';
import { durableBeyond, type ScanFrom, type ScanResult, scan } from './scan.ts';
import { type LogState, Superblocks } from './superblock.ts';

/** Written again at once when a log is opened: 1 MiB. */
const REWRITE_SECTORS = sectorsOf(1 * MIB);

export interface RecoveredLog {
  readonly superblocks: Superblocks;
  /** As the superblock has it, but with the end that was found. */
  readonly state: LogState;
  /** Below it everything is known durable, by the superblock or by what batches say. */
  readonly durableLsn: Lsn;
  /** Checksum of the last batch. */
  readonly endCrc: number;
  /** From the checkpoint on, in order, without payload. */
  readonly batches: LogBatch[];
  readonly warnings: string[];
}

/**
 * Reads what a log holds from `checkpointLsn` on, and changes nothing (rule L5). Throws `corrupt` where something is missing that was durable, by
 * what the superblock, the checkpoint or later batches say, or for another group's log; `unsupported` for a later version; `disk`.
 *
 * `shippedBelow`: the batches come from another node, and what they say was durable was so there. Here that is known of what the superblock says, and
 * of what lies below that LSN.
 */
export async function readLog(
  disk: Disk,
  groupId: string,
  checkpointLsn: Lsn,
  shippedBelow?: Lsn,
): Promise<RecoveredLog> {
  // What this process reads may still be in the page cache only, from one that was killed.
  await disk.sync();
  const { superblocks, state, warnings } = await Superblocks.open(disk, groupId);
  const { tailLsn, tailCrc } = state;
  if (checkpointLsn < tailLsn) throw gap(checkpointLsn, tailLsn);
  const ring = new Ring(disk, state.ringBytes);
  const headers = new HeaderReader(superblocks.identity);
  const from = { ring, headers, tailLsn, tailCrc, wantedLsn: checkpointLsn };
  const found = state.allocated
    ? await scan(from)
    : { batches: [], endLsn: tailLsn, endCrc: tailCrc, durableLsn: tailLsn, torn: false };
  const knownLsn = Math.max(state.endLsn, checkpointLsn, shippedBelow ?? 0);
  await refuse(from, found, state, knownLsn, shippedBelow === undefined);
  if (found.torn)
    warnings.push(`the log was torn at LSN ${found.endLsn}, as by a power cut: what follows is dropped`);
  const { batches, endLsn, endCrc } = found;
  const durableLsn = shippedBelow === undefined ? Math.max(state.endLsn, found.durableLsn) : knownLsn;
  return { superblocks, state: { ...state, endLsn }, durableLsn, endCrc, batches, warnings };
}

/**
 * Writes again what is beyond `durableLsn`, of the log from `tailLsn` to `endLsn`, and spoils what would be the first header after it (rule L5). A sync
 * of the process before this one may have failed, and the kernel then holds as clean what is not on the disk (rule L6).
 */
export async function rewriteEnd(ring: Ring, tailLsn: Lsn, durableLsn: Lsn, endLsn: Lsn): Promise<void> {
  // From a page boundary on, so that pages are written whole.
  let lsn = Math.max(tailLsn, durableLsn - (durableLsn % PAGE_SECTORS));
  while (lsn < endLsn) {
    const sectors = Math.min(REWRITE_SECTORS, endLsn - lsn);
    const bytes = Buffer.alloc(sectors * LOG_SECTOR_BYTES);
    await ring.read(lsn, 0, bytes, 0, bytes.length);
    await ring.write(lsn, bytes);
    lsn += sectors;
  }
  await spoilHeader(ring, endLsn);
}

/** Throws `corrupt` unless the log ends, and has its batches, where everything that is known says. */
async function refuse(
  from: ScanFrom,
  found: ScanResult,
  state: LogState,
  durableLsn: Lsn,
  headersTell: boolean,
): Promise<void> {
  if (found.endLsn < durableLsn) throw gap(found.endLsn, durableLsn);
  const firstLsn = found.batches[0]?.lsn ?? found.endLsn;
  if (firstLsn !== from.wantedLsn)
    throw new EngineError(
      'corrupt',
      `no batch of the log begins at LSN ${from.wantedLsn}, where the group goes on: log and record are not of one time; restore both from one copy`,
    );
  if (!state.allocated || !headersTell) return;
  const { maxUnsyncedSectors, maxBatchBytes } = limitsOf(state.ringBytes);
  const distance = maxUnsyncedSectors + Math.ceil(maxBatchBytes / LOG_SECTOR_BYTES);
  const durable = await durableBeyond(from, found.endLsn, distance);
  if (durable !== undefined) throw gap(found.endLsn, durable);
}

/** The log ends where it may not. */
function gap(endLsn: Lsn, durableLsn: Lsn): EngineError {
  return new EngineError(
    'corrupt',
    `the log is damaged at LSN ${endLsn}, and was durable up to ${durableLsn}: what lies between cannot be applied; ` +
      "restore the log's file from a copy; nothing was changed",
  );
}
