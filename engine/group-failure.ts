/**
 * Why a group takes no more writes: its log has failed (rule L6), or something has happened that only a bug explains. Reads go on, and what is logged
 * stays there.
 */
import type { Condition } from './condition.ts';
import { EngineError } from './errors.ts';
import type { GroupState } from './group-state.ts';
import type { WritePath } from './log/write-path.ts';
import type { Volume } from './volume.ts';

export class GroupFailure {
  readonly #state: GroupState;
  readonly #path: WritePath;
  readonly #changes: Condition;
  #bug: string | undefined;

  constructor(state: GroupState, path: WritePath, changes: Condition) {
    this.#state = state;
    this.#path = path;
    this.#changes = changes;
  }

  /** Undefined while there is none. */
  get reason(): string | undefined {
    return this.#bug ?? this.#path.failure?.message;
  }

  logFailed(error: EngineError, volumes: Iterable<Volume>): void {
    const message = `group ${this.#state.record.name} takes no more writes: ${error.message}`;
    this.#path.fail(new EngineError('unavailable', message, { errno: 'EIO', cause: error }));
    this.#state.emit({ type: 'group.failed', message });
    for (const volume of volumes) volume.fail(error.message);
    this.#changes.changed();
  }

  /** What only a bug explains: nothing more is changed. */
  broke(error: unknown): void {
    const why = error instanceof Error ? (error.stack ?? error.message) : String(error);
    this.#bug = `group ${this.#state.record.name} stopped because of a bug: ${why}`;
    this.#path.fail(new EngineError('unavailable', this.#bug, { errno: 'EIO', cause: error }));
    this.#state.emit({ type: 'group.failed', message: this.#bug });
    this.#changes.changed();
  }
}
