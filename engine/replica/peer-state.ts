/** A secondary as it tells its primary's link, and people, about itself. */
import type { GroupRecord, ReplicaRecord } from '../group-record.ts';
import { type LogOrigin, type PeerState, REPLICATION_PROTOCOL } from '../link/peer.ts';
import type { Lsn } from '../units.ts';
import type { ReplicaParts } from './parts.ts';
import { replicaOf } from './replica-record.ts';

export function peerStateOf(parts: ReplicaParts): PeerState {
  const { state, effects, needs, host, resync, admission, session, verifying } = parts;
  const { record, log } = state;
  const replica = replicaOf(state);
  const { hold } = resync;
  return {
    protocol: REPLICATION_PROTOCOL,
    memberId: record.memberId,
    role: record.role,
    name: record.name,
    handOvers: session.handOvers,
    origin: replica.upstream === null ? null : originOf(record, replica),
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
    isShort: state.space.wasShort,
    heldBack: heldBackOf(parts) ?? null,
    snapshots: effects.named
      .filter((snapshot) => !snapshot.local)
      .map(({ id, imageId, name, lsn }) => ({ id, imageId, name: name ?? '', lsn })),
    ...(verifying.view === undefined ? {} : { verifying: verifying.view }),
  };
}

/** A restart of the log that is not carried through yet is, at the next hand-over at the latest. */
function originOf({ id, generation }: GroupRecord, { restart }: ReplicaRecord): LogOrigin {
  return restart === null
    ? { groupId: id, generation }
    : { groupId: restart.groupId, generation: restart.generation };
}

/** Why what is there is not applied, or undefined. */
export function heldBackOf({ state, host, admission }: ReplicaParts): string | undefined {
  const { frozen, horizonLsn, applyDelaySeconds, oldImage } = replicaOf(state);
  const failure = host.failure();
  // Of a bug it has the stack, which is for the node's own events.
  if (failure !== undefined) return `it has failed: ${failure.split('\n', 1)[0]}`;
  if (frozen && (horizonLsn < state.log.endLsn || oldImage !== null)) return 'frozen: see thaw';
  const { showsAtMs } = admission;
  if (showsAtMs !== undefined)
    return `resynced; the old image is shown until ${new Date(showsAtMs).toISOString()}`;
  if (admission.isDelayed) return `delayed: records are applied ${applyDelaySeconds} s after they came`;
  return admission.problem ?? admission.waitsFor ?? host.applier.stall;
}

/** What readers of the volumes get (rules K9, K12). */
export interface Shown {
  readonly image: 'volumes' | 'guard' | 'nothing';
  /** They see what lies below; null: nothing. */
  readonly lsn: Lsn | null;
  /** Until when it is not the volumes, in ms of the clock, where that is known. */
  readonly untilMs: number | undefined;
}

export function shownOf({ state, admission }: ReplicaParts): Shown {
  const { shownImage } = state;
  const untilMs = admission.showsAtMs;
  if (shownImage === undefined) return { image: 'volumes', lsn: replicaOf(state).horizonLsn, untilMs };
  if (shownImage === 'none') return { image: 'nothing', lsn: null, untilMs };
  // A layer has the LSN of the last record that it shows, at most.
  return { image: 'guard', lsn: shownImage.lsn + 1, untilMs };
}
