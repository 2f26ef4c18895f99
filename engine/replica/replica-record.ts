/** The part of a group's record that a secondary has, and writing it. */
import { assert } from '../errors.ts';
import type { ReplicaRecord } from '../group-record.ts';
import type { GroupState, RecordChanges } from '../group-state.ts';
import type { Lsn } from '../units.ts';

export function replicaOf(state: GroupState): ReplicaRecord {
  const { replica } = state.record;
  assert(replica !== null, 'the group is a secondary');
  return replica;
}

/** As `GroupState.writeRecord`, with changes of what a secondary keeps. In the lane. */
export async function writeReplica(
  state: GroupState,
  checkpointLsn: Lsn,
  changes: Partial<ReplicaRecord>,
  others: RecordChanges = {},
): Promise<void> {
  await state.writeRecord(checkpointLsn, { ...others, replica: { ...replicaOf(state), ...changes } });
}
