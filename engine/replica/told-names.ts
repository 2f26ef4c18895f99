/**
 * The names that the primary told at the hand-over (rule S4). A deletion is durable there without its record, which a crash may take: nothing in the log
 * says then that the snapshot is gone. So once all of the log is admitted that the list is of, what is older and not in the list loses its name here, and so
 * does what is of another image (K10).
 */
import type { GroupState } from '../group-state.ts';
import type { Announcement } from '../link/peer.ts';
import type { ControlEffects, Snapshot } from '../snapshot/control-effects.ts';
import type { Lsn } from '../units.ts';

/** Both count: one that is named under another id would not be found by what names it later. */
const identity = ({ id, imageId }: { readonly id: string; readonly imageId: string }): string =>
  `${id} ${imageId}`;

export class ToldNames {
  readonly #state: GroupState;
  readonly #effects: ControlEffects;
  #told: Announcement['named'] | undefined;

  constructor(state: GroupState, effects: ControlEffects) {
    this.#state = state;
    this.#effects = effects;
  }

  /** In place of what was told before. */
  note(told: Announcement['named']): void {
    this.#told = told;
  }

  /** Snapshots that the primary has no more, as far as that can be told at the horizon. */
  gone(horizonLsn: Lsn): readonly Snapshot[] {
    const told = this.#told;
    if (told === undefined || horizonLsn < told.lsn) return [];
    const there = new Set(told.snapshots.map(identity));
    const gone = this.#effects.named.filter((snapshot) => {
      const lsn = snapshot.kind === 'detached' ? (snapshot.refresh?.layer.lsn ?? snapshot.lsn) : snapshot.lsn;
      return !snapshot.local && lsn < told.lsn && !there.has(identity(snapshot));
    });
    if (gone.length === 0) this.#told = undefined;
    return gone;
  }

  /** Takes their names away, durably. All that is admitted is applied. In the lane. Rejects with `disk`, and they have them still. */
  async take(gone: readonly Snapshot[]): Promise<void> {
    const names = gone.map(({ name, recordedName }) => ({ name, recordedName }));
    for (const snapshot of gone) Object.assign(snapshot, { name: null, recordedName: null });
    try {
      await this.#state.writeRecord(this.#state.checkpointLsn);
    } catch (error) {
      for (const [index, snapshot] of gone.entries()) Object.assign(snapshot, names[index]);
      throw error;
    }
    for (const [index, { id }] of gone.entries()) {
      this.#effects.onGone(id, undefined);
      const name = names[index]?.name ?? id;
      const message = `snapshot ${name} is gone: its primary has it no more`;
      this.#state.emit({ type: 'snapshot.deleted', message, data: { snapshot: name } });
    }
  }
}
