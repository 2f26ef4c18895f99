/** What `status` says of links, and of a replica. */
import type { LinkStatus, ReplicaStatus } from './control/link-schemas.ts';
import type { LinkView, ReplicaControl } from './link-control.ts';

export function linkStatusOf(view: LinkView): LinkStatus {
  const { reason, waitsFor, secondsLeft, lastRestore, position, ...rest } = view;
  return {
    ...rest,
    reason: reason ?? null,
    waitsFor: waitsFor ?? null,
    secondsLeft: secondsLeft ?? null,
    position: { ...position },
    lastRestore: lastRestore === undefined ? null : { ...lastRestore },
  };
}

export function replicaStatusOf(replica: ReplicaControl): ReplicaStatus {
  const { upstream, connected, frozen, applyDelaySeconds } = replica;
  const { horizonLsn, resyncing, holding, heldBack, needs } = replica.state();
  return {
    upstream: upstream === undefined ? null : { link: upstream.linkName, memberId: upstream.memberId },
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
