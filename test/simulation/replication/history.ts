/**
 * What has to hold, for several nodes: the state of the group after each of its changes, in their order, which is known here exactly: writes are made one
 * at a time, in a moment in which the log takes them at once, and a control record is seen at the head of the log before anything else is asked for.
 *
 * A secondary shows one of these states, and never an earlier one than it showed before (invariant 3).
 */
import { assert } from '../../../engine/errors.ts';
import { Violation } from '../image.ts';

/** The cells of all volumes. */
export type Cells = readonly Int32Array[];

export interface RecordedSnapshot {
  /** Of its image: a snapshot that is refreshed is another one here, also where its id stays. */
  readonly id: string;
  name: string;
  readonly local: boolean;
  /** It shows the state of that number. */
  readonly position: number;
  /** The primary's own writes through it, by volume and cell. */
  readonly own: Map<number, number>[];
  /** Regions of each volume that were ever written through it on the primary. */
  readonly modified: Set<number>[];
}

interface Change {
  readonly cells: Cells;
  /** Regions of each volume that it may have moved. */
  readonly touched: readonly ReadonlySet<number>[];
  readonly what: string;
  readonly atMs: number;
}

export class History {
  readonly regionCells: number;
  readonly snapshots = new Map<string, RecordedSnapshot>();
  readonly #nowMs: () => number;
  #changes: Change[];
  /** Below that number nothing may be lost, whatever happens to the primary. */
  durable = 0;

  constructor(cellCounts: readonly number[], regionCells: number, nowMs: () => number) {
    this.regionCells = regionCells;
    this.#nowMs = nowMs;
    const cells = cellCounts.map((count) => new Int32Array(count));
    this.#changes = [{ cells, touched: cells.map(() => new Set()), what: 'nothing was written', atMs: 0 }];
  }

  /** Number of the last state. */
  get now(): number {
    return this.#changes.length - 1;
  }

  state(number: number): Cells {
    const change = this.#changes[number];
    assert(change !== undefined, 'there is a state of that number');
    return change.cells;
  }

  what(number: number): string {
    return this.#changes[number]?.what ?? '';
  }

  write(volume: number, cell: number, values: Int32Array, what: string): void {
    const cells = [...this.state(this.now)];
    const own = Int32Array.from(cells[volume] ?? []);
    own.set(values, cell);
    cells[volume] = own;
    const first = Math.floor(cell / this.regionCells);
    const end = Math.ceil((cell + values.length) / this.regionCells);
    const regions = new Set(Array.from({ length: end - first }, (_, index) => first + index));
    const touched = cells.map((_, index) => (index === volume ? regions : new Set<number>()));
    this.#changes.push({ cells, touched, what, atMs: this.#nowMs() });
  }

  snapshot(id: string, name: string, local: boolean): RecordedSnapshot {
    const cells = this.state(this.now);
    const snapshot: RecordedSnapshot = {
      id,
      name,
      local,
      position: this.now,
      own: cells.map(() => new Map<number, number>()),
      modified: cells.map(() => new Set<number>()),
    };
    this.snapshots.set(id, snapshot);
    return snapshot;
  }

  /** What a snapshot shows of the group, without what was written through it. */
  image(snapshot: RecordedSnapshot): Cells {
    return this.state(snapshot.position);
  }

  /** With the primary's own writes. */
  imageWithOwn(snapshot: RecordedSnapshot): Cells {
    return this.image(snapshot).map((cells, volume) => {
      const own = snapshot.own[volume];
      if (own === undefined || own.size === 0) return cells;
      const all = Int32Array.from(cells);
      for (const [cell, value] of own) all[cell] = value;
      return all;
    });
  }

  restore(snapshot: RecordedSnapshot, volumes: readonly number[]): void {
    const image = this.imageWithOwn(snapshot);
    const cells = this.state(this.now).map((now, volume) =>
      volumes.includes(volume) ? (image[volume] ?? now) : now,
    );
    const since = this.touchedSince(snapshot.position);
    const touched = cells.map((_, volume) => {
      if (!volumes.includes(volume)) return new Set<number>();
      return new Set([...(since[volume] ?? []), ...(snapshot.modified[volume] ?? [])]);
    });
    this.#changes.push({ cells, touched, what: `restore of ${snapshot.name}`, atMs: this.#nowMs() });
  }

  /** Regions of each volume that changes after that number may have moved. */
  touchedSince(number: number): Set<number>[] {
    const all = this.state(0).map(() => new Set<number>());
    for (const { touched } of this.#changes.slice(number + 1))
      for (const [volume, regions] of touched.entries())
        for (const region of regions) all[volume]?.add(region);
    return all;
  }

  /** The primary was found to show this after a crash, and everything after it is lost. Throws where that may not be. */
  cutBack(found: Cells, killed: boolean): void {
    const least = killed ? this.now : this.durable;
    for (let number = this.now; number >= least; number--) {
      if (!same(this.state(number), found)) continue;
      this.#changes = this.#changes.slice(0, number + 1);
      return;
    }
    throw new Violation(
      '1, 2 (durable, prefix)',
      `after a crash the primary shows no state from ${least} (${this.what(least)}) to ${this.now}; ${this.nearest(found, least)}`,
    );
  }

  /** Number of the last state that was there by then. */
  thereBy(ms: number): number {
    return this.#changes.findLastIndex(({ atMs }) => atMs <= ms);
  }

  /** The first state from `from` on that is this. */
  find(found: Cells, from: number): number | undefined {
    for (let number = from; number <= this.now; number++) if (same(this.state(number), found)) return number;
    return undefined;
  }

  /** Whether each cell for itself is of some state from `from` to `to`: of what was read while it changed. */
  explains(found: Cells, from: number, to: number): { volume: number; cell: number } | undefined {
    for (const [volume, cells] of found.entries()) {
      for (let cell = 0; cell < cells.length; cell++) {
        let explained = false;
        for (let number = from; number <= to && !explained; number++)
          explained = this.state(number)[volume]?.[cell] === cells[cell];
        if (!explained) return { volume, cell };
      }
    }
    return undefined;
  }

  /** For people: which state it differs least from, and where. */
  nearest(found: Cells, from: number): string {
    let best = { count: Number.POSITIVE_INFINITY, text: '' };
    for (let number = from; number <= this.now; number++) {
      const differences: string[] = [];
      for (const [volume, cells] of this.state(number).entries())
        for (let cell = 0; cell < cells.length; cell++)
          if (cells[cell] !== found[volume]?.[cell])
            differences.push(`v${volume}:${cell} is ${found[volume]?.[cell]}, not ${cells[cell]}`);
      const text = `nearest is ${number} (${this.what(number)}): ${differences.slice(0, 4).join('; ')}`;
      if (differences.length < best.count) best = { count: differences.length, text };
    }
    return best.text;
  }
}

export function same(a: Cells, b: Cells): boolean {
  return a.every((cells, volume) => {
    const other = b[volume];
    return other !== undefined && cells.every((value, cell) => value === other[cell]);
  });
}
