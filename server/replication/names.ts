/**
 * The names of the exports between two nodes. They are never listed, and a group cannot have a name with a dot first, so that they meet no other.
 *
 *   .replication/GROUP/state[?nonce=HEX]
 *   .replication/GROUP/log?session=N
 *   .replication/GROUP/regions/VOLUME?session=N[&round=ID]
 *   .replication/GROUP/checksums/VOLUME?session=N&verify=ID
 *
 * Over TCP `proof=HEX` follows as the last parameter (see `proof.ts`).
 */
import { EngineError } from '../../engine/errors.ts';
import { checkName } from '../../engine/names.ts';

export const REPLICATION_PREFIX = '.replication/';

export type ReplicationTarget =
  | { readonly kind: 'state'; readonly group: string; readonly nonce: string | undefined }
  | { readonly kind: 'log'; readonly group: string; readonly session: number }
  | {
      readonly kind: 'regions';
      readonly group: string;
      readonly volume: string;
      readonly session: number;
      /** Without one it takes no regions, and only says which are needed. */
      readonly round: string | undefined;
    }
  | {
      readonly kind: 'checksums';
      readonly group: string;
      readonly volume: string;
      readonly session: number;
      readonly verify: string;
    };

export interface ReplicationName {
  readonly target: ReplicationTarget;
  /** The name without its proof: what the proof is made over, and what logs show. */
  readonly canonical: string;
  readonly proof: string | undefined;
}

const STATE = /^\.replication\/([^/?]+)\/state(?:\?nonce=([0-9a-f]{64}))?$/;
const LOG = /^\.replication\/([^/?]+)\/log\?session=([1-9][0-9]{0,14})$/;
const REGIONS =
  /^\.replication\/([^/?]+)\/regions\/([^/?]+)\?session=([1-9][0-9]{0,14})(?:&round=([0-9A-Za-z-]{1,64}))?$/;
const CHECKSUMS =
  /^\.replication\/([^/?]+)\/checksums\/([^/?]+)\?session=([1-9][0-9]{0,14})&verify=([0-9A-Za-z-]{1,64})$/;
const PROOF = /[?&]proof=([0-9a-f]{64})$/;

export function formatTarget(target: ReplicationTarget): string {
  const base = `${REPLICATION_PREFIX}${target.group}`;
  switch (target.kind) {
    case 'state':
      return `${base}/state${target.nonce === undefined ? '' : `?nonce=${target.nonce}`}`;
    case 'log':
      return `${base}/log?session=${target.session}`;
    case 'regions': {
      const round = target.round === undefined ? '' : `&round=${target.round}`;
      return `${base}/regions/${target.volume}?session=${target.session}${round}`;
    }
    case 'checksums':
      return `${base}/checksums/${target.volume}?session=${target.session}&verify=${target.verify}`;
    default:
      return target satisfies never;
  }
}

export function withProof(canonical: string, proof: string): string {
  return `${canonical}${canonical.includes('?') ? '&' : '?'}proof=${proof}`;
}

/** Undefined for a text that is no such name. */
export function parseReplicationName(text: string): ReplicationName | undefined {
  const proof = PROOF.exec(text)?.[1];
  const canonical = text.replace(PROOF, '');
  const target = parseTarget(canonical);
  return target && { target, canonical, proof };
}

function parseTarget(text: string): ReplicationTarget | undefined {
  const [, ofState, nonce] = STATE.exec(text) ?? [];
  if (isGroup(ofState)) return { kind: 'state', group: ofState, nonce };
  const [, ofLog, session] = LOG.exec(text) ?? [];
  if (isGroup(ofLog)) return { kind: 'log', group: ofLog, session: Number(session) };
  const [, ofRegions, volume = '', sessionOfRegions, round] = REGIONS.exec(text) ?? [];
  if (isGroup(ofRegions))
    return { kind: 'regions', group: ofRegions, volume, session: Number(sessionOfRegions), round };
  const [, ofChecksums, compared = '', ofSession, verify = ''] = CHECKSUMS.exec(text) ?? [];
  if (!isGroup(ofChecksums)) return undefined;
  return { kind: 'checksums', group: ofChecksums, volume: compared, session: Number(ofSession), verify };
}

function isGroup(text: string | undefined): text is string {
  if (text === undefined) return false;
  try {
    checkName('group', text);
    return true;
  } catch (error) {
    if (error instanceof EngineError) return false;
    throw error;
  }
}
