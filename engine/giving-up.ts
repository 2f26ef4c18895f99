/** Gives up snapshots when a disk is full, where the group's policy says so (rule S8). */
import type { Background } from './background.ts';
import type { Condition } from './condition.ts';
import type { GroupState } from './group-state.ts';
import type { Snapshots } from './snapshots.ts';

export class GivingUp {
  readonly #state: GroupState;
  readonly #snapshots: Snapshots;
  readonly #background: Background;
  readonly #changes: Condition;
  #underWay = false;

  constructor(state: GroupState, snapshots: Snapshots, background: Background, changes: Condition) {
    this.#state = state;
    this.#snapshots = snapshots;
    this.#background = background;
    this.#changes = changes;
  }

  /** The applier waits for the background then, which must not wait for the applier meanwhile. */
  get isUnderWay(): boolean {
    return this.#underWay;
  }

  /** Gives one up, and has its space freed. Resolves with whether space was made. Rejects with what a deletion may. */
  async one(): Promise<boolean> {
    if (this.#state.record.onFull === 'hold') return false;
    this.#underWay = true;
    this.#changes.changed();
    try {
      if (!(await this.#snapshots.giveUpOne())) return false;
      await this.#background.idle();
      return true;
    } finally {
      this.#underWay = false;
      this.#background.poke();
    }
  }
}
