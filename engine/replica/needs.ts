/**
 * The regions that a secondary needs and that will not come through its log (rule K10): it asks for them at every hand-over until it has them. A map a
 * volume, `replica/VOLUME.needs`; the group's record says which of these files count.
 */
import type { GroupState, GroupVolume } from '../group-state.ts';
import type { RegionRun } from '../map/region-map.ts';
import { changeMap, createMap, type MapOnDisk, openMap } from '../snapshot/detached.ts';
import type { RegionIndex } from '../units.ts';
import { replicaOf } from './replica-record.ts';

const needsName = (volume: GroupVolume): string => `replica/${volume.name}.needs`;

export class Needs {
  readonly #state: GroupState;
  /** By number of the volume. */
  readonly #maps = new Map<number, MapOnDisk>();

  private constructor(state: GroupState) {
    this.#state = state;
  }

  /** A sector of a map that is damaged counts as needed. Throws `not-found`, `corrupt`, `disk`. */
  static async open(state: GroupState): Promise<Needs> {
    const needs = new Needs(state);
    const names = replicaOf(state).needs.volumes;
    try {
      for (const volume of state.volumes) {
        if (!names.includes(volume.name)) continue;
        needs.#maps.set(volume.index, await openMap(state, needsName(volume), state.regionCount(volume)));
      }
    } catch (error) {
      await needs.close();
      throw error;
    }
    return needs;
  }

  /** Regions that are still to come. */
  get count(): number {
    let count = 0;
    for (const { map } of this.#maps.values()) count += map.view.count;
    return count;
  }

  /** Names of the volumes that have a map: what the record has to say. */
  get volumes(): string[] {
    return this.#state.volumes.filter(({ index }) => this.#maps.has(index)).map((volume) => volume.name);
  }

  /** From region `from` on, so many runs at most. */
  runs(volume: GroupVolume, from: RegionIndex, most: number): RegionRun[] {
    const runs: RegionRun[] = [];
    for (const run of this.#maps.get(volume.index)?.map.view.runs(from) ?? []) {
      if (runs.length >= most) break;
      runs.push(run);
    }
    return runs;
  }

  /** More regions, durably; a map that the record does not name yet counts once it does. When this rejects it is done again. In the lane. */
  async add(volume: GroupVolume, runs: readonly RegionRun[]): Promise<void> {
    const found = this.#maps.get(volume.index);
    if (found !== undefined) {
      await changeMap(found.disk, () => found.map.setRuns(runs));
      return;
    }
    const map = await createMap(this.#state, needsName(volume), this.#state.regionCount(volume), runs);
    this.#maps.set(volume.index, map);
  }

  /** These have come, durably. In the lane. */
  async clear(volume: GroupVolume, regions: readonly RegionIndex[]): Promise<void> {
    const found = this.#maps.get(volume.index);
    if (found !== undefined) await changeMap(found.disk, () => found.map.clear(regions));
  }

  /** The record names none any more: they go. */
  async forget(): Promise<void> {
    await this.close();
    // What stays behind is named by nothing, and made anew before it counts.
    for (const volume of this.#state.volumes)
      await this.#state.folder.remove(needsName(volume)).catch(() => {});
  }

  async close(): Promise<void> {
    for (const { disk } of this.#maps.values()) await disk.close();
    this.#maps.clear();
  }
}
