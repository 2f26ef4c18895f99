import { EngineError } from '../errors.ts';
import type { GroupState } from '../group-state.ts';
import type { Announcement } from '../link/peer.ts';

/** The session of the link that feeds this secondary: one at a time, by a number that grows. A newer one ends the one before. */
export class Session {
  readonly #state: GroupState;
  readonly #isClosing: () => boolean;
  #number = 0;
  #announced: Announcement | undefined;
  /** How many have begun. */
  handOvers = 0;

  constructor(state: GroupState, isClosing: () => boolean) {
    this.#state = state;
    this.#isClosing = isClosing;
  }

  /** Whether one is open. */
  get isOpen(): boolean {
    return this.#announced !== undefined;
  }

  /** Returns its number. */
  begin(announced: Announcement): number {
    this.#announced = announced;
    this.handOvers++;
    return ++this.#number;
  }

  /**
   * What a primary said a while ago may come when it has begun anew since, over another connection: its end of the log is an old one then. Throws
   * `unavailable`.
   */
  checkTimely({ handOvers }: Announcement): void {
    if (handOvers === undefined || handOvers === this.handOvers) return;
    throw new EngineError('unavailable', 'this hand-over comes late: there was another one in between');
  }

  /** Whether it was the one that is open. */
  end(session: number): boolean {
    if (session !== this.#number) return false;
    this.endAny();
    return true;
  }

  endAny(): void {
    this.#number++;
    this.#announced = undefined;
  }

  /** Whether there is nothing more to wait for. */
  isOver(session: number): boolean {
    return session !== this.#number || this.#isClosing();
  }

  /** What its primary announced. Throws `unavailable` when it is over, and as `checkOpen`. */
  check(session: number): Announcement {
    this.checkOpen();
    if (session === this.#number && this.#announced !== undefined) return this.#announced;
    throw new EngineError(
      'unavailable',
      'the session is over: a newer one has taken its place, or it has ended',
    );
  }

  /** Throws `unavailable` when the group closes, and the failure of the log. */
  checkOpen(): void {
    if (this.#isClosing())
      throw new EngineError('unavailable', 'the group is closing', { errno: 'ESHUTDOWN' });
    const { failure } = this.#state.log;
    if (failure !== undefined) throw failure;
  }
}
