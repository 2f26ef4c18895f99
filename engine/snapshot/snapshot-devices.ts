/** The devices of snapshots: one for each snapshot and volume, which all sessions of it share, and which stays theirs through a refresh. */
import type { GroupState, GroupVolume } from '../group-state.ts';
import type { Lsn } from '../units.ts';
import type { ControlEffects, Snapshot } from './control-effects.ts';
import { SnapshotVolume } from './snapshot-volume.ts';

interface ServedDevice {
  readonly device: SnapshotVolume;
  /** A refresh changes the id of a snapshot in the chain. */
  readonly snapshot: { id: string };
}

export class SnapshotDevices {
  readonly #state: GroupState;
  readonly #effects: ControlEffects;
  /** Resolves once the log is applied beyond the position. */
  readonly #applied: (lsn: Lsn) => Promise<void>;
  /** By snapshot id and volume name. */
  readonly #served = new Map<string, ServedDevice>();
  #closed = false;

  constructor(state: GroupState, effects: ControlEffects, applied: (lsn: Lsn) => Promise<void>) {
    this.#state = state;
    this.#effects = effects;
    this.#applied = applied;
    effects.onGone = (id, successor) => {
      for (const volume of state.volumes) this.#follow(`${id}/${volume.name}`, volume.name, successor);
    };
  }

  /** Who has a snapshot open keeps it open through a refresh. */
  #follow(key: string, volumeName: string, successor: string | undefined): void {
    const served = this.#served.get(key);
    this.#served.delete(key);
    if (served === undefined || successor === undefined) return;
    served.snapshot.id = successor;
    this.#served.set(`${successor}/${volumeName}`, served);
  }

  /** The device of a volume as a snapshot shows it. */
  of(snapshot: Snapshot, volume: GroupVolume): SnapshotVolume {
    const key = `${snapshot.id}/${volume.name}`;
    const served = this.#served.get(key);
    if (served !== undefined) return served.device;
    const identity = { id: snapshot.id };
    const label = `snapshot ${snapshot.name ?? snapshot.id} of volume ${volume.name}`;
    const find = () => {
      const found = this.#closed ? undefined : this.#effects.byId(identity.id);
      return found?.name == null ? undefined : found;
    };
    const device = new SnapshotVolume(this.#state, volume, label, { find, applied: this.#applied });
    this.#served.set(key, { device, snapshot: identity });
    return device;
  }

  /** No snapshot is written from here on; what was is durable when it resolves. Reads under way have ended then. */
  async close(): Promise<void> {
    this.#closed = true;
    // Whoever is in the lane now is the last one to write.
    await this.#state.lane(async () => {});
    await this.#state.readers.drained();
    for (const snapshot of this.#effects.named)
      for (const part of snapshot.parts) await part.modified?.sync();
  }
}
