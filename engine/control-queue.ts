/**
 * The control records of a group between the head of its log and the applier. Each has its effect at the head in the turn in which it joins the log, and is
 * carried out when the applier comes to it.
 */
import type { Condition } from './condition.ts';
import { type Control, decodeControl, encodeControl } from './control-record.ts';
import { EngineError } from './errors.ts';
import type { GroupState } from './group-state.ts';
import type { Applier } from './log/applier.ts';
import type { LogBatch } from './log/record.ts';
import type { ControlEffects } from './snapshot/control-effects.ts';

export class ControlQueue {
  readonly #state: GroupState;
  readonly #effects: ControlEffects;
  readonly #applier: Applier;
  readonly #changes: Condition;
  /** As they are carried out here; null: it does nothing here. Bounded by the log. */
  readonly #controls = new Map<LogBatch, Control | null>();
  /** What other members are to be told when there is room. No more than there were snapshots: taking one takes room, too. */
  #untold: Control[] = [];

  constructor(state: GroupState, effects: ControlEffects, applier: Applier, changes: Condition) {
    this.#state = state;
    this.#effects = effects;
    this.#applier = applier;
    this.#changes = changes;
  }

  /**
   * Logs a control record; it is durable with the log's next sync. Throws `unavailable` where the log has no room, and whatever keeps the log from taking
   * more.
   */
  append(control: Control): LogBatch {
    const batch = this.#state.log.appendControl(encodeControl(control));
    if (batch === undefined) {
      const what =
        'the log is full, also the room kept for this: wait until records are applied, or free space';
      throw new EngineError('unavailable', what, { errno: 'ENOSPC' });
    }
    this.#effects.append(control, batch.lsn);
    this.#enqueue(batch, control);
    return batch;
  }

  /** For other members, as soon as there is room: what it says holds here already, and without it. Lost in a crash, the next hand-over tells (rule S4). */
  tellMembers(control: Control): void {
    this.#untold.push(control);
    this.tellUntold();
  }

  /** Whether that waits for room. */
  get hasUntold(): boolean {
    return this.#untold.length > 0;
  }

  /** There may be room now. */
  tellUntold(): void {
    if (this.#state.log.failure !== undefined) return;
    try {
      while (this.#untold[0] !== undefined && this.#tell(this.#untold[0])) this.#untold.shift();
    } catch (error) {
      // A log that fails now has told so itself, and takes nothing back of what was done.
      if (!(error instanceof EngineError)) throw error;
    }
  }

  /** Whether there was room. Where nobody else is, none is waited for. */
  #tell(control: Control): boolean {
    const { log, links } = this.#state;
    const batch = log.appendControl(encodeControl(control));
    if (batch !== undefined) this.#enqueue(batch, control);
    return batch !== undefined || links.length === 0;
  }

  #enqueue(batch: LogBatch, control: Control): void {
    this.#controls.set(batch, control);
    this.#applier.enqueue(batch);
    this.#changes.changed();
  }

  /** A batch that is in the log already is part of what readers see from here on: `control` is what its record does here. */
  admit(batch: LogBatch, control: Control | null): void {
    if (control !== null) this.#effects.append(control, batch.lsn);
    this.#controls.set(batch, control);
    this.#applier.enqueue(batch);
  }

  /** One that was in the log when the group was opened, with its effect at the head. */
  recovered(batch: LogBatch, control: Control | null): void {
    this.#controls.set(batch, control);
  }

  /** The applier has come to it. Returns how to take back what it does. In the lane. */
  async prepare(batch: LogBatch): Promise<() => void> {
    const control = this.#controls.get(batch);
    if (control === undefined) throw new Error('bug: a control record reaches the applier through the queue');
    return control === null ? () => {} : await this.#effects.prepare(control);
  }

  applied(batch: LogBatch): void {
    this.#controls.delete(batch);
  }
}

/** What a control batch says. Throws `corrupt` where that cannot be. */
export function controlOf(state: GroupState, batch: LogBatch): Control {
  return decodeControl(batch.control ?? Buffer.alloc(0), (name) => {
    const volume = state.volumes.find((candidate) => candidate.name === name);
    return volume === undefined ? undefined : state.regionCount(volume);
  });
}
