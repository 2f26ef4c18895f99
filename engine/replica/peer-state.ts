/** A secondary as it tells its primary's link about itself. */
import { type PeerState, REPLICATION_PROTOCOL } from '../link/peer.ts';
import type { ReplicaParts } from './parts.ts';
import { replicaOf } from './replica-record.ts';

export function peerStateOf(parts: ReplicaParts): PeerState {
  const { state, effects, needs, host, resync, admission } = parts;
  const { record, log } = state;
  const replica = replicaOf(state);
  const { hold } = resync;
  return {
    protocol: REPLICATION_PROTOCOL,
    memberId: record.memberId,
    role: record.role,
    name: record.name,
    origin: replica.upstream === null ? null : { groupId: record.id, generation: record.generation },
    regionBytes: record.regionBytes,
    volumes: record.volumes.map(({ name, sizeBytes }) => ({ name, sizeBytes })),
    logBytes: log.capacityBytes,
    endLsn: log.endLsn,
    endChain: log.writtenCrc,
    durableLsn: log.durableLsn,
    appliedLsn: host.applier.appliedLsn,
    horizonLsn: replica.horizonLsn,
    holding: hold?.reached === true ? { roundId: hold.roundId, lsn: hold.lsn } : null,
    resyncing: replica.resync !== null,
    needs: needs.count > 0 ? replica.needs.version : 0,
    restoredByReferenceLsn: admission.restoredByReferenceLsn,
    heldBack: heldBackOf(parts) ?? null,
    snapshots: effects.named
      .filter((snapshot) => !snapshot.local)
      .map(({ id, imageId, name, lsn }) => ({ id, imageId, name: name ?? '', lsn })),
  };
}

/** Why what is there is not applied, or undefined. */
export function heldBackOf({ state, host, admission }: ReplicaParts): string | undefined {
  const { frozen, horizonLsn, applyDelaySeconds } = replicaOf(state);
  if (frozen && horizonLsn < state.log.endLsn) return 'frozen: see thaw';
  if (admission.isDelayed) return `delayed: records are applied ${applyDelaySeconds} s after they came`;
  return admission.problem ?? admission.waitsFor ?? host.applier.stall;
}
