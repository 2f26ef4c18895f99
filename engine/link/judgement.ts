/** What a link makes of what its secondary says of itself at the hand-over (rule K2). Pure: the tests have it as tables. */
import type { LinkRecord } from '../group-record.ts';
import type { Lsn } from '../units.ts';
import type { Announcement, PeerState } from './peer.ts';

/** Why nothing is sent to a node. It is tried again: what is wrong may be mended there. */
export interface Refusal {
  /** `roles`: the two have gone different ways, and only a decision about roles brings them together. */
  readonly issue: 'protocol' | 'self' | 'loop' | 'role' | 'volumes' | 'log' | 'group' | 'taken' | 'roles';
  readonly reason: string;
}

/** Whether the node can be the secondary of a link at all. `otherPeers`: the secondaries of the group's other links. */
export function judgePeer(
  own: Announcement,
  otherPeers: readonly { readonly linkName: string; readonly peerId: string }[],
  peer: PeerState,
): Refusal | undefined {
  if (peer.protocol !== own.protocol)
    return {
      issue: 'protocol',
      reason: `it speaks version ${peer.protocol} of the replication protocol, this node ${own.protocol}: run the same version of tidemark on both`,
    };
  if (peer.memberId === own.memberId)
    return { issue: 'self', reason: 'the link leads back to this node: give it the URI of another one' };
  if (own.path.includes(peer.memberId))
    return {
      issue: 'loop',
      reason: `the link leads to a node that feeds this one, so that the group would go round in a loop: give it the URI of another one`,
    };
  const other = otherPeers.find(({ peerId }) => peerId === peer.memberId);
  if (other !== undefined)
    return {
      issue: 'taken',
      reason: `link ${other.linkName} leads to the same copy of the group: remove one of the two`,
    };
  if (peer.role !== 'secondary')
    return {
      issue: 'role',
      reason: `group ${peer.name} there is a primary: it has to be created with --replica`,
    };
  return judgeVolumes(own, peer) ?? judgeOrigin(own, peer);
}

function judgeVolumes(own: Announcement, peer: PeerState): Refusal | undefined {
  const refuse = (reason: string, how = 'with the volumes of this group'): Refusal => ({
    issue: 'volumes',
    reason: `${reason}: create it there ${how}`,
  });
  if (peer.regionBytes !== own.regionBytes)
    return refuse(
      `its regions have ${peer.regionBytes} bytes, and have to have ${own.regionBytes}`,
      `with --region-size ${own.regionBytes}`,
    );
  // Records name volumes by their place, so that the order matters.
  for (let index = 0; index < Math.max(own.volumes.length, peer.volumes.length); index++) {
    const [here, there] = [own.volumes[index], peer.volumes[index]];
    if (here === undefined) return refuse(`it has a volume ${there?.name} more`);
    if (there === undefined) return refuse(`it lacks volume ${here.name}`);
    if (here.name !== there.name)
      return refuse(`its volume ${index + 1} is ${there.name}, and has to be ${here.name}`);
    if (here.sizeBytes !== there.sizeBytes)
      return refuse(
        `its volume ${here.name} has ${there.sizeBytes} bytes, and has to have ${here.sizeBytes}`,
      );
  }
  return undefined;
}

function judgeOrigin(own: Announcement, { name, origin, horizonLsn }: PeerState): Refusal | undefined {
  if (origin === null) return undefined;
  if (origin.groupId !== own.origin.groupId)
    return {
      issue: 'group',
      reason: `${name} there is a replica of another group: delete it there, and create it anew`,
    };
  if (origin.generation.id !== own.origin.generation.id)
    return diverged(
      `its log is of generation ${origin.generation.number}, and this one of ${own.origin.generation.number}`,
    );
  if (horizonLsn > own.durableLsn)
    return diverged(`it shows records up to LSN ${horizonLsn}, and this log ends at ${own.durableLsn}`);
  return undefined;
}

/** A batch that does not fit the secondary's ring would never get there. `leastBytes`: what its ring has to have. */
export function judgeLog(leastBytes: number, { logBytes }: PeerState): Refusal | undefined {
  if (logBytes >= leastBytes) return undefined;
  const reason = `its log has ${logBytes} bytes, too few for what this log has in one piece: create it there with --log-size ${leastBytes} or more`;
  return { issue: 'log', reason };
}

/** What is known here of the log where a secondary's ends. */
export interface LogFacts {
  /** From there on the log is kept, or can be. */
  readonly floorLsn: Lsn;
  readonly durableLsn: Lsn;
  /** Checksum of the batch before the secondary's end; undefined when no batch begins there, or it is not in the log any more. */
  readonly chain: number | undefined;
}

export type Verdict =
  /** The log is shipped from there on. */
  | { readonly kind: 'stream'; readonly fromLsn: Lsn }
  /** Its log begins anew in a round (rule K7). `lost`: it lacks what it had acknowledged, so that everything is marked; why. */
  | { readonly kind: 'restart'; readonly lost: string | undefined }
  | ({ readonly kind: 'refused' } & Refusal);

/** Where the log goes on for a secondary, after its hand-over. */
export function judgePosition(
  { position, peerId }: Pick<LinkRecord, 'position' | 'peerId'>,
  log: LogFacts,
  peer: PeerState,
): Verdict {
  const isKnown = peerId !== null;
  if (peer.origin === null) return restart(isKnown ? 'it is blank: what it had before is gone' : undefined);
  const { endLsn, endChain, horizonLsn } = peer;
  if (Math.max(endLsn, horizonLsn) > log.durableLsn)
    return diverged(
      `it has records up to LSN ${Math.max(endLsn, horizonLsn)}, and this log ends at ${log.durableLsn}`,
    );
  const isKept = endLsn >= log.floorLsn;
  if (isKept && log.chain !== endChain)
    return diverged(`its log and this one have different records before LSN ${endLsn}`);
  if (isKnown && peerId !== peer.memberId)
    return restart('it is another copy of the group than the one this link has fed so far');
  // Of one that this link never fed nothing is known but what the DCM was made with.
  if (!isKnown) return restart(undefined);
  if (isKept && position.logLsn !== null) return { kind: 'stream', fromLsn: endLsn };
  if (endLsn < position.baseLsn)
    return restart(
      `its log ends at LSN ${endLsn}, and it had acknowledged everything up to ${position.baseLsn}`,
    );
  return restart(undefined);
}

function restart(lost: string | undefined): Verdict {
  return { kind: 'restart', lost };
}

function diverged(what: string): { readonly kind: 'refused' } & Refusal {
  const reason = `diverged: ${what}: delete the replica there and create it anew to have it follow this group; what only it has goes with that`;
  return { kind: 'refused', issue: 'roles', reason };
}
