import type { GroupState } from '../group-state.ts';
import type { Lsn } from '../units.ts';

/** How full a group's log is, and how far it has come. */
export interface LogStatus {
  readonly sizeBytes: number;
  readonly usedBytes: number;
  readonly endLsn: Lsn;
  readonly durableLsn: Lsn;
  readonly appliedLsn: Lsn;
  readonly checkpointLsn: Lsn;
  /** Memory that holds payload of records not yet applied. */
  readonly pendingBytes: number;
}

export function logStatusOf({ log, checkpointLsn }: GroupState, appliedLsn: Lsn): LogStatus {
  return {
    sizeBytes: log.capacityBytes,
    usedBytes: log.usedBytes,
    endLsn: log.endLsn,
    durableLsn: log.durableLsn,
    appliedLsn,
    checkpointLsn,
    pendingBytes: log.keptBytes,
  };
}
