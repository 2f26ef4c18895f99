/**
 * Applies a unit: batches that were chosen together (`unit-choice.ts`), all of them durable in the log. In the lane, in these steps:
 *
 *   1. payload that is not in memory any more is read back from the ring;
 *   2. regions that a restore still has to bring are materialised (T2);
 *   3. what the unit overwrites is preserved for the newest snapshot, durably (S1);
 *   4. regions are marked: as changed for detached snapshots and links, and as written, with one wait for all;
 *   5. the volumes are written, in their own order;
 *   6. the unit leaves the pending index: readers find it in the volumes from here on.
 */
import type { GroupState, GroupVolume } from '../group-state.ts';
import type { RegionRun } from '../map/region-map.ts';
import { bringForward } from '../snapshot/materialise.ts';
import { preserve } from '../snapshot/preserve.ts';
import { LOG_SECTOR_BYTES, type RegionIndex } from '../units.ts';
import type { ApplierQueue } from './applier-queue.ts';
import type { LogBatch, LogRecord } from './record.ts';
import { inVolumeOrder, type Piece } from './unit-order.ts';

/** Inline writes between two turns for everybody else. */
const WRITES_PER_TURN = 64;

export async function applyUnit(
  state: GroupState,
  queue: ApplierQueue,
  unit: readonly LogBatch[],
): Promise<void> {
  // Their payload stays where it is before this has ended.
  for (const batch of unit) batch.isApplying = true;
  try {
    const pieces = await load(state, unit);
    for (const volume of state.volumes) {
      const own = pieces.filter((piece) => piece.record.volumeIndex === volume.index);
      if (own.length > 0) await applyTo(state, volume, own);
    }
    queue.unitApplied(unit);
  } finally {
    for (const batch of unit) batch.isApplying = false;
  }
}

/** The records with their payloads, from memory or, where that was given back, from the log. */
async function load(state: GroupState, unit: readonly LogBatch[]): Promise<Piece[]> {
  const pieces: Piece[] = [];
  for (const batch of unit) {
    let { bytes } = batch;
    if (bytes === undefined) {
      bytes = Buffer.allocUnsafe((batch.endLsn - batch.lsn) * LOG_SECTOR_BYTES);
      await state.log.readPayload(batch, 0, bytes, 0, bytes.length);
    }
    for (const record of batch.records) pieces.push({ record, bytes });
  }
  return pieces;
}

async function applyTo(state: GroupState, volume: GroupVolume, pieces: readonly Piece[]): Promise<void> {
  const regions = regionsOf(state, pieces);
  await bringForward(state, volume, regions);
  await preserve(state, volume, regions);
  for (const tracker of state.trackers) tracker.noteChanged(volume.index, regions);
  await writeAll(state, volume, pieces);
}

function regionsOf({ regionBytes }: GroupState, pieces: readonly Piece[]): RegionIndex[] {
  const regions = new Set<RegionIndex>();
  for (const { record } of pieces) {
    const last = Math.floor((record.offsetBytes + record.lengthBytes - 1) / regionBytes);
    for (let region = Math.floor(record.offsetBytes / regionBytes); region <= last; region++)
      regions.add(region);
  }
  return [...regions].sort((a, b) => a - b);
}

async function writeAll(state: GroupState, volume: GroupVolume, pieces: readonly Piece[]): Promise<void> {
  // All of them at once: what has to be made durable first takes one sync, however far they lie apart.
  await state.markWritten(volume, writtenBy(state, pieces));
  volume.unsynced = true;
  let inline = 0;
  for (const piece of inVolumeOrder(pieces)) {
    const waited = await write(volume, piece);
    inline = waited ? 0 : inline + 1;
    if (inline % WRITES_PER_TURN === WRITES_PER_TURN - 1) await state.clock.turn();
  }
}

/** Zeroes mark no region as written: a blank one stays blank. */
function writtenBy({ regionBytes }: GroupState, pieces: readonly Piece[]): RegionRun[] {
  const runs: RegionRun[] = [];
  for (const { record } of pieces) {
    if (record.zeroes) continue;
    const last = Math.floor((record.offsetBytes + record.lengthBytes - 1) / regionBytes);
    runs.push({ first: Math.floor(record.offsetBytes / regionBytes), end: last + 1 });
  }
  return runs;
}

/** Returns whether it waited. */
function write(volume: GroupVolume, { record, bytes }: Piece): boolean | Promise<boolean> {
  const { offsetBytes, lengthBytes, dataStart } = record;
  if (record.zeroes) return zero(volume, record);
  if (volume.disk.tryWrite(bytes, dataStart, lengthBytes, offsetBytes)) return false;
  return volume.disk.write(bytes, dataStart, lengthBytes, offsetBytes).then(() => true);
}

async function zero(
  volume: GroupVolume,
  { offsetBytes, lengthBytes, mayPunch }: LogRecord,
): Promise<boolean> {
  if (mayPunch) await volume.disk.punch(offsetBytes, lengthBytes);
  else await volume.disk.zero(offsetBytes, lengthBytes, false);
  return true;
}
