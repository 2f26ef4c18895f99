/**
 * The data change map of a link, durably, a map of each volume: regions that its secondary lacks and that will not come through the log (rule K5).
 *
 * A bit is set in memory as its record is applied, and is durable before the checkpoint passes that record. It is cleared when the secondary has
 * acknowledged the region as durable, and nobody has marked it since the round began that sent it (rule K7). A bit too many costs a copy; one that is
 * missing is wrong data without a sign. So what is cleared may become durable at any time, and a damaged sector counts as all set.
 */
import type { GroupState, GroupVolume } from '../group-state.ts';
import { RegionMap, type RegionMapView, type RegionRun } from '../map/region-map.ts';
import { createMap, flushMap, type MapOnDisk, openMap } from '../snapshot/detached.ts';
import type { RegionIndex } from '../units.ts';

export function dcmName(linkId: string, volumeName: string): string {
  return `links/${linkId}/${volumeName}.dcm`;
}

export class Dcm {
  readonly #state: GroupState;
  readonly #linkId: string;
  /** By volume. */
  readonly #maps: readonly MapOnDisk[];
  /** By volume, while a round is under way: what was marked since it began. */
  #again: readonly RegionMap[] | undefined;

  private constructor(state: GroupState, linkId: string, maps: readonly MapOnDisk[]) {
    this.#state = state;
    this.#linkId = linkId;
    this.#maps = maps;
  }

  /** Makes the maps of a new link, durably. Throws `disk`, and leaves nothing open. */
  static async create(
    state: GroupState,
    linkId: string,
    marked: (volume: GroupVolume) => Iterable<RegionRun>,
  ): Promise<Dcm> {
    return await Dcm.#with(state, linkId, (name, volume) =>
      createMap(state, name, state.regionCount(volume), marked(volume)),
    );
  }

  /** Throws `not-found`, `corrupt`, `disk`, and leaves nothing open. */
  static async open(state: GroupState, linkId: string): Promise<Dcm> {
    return await Dcm.#with(state, linkId, (name, volume) => openMap(state, name, state.regionCount(volume)));
  }

  static async #with(
    state: GroupState,
    linkId: string,
    make: (name: string, volume: GroupVolume) => Promise<MapOnDisk>,
  ): Promise<Dcm> {
    const maps: MapOnDisk[] = [];
    try {
      for (const volume of state.volumes) maps.push(await make(dcmName(linkId, volume.name), volume));
    } catch (error) {
      for (const { disk } of maps) await disk.close();
      throw error;
    }
    return new Dcm(state, linkId, maps);
  }

  /** Regions marked, of all volumes. */
  get count(): number {
    return this.#maps.reduce((sum, { map }) => sum + map.view.count, 0);
  }

  get memoryBytes(): number {
    const again = this.#again?.reduce((sum, map) => sum + map.memoryBytes, 0) ?? 0;
    return this.#maps.reduce((sum, { map }) => sum + map.view.memoryBytes, again);
  }

  view(volumeIndex: number): RegionMapView {
    return this.#of(volumeIndex).map.view;
  }

  mark(volumeIndex: number, { first, end }: RegionRun): void {
    this.#of(volumeIndex).map.mark(first, end);
    this.#again?.[volumeIndex]?.setRange(first, end);
  }

  markAll(): void {
    for (const volume of this.#state.volumes)
      this.mark(volume.index, { first: 0, end: this.#state.regionCount(volume) });
  }

  /** What is marked now is sent by a round: copies of the maps, by volume. */
  beginRound(): readonly RegionMap[] {
    const newMaps = () => this.#state.volumes.map((volume) => new RegionMap(this.#state.regionCount(volume)));
    this.#again = newMaps();
    const copies = newMaps();
    copies.forEach((copy, index) => {
      for (const { first, end } of this.view(index).runs()) copy.setRange(first, end);
    });
    return copies;
  }

  endRound(): void {
    this.#again = undefined;
  }

  /** The secondary has these regions durably, as the round under way has them: they are cleared, but for those that were marked since it began. */
  sent(volumeIndex: number, regions: readonly RegionIndex[]): void {
    const again = this.#again?.[volumeIndex];
    const { map } = this.#of(volumeIndex);
    for (const region of regions) if (again?.has(region) !== true) map.unmark(region, region + 1);
  }

  /** Regions that the secondary has after all. */
  unmark(volumeIndex: number, run: RegionRun): void {
    this.#of(volumeIndex).map.unmark(run.first, run.end);
  }

  /** Makes the marks durable. Rejects with `disk`; they are tried again with the next flush then (rule L6). */
  async flush(): Promise<void> {
    for (const map of this.#maps) await flushMap(map);
  }

  async close(): Promise<void> {
    for (const { disk } of this.#maps) await disk.close();
  }

  /** Removes the files of a link that nothing names any more. It is closed. */
  async remove(): Promise<void> {
    for (const volume of this.#state.volumes)
      await this.#state.folder.remove(dcmName(this.#linkId, volume.name));
  }

  #of(volumeIndex: number): MapOnDisk {
    const map = this.#maps[volumeIndex];
    if (map === undefined) throw new Error('bug: a DCM has a map of every volume');
    return map;
  }
}
