import { assert } from '../../engine/errors.ts';
import { type Change, type Entry, Image, NEVER, settledChange } from './image.ts';
import type { Found } from './prefix.ts';

/** A snapshot as it has to look: an image of each volume, and which regions may differ from them. */
export class SnapshotModel {
  name: string;
  id: string | undefined;
  readonly images: Image[];
  issuedAt: number;
  takenAt = NEVER;
  /** What it is a refresh of: the maps of a detached one may reach back to that. */
  #instead: SnapshotModel | undefined;
  /** Its place in the order is not known yet: what happens now may be in it or not. */
  capturing = true;
  readonly undo: boolean;
  readonly local: boolean;
  /** It was asked to go, and nobody was told that it has. */
  leaving = false;
  /**
   * A disk refused to take its name away durably, and may have done so all the same: who comes next may find it so, unless the group's record was written
   * again. The checkpoint that the record before it had; a later one is in a record that was written since.
   */
  mayHaveLeftSince: number | undefined;
  /** It was asked to become a copy that stands for itself. */
  detachAsked = false;
  /** Where it was taken, as the group says. */
  lsn = 0;
  /** It was asked to change its name. */
  nameToBe: string | undefined;
  /** Stands for whatever the image was when it was taken. */
  readonly change: Change;
  /** Of each volume, what each cell may show with the changes that it is of; until the whole image was seen. */
  #origin: Entry[][][] | undefined;
  /** Of each volume, the regions that were written through it. */
  readonly #modified: Uint8Array[];
  /** When the regions of the volumes had been touched, when it was taken. */
  #touchedBefore: Int32Array[] = [];
  readonly #regionCells: number;

  constructor(
    name: string,
    issuedAt: number,
    volumes: readonly Image[],
    options: { regionCells: number; undo: boolean; local: boolean },
  ) {
    this.name = name;
    this.#regionCells = options.regionCells;
    this.issuedAt = issuedAt;
    this.undo = options.undo;
    this.local = options.local;
    this.change = settledChange(`taken as ${name}`, issuedAt);
    this.images = volumes.map((volume) => {
      const image = new Image(`${volume.name}@${name}`, 0, issuedAt);
      for (let cell = 0; cell < volume.cells.length; cell++)
        image.cells.push(volume.readable(cell).map((entry) => ({ ...entry, buried: false })));
      return image;
    });
    this.#modified = volumes.map((volume) => new Uint8Array(volume.cells.length));
  }

  image(volume: number): Image {
    const image = this.images[volume];
    assert(image !== undefined, 'the snapshot has every volume');
    return image;
  }

  /** It exists: its image is one of those that it may be, and stays that. */
  taken(id: string, now: number, touchedAt: readonly Int32Array[]): void {
    this.id = id;
    this.capturing = false;
    this.takenAt = now;
    this.change.endedAt = now;
    this.#touchedBefore = touchedAt.map((touched) => touched.slice());
    if (this.images.some((image) => image.cells.some((entries) => entries.length > 1)))
      this.#origin = this.images.map((image) => image.cells.map((entries) => [...entries]));
    for (const image of this.images) {
      image.unsettled = [];
      for (const [cell, entries] of image.cells.entries()) {
        const values = new Set(entries.map((entry) => entry.value));
        image.cells[cell] = [...values].map((value) => ({
          change: this.change,
          value,
          goneAt: NEVER,
          buried: false,
        }));
      }
    }
  }

  /** The operator has asked something of it that has not ended. */
  get isAsked(): boolean {
    return this.capturing || this.leaving || this.detachAsked || this.nameToBe !== undefined;
  }

  takeOrigin(): Entry[][][] | undefined {
    const origin = this.#origin;
    this.#origin = undefined;
    return origin;
  }

  found(volume: number, values: Int32Array): Found {
    const image = this.image(volume);
    return { image, values, entries: (cell) => image.entries(cell) };
  }

  /** Cells were written through it. */
  touch(volume: number, firstCell: number, cellCount: number): void {
    this.#modified[volume]?.fill(1, firstCell, firstCell + cellCount);
  }

  modified(volume: number, region: number): boolean {
    const start = region * this.#regionCells;
    return this.#modified[volume]?.subarray(start, start + this.#regionCells).includes(1) ?? false;
  }

  refreshOf(older: SnapshotModel): void {
    this.#instead = older;
  }

  get written(): boolean {
    return this.#modified.some((modified) => modified.includes(1));
  }

  /** Whether the region may differ from the volume's. `touchedAt`: of the volume, now. */
  mayDiffer(volume: number, region: number, touchedAt: Int32Array): boolean {
    return (touchedAt[region] ?? 0) >= this.issuedAt || this.modified(volume, region);
  }

  /** As `mayDiffer`, for maps that reach back to what it is a refresh of. */
  mayDifferLoosely(volume: number, region: number, touchedAt: Int32Array): boolean {
    if ((touchedAt[region] ?? 0) >= this.issuedAt || this.modified(volume, region)) return true;
    return this.#instead?.mayDifferLoosely(volume, region, touchedAt) ?? false;
  }

  /** Whether the region of the volume was touched between an older snapshot and this one. */
  touchedSince(older: SnapshotModel, volume: number, region: number): boolean {
    return (this.#touchedBefore[volume]?.[region] ?? NEVER) >= older.issuedAt;
  }
}
