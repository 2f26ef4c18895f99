/**
 * What a primary and a secondary say to each other, as an interface: the primary's link calls a `PeerSession`, and the secondary's group answers as a
 * `ReplicaPort`. Between the two lies NBD (`server/replication`), or a simulated network. `docs/replication-protocol.md` has the meaning and the bytes.
 *
 * Every call of a session rejects with `EngineError`: `unavailable` when the connection is gone or a newer session has taken over, `in-use` with
 * `ENOSPC` when the secondary has no room now, and whatever else the secondary says.
 */
import type { RegionRun } from '../map/region-map.ts';
import type { Lsn, RegionIndex } from '../units.ts';

/** Of this description of what is said. Another one is refused by name at the hand-over. */
export const REPLICATION_PROTOCOL = 1;

/** Members above one another at most. */
export const MAX_PATH = 16;

export interface PeerVolume {
  readonly name: string;
  readonly sizeBytes: number;
}

/** Whose log it is. A secondary that has never met a primary has none. */
export interface LogOrigin {
  /** UUID of the group, the same on all members. */
  readonly groupId: string;
  readonly generation: { readonly number: number; readonly id: string; readonly firstLsn: Lsn };
}

/** A snapshot of the primary that is not local, as it stands at an LSN. */
export interface ToldSnapshot {
  readonly id: string;
  /** Another one after each refresh, also where the id stays. */
  readonly imageId: string;
  readonly name: string;
  /** It is detached, or being detached. */
  readonly detached: boolean;
}

/** What a primary says at the hand-over (rule K2). */
export interface Announcement {
  readonly protocol: number;
  readonly origin: LogOrigin;
  readonly linkId: string;
  readonly linkName: string;
  /** UUID of the primary's copy of the group. */
  readonly memberId: string;
  /** UUIDs of the members that feed the primary in their turn, where it is a secondary of another (rule K11), the nearest first; `MAX_PATH` at most. */
  readonly path: readonly string[];
  readonly regionBytes: number;
  /** In the order of the primary's record: records of the log name them by their place. */
  readonly volumes: readonly PeerVolume[];
  /** Up to where the primary's log is durable: what the secondary has beyond it never was. */
  readonly durableLsn: Lsn;
  /**
   * All of its named snapshots that are not local, as of `lsn`. Of others that are older the secondary takes the name away once it has come there: the
   * record of a deletion may have been lost (rule S4).
   */
  readonly named: { readonly lsn: Lsn; readonly snapshots: readonly ToldSnapshot[] };
  /** `PeerState.handOvers`, as the secondary said it just before. One that comes late, when there was another in between, is refused. */
  readonly handOvers?: number;
}

/** What a secondary says of itself. Asked for at the hand-over, and again and again while the link is up. */
export interface PeerState {
  readonly protocol: number;
  readonly memberId: string;
  readonly role: 'primary' | 'secondary';
  readonly name: string;
  /** How many hand-overs its process has taken. */
  readonly handOvers: number;
  /** null: it never met a primary. */
  readonly origin: LogOrigin | null;
  readonly regionBytes: number;
  readonly volumes: readonly PeerVolume[];
  /** Size of its ring: it takes no more than that at once, and less while what is in it is not applied. */
  readonly logBytes: number;
  /** Where its log ends, the checksum of the last batch there, and up to where that is durable. */
  readonly endLsn: Lsn;
  readonly endChain: number;
  readonly durableLsn: Lsn;
  /** Up to where records are in what it shows; and may be, after a crash (rule K12). */
  readonly appliedLsn: Lsn;
  readonly horizonLsn: Lsn;
  /** It stands there for a round, and takes regions (rule K7). */
  readonly holding: { readonly roundId: string; readonly lsn: Lsn } | null;
  /** Regions came, or are to come, out of order: it shows its guard snapshot, or nothing (rule K9). */
  readonly resyncing: boolean;
  /** Grows each time the secondary finds that it needs regions that are not in the log (rule K10); 0: it needs none. See `PeerSession.needs`. */
  readonly needs: number;
  /** Whether the last restore of the whole group that it applied was by reference, and of which record: its LSN ([0072]). */
  readonly restoredByReferenceLsn: Lsn | null;
  /** It has no room for a guard, as it was seen last: regions that come out of order would have to wait (rule K9, [0079]). */
  readonly isShort: boolean;
  /** Why it does not apply what it has, or null: frozen, delayed, stalled. */
  readonly heldBack: string | null;
  readonly snapshots: readonly {
    readonly id: string;
    readonly imageId: string;
    readonly name: string;
    readonly lsn: Lsn;
  }[];
  /** The verification that it has begun with this primary, if any. */
  readonly verifying?: PeerVerification;
}

/** Where a secondary stands with a verification. */
export interface PeerVerification {
  readonly id: string;
  /** Its image is there, at that LSN; null: the record has not come, or is not part of what it shows yet. */
  readonly lsn: Lsn | null;
  /** Why there will be none: its record came while it was being resynchronised. */
  readonly refused: string | null;
}

/** Of a region, in a verification: the first bytes of the SHA-256 of its content; all zeroes for one that reads as zeroes. */
export const CHECKSUM_BYTES = 16;
/** Checksums in one call at most; and regions that one call tells the content of. */
export const MAX_CHECKSUMS = 1024;
export const MAX_CONTENT_REGIONS = 32_768;

/** Where a log goes on that does not follow what the secondary has. */
export interface LogRestart {
  readonly lsn: Lsn;
  /** Checksum of the batch before it. */
  readonly chain: number;
  /**
   * The named snapshots of the primary that are not local, as of there: of others, and of those of which it has another image, the secondary takes the name
   * away (rules S4, K10).
   */
  readonly snapshots: readonly ToldSnapshot[];
}

/** The content of one region, whole. `bytes` undefined: it reads as zeroes. */
export interface RegionContent {
  readonly region: RegionIndex;
  readonly bytes: Buffer | undefined;
}

/** One connection of a link, on the primary. Calls may overlap; appends and regions arrive in the order of the calls. */
export interface PeerSession {
  /** Resolves with the reason when the connection is over, whoever ended it. Never rejects. */
  readonly closed: Promise<string>;
  state(): Promise<PeerState>;
  /** The hand-over: ends older sessions of the group, waits for their writes, and cuts the secondary's log as K2 has it. All below is refused before. */
  begin(announcement: Announcement): Promise<PeerState>;
  /** The log goes on at another place: rule K7. Everything that it had below was applied, or is given up. */
  restart(restart: LogRestart): Promise<void>;
  /** Whole batches of the log, as they lie on the primary's disk, that begin at `lsn`, where the secondary's log ends. Resolves when they are received. */
  append(lsn: Lsn, bytes: Buffer): Promise<void>;
  /** What was appended before the call is durable there when it resolves. */
  sync(): Promise<void>;
  /** The secondary is to apply up to `lsn`, and hold there for the round. To be called before anything from `lsn` on is appended. */
  hold(roundId: string, lsn: Lsn): Promise<void>;
  /** Regions of a volume, as the image at the round's LSN has them. Only while it is `holding` that round (rule K8). */
  writeRegions(roundId: string, volume: string, regions: readonly RegionContent[]): Promise<void>;
  /** All regions written before the call are durable there when it resolves. */
  syncRegions(roundId: string): Promise<void>;
  /** The round is over. `complete`: nothing is left to be sent, so that it is consistent where it holds. */
  release(roundId: string, complete: boolean): Promise<void>;
  /** Regions of a volume that the secondary needs (rule K10). */
  needs(volume: string): Promise<readonly RegionRun[]>;
  /** From here on the record of that verification makes an image there, until `endVerify` or the end of the session. One at a time: it ends the one before. */
  beginVerify(verifyId: string): Promise<void>;
  /** Regions from `first` up to `end` of which the image of the secondary has something, or may; the others read as zeroes. At most `MAX_CONTENT_REGIONS`. */
  content(
    verifyId: string,
    volume: string,
    first: RegionIndex,
    end: RegionIndex,
  ): Promise<readonly RegionRun[]>;
  /** `CHECKSUM_BYTES` for each region from `first` up to `end` of that image. At most `MAX_CHECKSUMS`. */
  checksums(verifyId: string, volume: string, first: RegionIndex, end: RegionIndex): Promise<Buffer>;
  endVerify(verifyId: string): Promise<void>;
  close(): void;
}

/** The same on the secondary. `begin` gives the number of the session, by which the calls after it are told from those of older ones. */
export interface ReplicaPort {
  state(): PeerState;
  begin(announcement: Announcement): Promise<{ readonly session: number; readonly state: PeerState }>;
  restart(session: number, restart: LogRestart): Promise<void>;
  append(session: number, lsn: Lsn, bytes: Buffer): Promise<void>;
  sync(session: number): Promise<void>;
  hold(session: number, roundId: string, lsn: Lsn): Promise<void>;
  writeRegions(
    session: number,
    roundId: string,
    volume: string,
    regions: readonly RegionContent[],
  ): Promise<void>;
  syncRegions(session: number, roundId: string): Promise<void>;
  release(session: number, roundId: string, complete: boolean): Promise<void>;
  /** From region `from` on, so many runs at most; all of them unless told. */
  needs(session: number, volume: string, from?: RegionIndex, most?: number): readonly RegionRun[];
  beginVerify(session: number, verifyId: string): Promise<void>;
  content(
    session: number,
    verifyId: string,
    volume: string,
    first: RegionIndex,
    end: RegionIndex,
  ): Promise<readonly RegionRun[]>;
  checksums(
    session: number,
    verifyId: string,
    volume: string,
    first: RegionIndex,
    end: RegionIndex,
  ): Promise<Buffer>;
  endVerify(session: number, verifyId: string): Promise<void>;
  /** The connection of the session is over. */
  ended(session: number, reason: string): void;
}

/** Opens connections to secondaries. The server's are NBD. */
export interface PeerConnector {
  /** Rejects with `unavailable`, and with what the far side said. */
  connect(uri: string, groupName: string, linkId: string): Promise<PeerSession>;
}
