/** What `status` says of links, and of a replica. */
import type { LinkStatus, ReplicaStatus } from './control/link-schemas.ts';
import type { LinkView, ReplicaControl } from './link-control.ts';

export function linkStatusOf(view: LinkView): LinkStatus {
  const { reason, waitsFor, lastRestore, position } = view;
  return {
    id: view.id,
    name: view.name,
    uri: view.uri,
    mode: view.mode,
    onLost: view.onLost,
    onFull: view.onFull,
    limitBytes: view.limitBytes,
    limitSeconds: view.limitSeconds,
    rateBytesPerSecond: view.rateBytesPerSecond,
    state: view.state,
    reason: reason ?? null,
    waitsFor: waitsFor ?? null,
    lagBytes: view.lagBytes,
    lagSeconds: view.lagSeconds,
    dcmRegions: view.dcmRegions,
    bytesShipped: view.bytesShipped,
    regionsResynced: view.regionsResynced,
    bytesResynced: view.bytesResynced,
    position: { ...position },
    peerId: view.peerId ?? null,
    lastRestore: lastRestore === undefined ? null : { ...lastRestore },
  };
}

export function replicaStatusOf(replica: ReplicaControl): ReplicaStatus {
  const { upstream, connected, frozen, applyDelaySeconds } = replica;
  const { memberId, horizonLsn, resyncing, holding, heldBack, needs } = replica.state();
  return {
    memberId,
    upstream:
      upstream === undefined
        ? null
        : { link: upstream.linkName, memberId: upstream.memberId, path: [...upstream.path] },
    connected,
    frozen,
    applyDelaySeconds,
    horizonLsn,
    resyncing,
    holdingLsn: holding?.lsn ?? null,
    heldBack,
    needsRegions: needs > 0,
  };
}
