/** What `status` says of links, and of a replica. */
import type { LinkStatus, ReplicaStatus } from './control/link-schemas.ts';
import { refusalOf } from './control/refusal.ts';
import type { VerificationStatus } from './control/verify-schemas.ts';
import type { LinkView, ReplicaControl, VerificationView } from './link-control.ts';

export function linkStatusOf(view: LinkView): LinkStatus {
  const { reason, waitsFor, lastRestore, position } = view;
  return {
    id: view.id,
    name: view.name,
    uri: view.uri,
    mode: view.mode,
    onLost: view.onLost,
    onFull: view.onFull,
    resync: view.resync,
    orderedOnly: view.orderedOnly,
    limitBytes: view.limitBytes,
    limitSeconds: view.limitSeconds,
    rateBytesPerSecond: view.rateBytesPerSecond,
    state: view.state,
    inMode: view.acknowledging.inMode,
    notInModeBecause: view.acknowledging.reason ?? null,
    heldRequests: view.acknowledging.heldRequests,
    heldSeconds: view.acknowledging.heldSeconds,
    reason: reason ?? null,
    waitsFor: waitsFor ?? null,
    lagBytes: view.lagBytes,
    lagSeconds: view.lagSeconds,
    lagRecords: view.lagRecords ?? null,
    shippedBytesPerSecond: view.shippedBytesPerSecond ?? null,
    resyncedBytesPerSecond: view.resyncedBytesPerSecond ?? null,
    secondsLeft: view.secondsLeft ?? null,
    dcmRegions: view.dcmRegions,
    bytesShipped: view.bytesShipped,
    regionsResynced: view.regionsResynced,
    bytesResynced: view.bytesResynced,
    position: { ...position },
    peerId: view.peerId ?? null,
    lastRestore: lastRestore === undefined ? null : { ...lastRestore },
  };
}

export function verificationStatusOf(link: string, view: VerificationView): VerificationStatus {
  const { waitsFor, lsn, volumes, error, ...same } = view;
  return {
    ...same,
    link,
    waitsFor: waitsFor ?? null,
    lsn: lsn ?? null,
    volumes: volumes.map(({ runs, ...volume }) => ({
      ...volume,
      runs: runs.map(({ first, end }) => ({ region: first, count: end - first })),
    })),
    error: error === undefined ? null : refusalOf(error).body,
  };
}

export function replicaStatusOf(replica: ReplicaControl): ReplicaStatus {
  const { upstream, connected, frozen, applyDelaySeconds, shows, received } = replica;
  const { memberId, endLsn, durableLsn, appliedLsn, horizonLsn, resyncing, holding, heldBack, needs } =
    replica.state();
  const { image, lsn, untilMs } = shows;
  return {
    memberId,
    upstream:
      upstream === undefined
        ? null
        : { link: upstream.linkName, memberId: upstream.memberId, path: [...upstream.path] },
    connected,
    frozen,
    applyDelaySeconds,
    endLsn,
    durableLsn,
    appliedLsn,
    horizonLsn,
    shows: { image, lsn, until: untilMs === undefined ? null : new Date(untilMs).toISOString() },
    resyncing,
    regionsReceived: received.regions,
    bytesReceived: received.bytes,
    holdingLsn: holding?.lsn ?? null,
    heldBack,
    needsRegions: needs > 0,
  };
}
