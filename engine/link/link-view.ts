/** A link as people see it. */
import type { GroupState } from '../group-state.ts';
import { LOG_SECTOR_BYTES, type Lsn } from '../units.ts';
import type { ModeStanding } from './acknowledgement.ts';
import type { Connection } from './connection.ts';
import type { LinkSettings, LinkState, RestorePath } from './link-state.ts';

/** The work done since the group was opened. */
export interface LinkCounters {
  /** Of the log. */
  bytesShipped: number;
  regionsResynced: number;
  bytesResynced: number;
}

export interface LinkView extends Omit<Readonly<LinkSettings>, 'resyncAllowed'>, Readonly<LinkCounters> {
  readonly id: string;
  readonly state: 'connecting' | 'resync' | 'streaming' | 'paused' | 'detached' | 'failed';
  /** Why it is not streaming, or what holds it up. */
  readonly reason: string | undefined;
  /** What it waits for, and what comes then. */
  readonly waitsFor: string | undefined;
  /** Of the log that its secondary does not have, or that became regions since it had it. */
  readonly lagBytes: number;
  readonly lagSeconds: number;
  /** About (see `RecordCounts`). Undefined: some of it was there before the group was opened. */
  readonly lagRecords: number | undefined;
  /** Over the last seconds. Undefined: it cannot be told yet. */
  readonly shippedBytesPerSecond: number | undefined;
  readonly resyncedBytesPerSecond: number | undefined;
  /** Until nothing is left of what is marked, or else of the log, at the rates of the last seconds; undefined: it cannot be told. */
  readonly secondsLeft: number | undefined;
  readonly dcmRegions: number;
  readonly position: { readonly baseLsn: Lsn; readonly logLsn: Lsn | null };
  readonly peerId: string | undefined;
  /** What its secondary said last, while it is connected. */
  readonly peer:
    | { readonly appliedLsn: Lsn; readonly endLsn: Lsn; readonly resyncing: boolean; readonly needs: number }
    | undefined;
  /** Whether it is in its mode, and who waits for it (rule K4). */
  readonly acknowledging: ModeStanding;
  /** Which way the last restore took. */
  readonly lastRestore: { readonly lsn: Lsn; readonly path: RestorePath } | undefined;
}

export interface LinkFacts {
  readonly connection: Connection | undefined;
  readonly problem: { readonly reason: string; readonly refused: boolean } | undefined;
  /** Until the next try to connect; undefined: it is under way. */
  readonly retryInMs: number | undefined;
  /** Why there is to be no connection now, or undefined. */
  readonly noSession: string | undefined;
  readonly ageMs: number;
  readonly lagRecords: number | undefined;
  readonly acknowledging: ModeStanding;
  readonly counters: LinkCounters;
  readonly rates: LinkRates;
}

/** Each a second, over the last seconds; undefined: it cannot be told yet. */
export interface LinkRates {
  readonly loggedBytes: number | undefined;
  readonly shippedBytes: number | undefined;
  readonly resyncedBytes: number | undefined;
  readonly resyncedRegions: number | undefined;
}

export function viewOf(state: GroupState, link: LinkState, facts: LinkFacts): LinkView {
  const { connection, counters, rates } = facts;
  const { baseLsn, logLsn } = link;
  const { resyncAllowed: _, ...settings } = link.settings;
  const lagBytes = Math.max(0, state.log.endLsn - (logLsn ?? baseLsn)) * LOG_SECTOR_BYTES;
  const peer = connection?.peer;
  const { restore } = link;
  return {
    id: link.id,
    ...settings,
    ...standing(state, link, facts),
    lagBytes,
    lagSeconds: facts.ageMs / 1000,
    lagRecords: facts.lagRecords,
    shippedBytesPerSecond: rates.shippedBytes,
    resyncedBytesPerSecond: rates.resyncedBytes,
    secondsLeft: secondsLeft(link.dcm.count, lagBytes, rates),
    dcmRegions: link.dcm.count,
    position: { baseLsn, logLsn },
    peerId: link.peerId ?? undefined,
    peer: peer && {
      appliedLsn: peer.appliedLsn,
      endLsn: peer.endLsn,
      resyncing: peer.resyncing,
      needs: peer.needs,
    },
    acknowledging: facts.acknowledging,
    lastRestore: restore && { lsn: restore.lsn, path: restore.path },
    ...counters,
  };
}

/** Regions go first. A backlog shrinks by what is shipped, and grows by what is logged meanwhile. */
function secondsLeft(regions: number, lagBytes: number, rates: LinkRates): number | undefined {
  const { loggedBytes, shippedBytes, resyncedRegions } = rates;
  if (regions > 0) return timeFor(regions, resyncedRegions);
  if (lagBytes === 0) return 0;
  if (loggedBytes === undefined || shippedBytes === undefined) return undefined;
  return timeFor(lagBytes, shippedBytes - loggedBytes);
}

function timeFor(amount: number, perSecond: number | undefined): number | undefined {
  return perSecond === undefined || perSecond <= 0 ? undefined : amount / perSecond;
}

function standing(
  state: GroupState,
  link: LinkState,
  { connection, problem, retryInMs, noSession }: LinkFacts,
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
    const next =
      retryInMs === undefined
        ? 'an answer of the secondary'
        : `the next try, in ${Math.ceil(retryInMs / 1000)} s`;
    return {
      state: problem?.refused === true ? 'failed' : 'connecting',
      reason: problem?.reason ?? 'it has not been connected yet',
      waitsFor: next,
    };
  }
  if (connection.waitsForOperator)
    return {
      state: 'resync',
      reason: `its resync policy is manual, and ${link.dcm.count} regions are to be copied`,
      waitsFor: `tidemark resync ${state.record.name} --link ${link.settings.name}`,
    };
  if (connection.isStreaming) return { state: 'streaming', reason: connection.obstacle, waitsFor: undefined };
  const what = link.dcm.count === 0 ? 'the secondary takes over what it has' : 'regions are copied';
  return {
    state: 'resync',
    reason: connection.obstacle ?? what,
    waitsFor: 'the last regions; it is streaming then',
  };
}
