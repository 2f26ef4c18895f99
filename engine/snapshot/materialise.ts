/**
 * Brings regions of a pending restore from its source into the volume (rules T1 to T3).
 *
 * For each region, and for each restore that has it to come, oldest first:
 *
 *   1. the raw content is kept in the newest layer that is older than the restore, which reads it until now (durable);
 *   2. what the source shows is written to the volume;
 *   3. the volume is synced;
 *   4. the region's bit is cleared, durably, and then in memory: from here on readers find it in the volume.
 */
import { assert, EngineError } from '../errors.ts';
import type { GroupState, GroupVolume } from '../group-state.ts';
import type { RegionIndex } from '../units.ts';
import type { RestoreNode } from './chain.ts';
import { changeMap } from './detached.ts';
import { preserve } from './preserve.ts';
import { eachRegion, isZero, readRegion } from './region-copy.ts';

/** Materialises whatever of the regions is to come, of all restores that are applied. In the lane, before anything else writes them. */
export async function bringForward(
  state: GroupState,
  volume: GroupVolume,
  regions: readonly RegionIndex[],
): Promise<void> {
  for (const restore of state.chain.restores) {
    const toCome = restore.applied ? restore.parts[volume.index]?.toCome : undefined;
    if (toCome === undefined) continue;
    const due = regions.filter((region) => toCome.has(region));
    if (due.length > 0) await materialise(state, restore, volume, due);
  }
}

/** The regions are to come in no older restore. */
async function materialise(
  state: GroupState,
  restore: RestoreNode,
  volume: GroupVolume,
  regions: readonly RegionIndex[],
): Promise<void> {
  const { durable, disk } = restore.parts[volume.index] ?? {};
  assert(durable !== undefined && disk !== undefined, 'an applied restore has its map on disk');
  await preserve(state, volume, regions, state.chain.nodes.indexOf(restore));
  const losses = state.volumeLosses;
  await eachRegion(state, regions, (region) => bring(state, restore, volume, region));
  await state.syncVolumes();
  if (state.volumeLosses !== losses)
    throw new EngineError('disk', `volume ${volume.name}: a sync failed meanwhile`, { errno: 'EIO' });
  await changeMap(disk, () => durable.clear(regions));
  state.counters.regionsRestored += regions.length;
}

async function bring(
  state: GroupState,
  restore: RestoreNode,
  volume: GroupVolume,
  region: RegionIndex,
): Promise<void> {
  const content = await readRegion(state, volume, restore.view, region);
  const offsetBytes = region * state.regionBytes;
  volume.unsynced = true;
  if (isZero(content)) {
    await volume.disk.punch(offsetBytes, content.length);
    return;
  }
  await state.markWritten(volume, [{ first: region, end: region + 1 }]);
  if (!volume.disk.tryWrite(content, 0, content.length, offsetBytes))
    await volume.disk.write(content, 0, content.length, offsetBytes);
}
