/** A link as people see it. */
import type { GroupState } from '../group-state.ts';
import { LOG_SECTOR_BYTES, type Lsn } from '../units.ts';
import type { Connection } from './connection.ts';
import type { LinkSettings, LinkState, RestorePath } from './link-state.ts';

/** The work done since the group was opened. */
export interface LinkCounters {
  /** Of the log. */
  bytesShipped: number;
  regionsResynced: number;
  bytesResynced: number;
}

export interface LinkView extends Readonly<LinkSettings>, Readonly<LinkCounters> {
  readonly id: string;
  readonly state: 'connecting' | 'resync' | 'streaming' | 'paused' | 'detached' | 'failed';
  /** Why it is not streaming, or what holds it up. */
  readonly reason: string | undefined;
  /** What it waits for, and what comes then. */
  readonly waitsFor: string | undefined;
  /** Of the log that its secondary does not have, or that became regions since it had it. */
  readonly lagBytes: number;
  readonly lagSeconds: number;
  readonly dcmRegions: number;
  readonly position: { readonly baseLsn: Lsn; readonly logLsn: Lsn | null };
  readonly peerId: string | undefined;
  /** What its secondary said last, while it is connected. */
  readonly peer:
    | { readonly appliedLsn: Lsn; readonly endLsn: Lsn; readonly resyncing: boolean; readonly needs: number }
    | undefined;
  /** Which way the last restore took. */
  readonly lastRestore: { readonly lsn: Lsn; readonly path: RestorePath } | undefined;
}

export interface LinkFacts {
  readonly connection: Connection | undefined;
  readonly problem: { readonly reason: string; readonly refused: boolean } | undefined;
  readonly isRetrying: boolean;
  /** Why there is to be no connection now, or undefined. */
  readonly noSession: string | undefined;
  readonly ageMs: number;
  readonly counters: LinkCounters;
}

export function viewOf(state: GroupState, link: LinkState, facts: LinkFacts): LinkView {
  const { connection, counters } = facts;
  const { baseLsn, logLsn } = link;
  const peer = connection?.peer;
  const { restore } = link;
  return {
    id: link.id,
    ...link.settings,
    ...standing(link, facts),
    lagBytes: Math.max(0, state.log.endLsn - (logLsn ?? baseLsn)) * LOG_SECTOR_BYTES,
    lagSeconds: facts.ageMs / 1000,
    dcmRegions: link.dcm.count,
    position: { baseLsn, logLsn },
    peerId: link.peerId ?? undefined,
    peer: peer && {
      appliedLsn: peer.appliedLsn,
      endLsn: peer.endLsn,
      resyncing: peer.resyncing,
      needs: peer.needs,
    },
    lastRestore: restore && { lsn: restore.lsn, path: restore.path },
    ...counters,
  };
}

function standing(
  link: LinkState,
  { connection, problem, isRetrying, noSession }: LinkFacts,
): Pick<LinkView, 'state' | 'reason' | 'waitsFor'> {
  const { wanted } = link.settings;
  if (wanted === 'paused')
    return {
      state: 'paused',
      reason: 'its operator paused it',
      waitsFor:
        link.logLsn === null ? 'resume: what it lacks is copied then' : 'resume: the log is kept for it',
    };
  if (wanted === 'detached')
    return { state: 'detached', reason: 'it is detached', waitsFor: 'resume: what it lacks is copied then' };
  if (noSession !== undefined)
    return { state: 'connecting', reason: noSession, waitsFor: 'the end of that: it goes on by itself' };
  if (connection?.peer === undefined) {
    const next = isRetrying ? 'it tries again by itself' : 'it waits for the secondary to answer';
    return {
      state: problem?.refused === true ? 'failed' : 'connecting',
      reason: problem?.reason,
      waitsFor: next,
    };
  }
  if (connection.isStreaming) return { state: 'streaming', reason: connection.obstacle, waitsFor: undefined };
  const what = link.dcm.count === 0 ? 'the secondary takes over what it has' : 'regions are copied';
  return {
    state: 'resync',
    reason: connection.obstacle ?? what,
    waitsFor: 'streaming, when nothing is left',
  };
}
