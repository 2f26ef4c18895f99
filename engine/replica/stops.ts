/**
 * Where a secondary that feeds others is to stand for a moment (rule K11): its links' rounds get their images there, layers that no record of the log makes. What it
 * feeds may have more of the log than it has applied itself, so that such a place lies ahead, as a rule.
 */
import type { GroupState } from '../group-state.ts';
import { namedOf, type RoundImage, RoundPostponed, type RoundRequest } from '../link/feeder.ts';
import type { LinkState } from '../link/link-state.ts';
import type { ControlEffects } from '../snapshot/control-effects.ts';
import type { Lsn } from '../units.ts';
import { takeLayer } from './between-batches.ts';

export const RESYNCING = 'this node is being resynchronised itself';

interface Stop {
  readonly link: LinkState;
  readonly roundId: string;
  readonly lsn: Lsn;
  /** Whether somebody waits for it still. */
  readonly isWanted: () => boolean;
  readonly resolve: (image: RoundImage) => void;
  readonly reject: (why: Error) => void;
}

export class Stops {
  readonly #state: GroupState;
  readonly #effects: ControlEffects;
  /** One of a link at most. */
  #stops: Stop[] = [];

  constructor(state: GroupState, effects: ControlEffects) {
    this.#state = state;
    this.#effects = effects;
  }

  get isEmpty(): boolean {
    return this.#wanted.length === 0;
  }

  /** The next one; infinite when there is none. */
  get lsn(): Lsn {
    return Math.min(Number.POSITIVE_INFINITY, ...this.#wanted.map(({ lsn }) => lsn));
  }

  get #wanted(): readonly Stop[] {
    if (this.#stops.some((stop) => !stop.isWanted()))
      this.#stops = this.#stops.filter((stop) => stop.isWanted());
    return this.#stops;
  }

  /** What is admitted goes no further than `lsn` before the image there is taken. In the lane. */
  add({ link, roundId, isWanted }: RoundRequest, lsn: Lsn): Promise<RoundImage> {
    return new Promise((resolve, reject) => {
      this.#stops.push({ link, roundId, lsn, isWanted, resolve, reject });
    });
  }

  /**
   * Takes the images at `lsn`: all below it is in the volumes, the checkpoint is there, and nothing above it is applied. From there on everything comes through
   * the log, for the link, in the same durable write. In the lane. Rejects with `disk`, and may be tried again.
   */
  async take(lsn: Lsn): Promise<void> {
    for (const stop of this.#wanted.filter((each) => each.lsn === lsn)) {
      await stop.link.flush();
      const takeBack = stop.link.beginLog(stop.roundId, lsn);
      try {
        const layer = await takeLayer(this.#state, lsn, { name: null, users: 1 }, () => ({}));
        this.#stops = this.#stops.filter((each) => each !== stop);
        stop.resolve({ lsn, layer, snapshots: namedOf(this.#effects.named), isApplied: true });
      } catch (error) {
        takeBack();
        throw error;
      }
    }
  }

  /** There is nothing to wait for. */
  postpone(why: string): void {
    for (const stop of this.#stops.splice(0)) stop.reject(new RoundPostponed(why));
  }
}
