/**
 * Whose log a link ships: what differs between a primary and a secondary that feeds others (rule K11; that one is `replica/cascade.ts`). Above all how a round of
 * a resync gets its image: a primary logs a record for it, a secondary may append nothing.
 */
import type { ControlQueue } from '../control-queue.ts';
import { minLogBytes } from '../group-spec.ts';
import type { GroupState } from '../group-state.ts';
import type { Layer } from '../snapshot/chain.ts';
import type { Snapshot } from '../snapshot/control-effects.ts';
import { KIB, type Lsn } from '../units.ts';
import type { LinkState } from './link-state.ts';
import type { LogRestart, ToldSnapshot } from './peer.ts';
import type { Shipping } from './shipping.ts';

/** Of a ring, what one batch leaves: pages that are kept free, and a batch that is not applied yet. */
export const RING_MARGIN_BYTES = 64 * KIB;

/** What a round copies from. */
export interface RoundImage {
  /** A batch ends there. The layer shows the group as of there. */
  readonly lsn: Lsn;
  /** It is needed until the round is over. */
  readonly layer: Layer;
  /** See `LogRestart`. */
  readonly snapshots: LogRestart['snapshots'];
  /** Else it is once the log is applied beyond `lsn`. */
  readonly isApplied: boolean;
}

export interface RoundRequest {
  readonly link: LinkState;
  readonly roundId: string;
  readonly shipping: Pick<Shipping, 'limit'>;
  /** The secondary may have the log up to there. */
  readonly leastLsn: () => Lsn;
  /** Whether somebody waits for the image still. */
  readonly isWanted: () => boolean;
}

export interface Feeder {
  /** Why no secondary is served at all, or undefined. */
  readonly noSession: string | undefined;
  /** Why no round can be made, or undefined. */
  readonly noRound: string | undefined;
  /** Why a round that is asked for has no image yet, or undefined; for people. */
  readonly holdUp: string | undefined;
  /** Ids of the members that feed this one, the nearest first. */
  readonly path: readonly string[];
  /** Of a secondary's ring, so that it takes whatever this log has (rule L7). */
  readonly leastRingBytes: number;
  /**
   * Takes the image of a round, and limits the shipping to where that is: nothing from there on is shipped before. Rejects with `RoundPostponed` when there is
   * none now, and with `unavailable` and `ENOSPC` where there is no room.
   */
  begin(request: RoundRequest): Promise<RoundImage>;
  /** The image of a verification, needed until somebody lets go of it: its record marks the place. Throws `unsupported`, and where there is no room. */
  verifyImage(link: LinkState, verifyId: string): Pick<RoundImage, 'lsn' | 'layer'>;
  /** The snapshots that all members have, of what is below `lsn`. */
  readonly named: { readonly lsn: Lsn; readonly snapshots: readonly ToldSnapshot[] };
}

/** There can be no round now; `noRound` or `noSession` say so, or will not any more. */
export class RoundPostponed extends Error {}

export interface PrimaryHost {
  readonly controls: ControlQueue;
  readonly snapshots: () => readonly Snapshot[];
  /** Throws why the group takes no changes. */
  readonly check: () => void;
}

/** A primary: nobody is above it, and its log is its own. */
export class PrimaryFeeder implements Feeder {
  readonly noSession = undefined;
  readonly noRound = undefined;
  readonly holdUp = undefined;
  readonly path: readonly string[] = [];
  readonly #state: GroupState;
  readonly #host: PrimaryHost;

  constructor(state: GroupState, host: PrimaryHost) {
    this.#state = state;
    this.#host = host;
  }

  /** The largest batch, and a little beside it; or a full restore record. */
  get leastRingBytes(): number {
    const { log, record } = this.#state;
    return Math.max(log.maxBatchBytes + RING_MARGIN_BYTES, minLogBytes(record.volumes, record.regionBytes));
  }

  /** The record and the limit come in one go. */
  async begin({ link, roundId, shipping }: RoundRequest): Promise<RoundImage> {
    // Of that point of the order: the record comes right behind them.
    const snapshots = namedOf(this.#host.snapshots());
    const { lsn, layer } = this.#image('round', roundId, link);
    shipping.limit(lsn);
    return { lsn, layer, snapshots, isApplied: false };
  }

  verifyImage(link: LinkState, verifyId: string): Pick<RoundImage, 'lsn' | 'layer'> {
    return this.#image('verify', verifyId, link);
  }

  get named(): Feeder['named'] {
    return { lsn: this.#state.log.endLsn, snapshots: namedOf(this.#host.snapshots()) };
  }

  /** Logs a record that makes a layer of no name. */
  #image(type: 'round' | 'verify', id: string, link: LinkState): Pick<RoundImage, 'lsn' | 'layer'> {
    const createdAt = new Date(this.#state.clock.nowMs()).toISOString();
    this.#host.check();
    const { lsn } = this.#host.controls.append({ type, id, linkId: link.id, createdAt });
    const layer = this.#state.chain.layers.find((candidate) => candidate.id === id);
    if (layer === undefined) throw new Error('bug: the record of an image makes a layer');
    layer.users++;
    // So that it is durable soon; what becomes of that the applier says.
    void this.#state.log.sync().catch(() => {});
    return { lsn, layer };
  }
}

/** What other members may have of these. */
export function namedOf(snapshots: readonly Snapshot[]): ToldSnapshot[] {
  return snapshots.flatMap((snapshot) => {
    const { id, imageId, name, local } = snapshot;
    if (local || name === null) return [];
    const detached = snapshot.kind === 'detached' || snapshot.toBeDetached || snapshot.detaching;
    return [{ id, imageId, name, detached }];
  });
}
