/**
 * What has to hold: a plain model of a group, fed with what clients ask for and are told. It knows nothing of logs, layers or maps.
 *
 * A change of a volume that both began and ended while the group logged is *logged*: it has a place in the group's one order (invariant 2). One of
 * direct mode has none, and what was not flushed may be lost sector by sector (invariant 1).
 */
import { assert } from '../../engine/errors.ts';
import { cellValue } from './cells.ts';
import { type Change, type Entry, Image, NEVER, type Span, settledChange } from './image.ts';
import { checkPrefix, type Found } from './prefix.ts';
import { SnapshotModel } from './snapshot-model.ts';

export type Mode = 'direct' | 'logged';
/** `log lost`: it was killed, and a sync of the log failed before that or at the start after it: what was logged and not flushed may be lost, page cache or not. */
export type Death = 'killed' | 'log lost' | 'power cut';

/** Whether a change that was acknowledged is there after that. */
function survives(change: Change, death: Death): boolean {
  if (death === 'killed') return true;
  if (death === 'log lost') return change.durable || !change.logged;
  return change.durable && change.logged;
}

const AFTER: Readonly<Record<Death, string>> = {
  killed: 'after the kill',
  'log lost': 'after a kill and a failed sync of the log',
  'power cut': 'after the power cut',
};

/** A longer request may be cut into several records, each of which is there whole or not at all (rule L8). */
const WHOLE_CELLS = 128;

export interface Reader {
  readonly startedAt: number;
}

export interface Request {
  readonly changes: readonly Change[];
}

export class Model {
  /** Events so far: the time. */
  now = 0;
  readonly volumes: Image[];
  readonly regionCells: number;
  snapshots: SnapshotModel[] = [];
  /** Changes that anybody has asked for so far. */
  begun = 0;
  /** When each region of each volume was last touched. */
  readonly touchedAt: Int32Array[];
  /** Everything of the log that ended before that is durable. */
  durableUpTo = 0;
  #mode: Mode = 'direct';
  #epoch = 0;
  /** The process has died, and what it left has not been looked at. */
  #dead = false;
  readonly #epochs = new Map<Change, number>();
  readonly #readers = new Set<Reader>();
  #requests = 0;

  constructor(cellCounts: readonly number[], regionCells: number) {
    this.regionCells = regionCells;
    this.volumes = cellCounts.map((count, index) => new Image(`v${index}`, count, 0));
    this.touchedAt = cellCounts.map((count) => new Int32Array(Math.ceil(count / regionCells)));
  }

  volume(index: number): Image {
    const image = this.volumes[index];
    assert(image !== undefined, 'the volume exists');
    return image;
  }

  get mode(): Mode {
    return this.#mode;
  }

  /** Where the cells of a volume begin among those of all. */
  place(volume: number): number {
    let place = 0;
    for (let index = 0; index < volume; index++) place += this.volume(index).cells.length;
    return place;
  }

  nextRequest(): number {
    return ++this.#requests;
  }

  /** To be called whenever anything has happened, and before its outcome is told. */
  observe(mode: Mode): void {
    if (mode === this.#mode) return;
    this.#mode = mode;
    this.#epoch++;
    // Direct mode is entered with an empty log: all of it is in the volumes, for good (rule L4).
    if (mode === 'direct' && !this.#dead) this.#makeDurable((change) => change.logged && change.acknowledged);
  }

  reader(): Reader {
    const reader = { startedAt: ++this.now };
    this.#readers.add(reader);
    return reader;
  }

  /** The reader has what it read. */
  endReader(reader: Reader): void {
    this.now++;
    this.#readers.delete(reader);
  }

  get #oldestReader(): number {
    let oldest = NEVER;
    for (const reader of this.#readers) oldest = Math.min(oldest, reader.startedAt);
    return oldest === NEVER ? this.now : oldest;
  }

  /** A request to a volume begins; `request` 0 zeroes. */
  beginWrite(label: string, volume: number, firstCell: number, cellCount: number, request: number): Request {
    this.now++;
    const image = this.volume(volume);
    const step = cellCount > WHOLE_CELLS ? this.regionCells : cellCount;
    const changes: Change[] = [];
    const place = this.place(volume);
    for (let first = firstCell; first < firstCell + cellCount; first += step) {
      const span = { image, firstCell: first, endCell: Math.min(first + step, firstCell + cellCount) };
      const change = this.#newChange(label, [span]);
      changes.push(change);
      for (let cell = first; cell < span.endCell; cell++)
        this.#begin(volume, change, cell, request === 0 ? 0 : cellValue(request, place + cell));
    }
    this.#touch(changes);
    return { changes };
  }

  /** A request to a volume through a snapshot. */
  beginSnapshotWrite(
    label: string,
    snapshot: SnapshotModel,
    volume: number,
    firstCell: number,
    cellCount: number,
    request: number,
  ): Request {
    this.now++;
    const image = snapshot.image(volume);
    const change = this.#newChange(label, [{ image, firstCell, endCell: firstCell + cellCount }]);
    const place = this.place(volume);
    for (let cell = firstCell; cell < firstCell + cellCount; cell++)
      image.begin(change, cell, request === 0 ? 0 : cellValue(request, place + cell));
    snapshot.touch(volume, firstCell, cellCount);
    return { changes: [change] };
  }

  #newChange(label: string, spans: Span[]): Change {
    const change: Change = {
      label,
      spans,
      issuedAt: this.now,
      endedAt: NEVER,
      acknowledged: false,
      logged: false,
      durable: false,
    };
    for (const span of spans) span.image.unsettled.push(change);
    this.#epochs.set(change, this.#epoch);
    this.begun++;
    return change;
  }

  #begin(volume: number, change: Change, cell: number, value: number): void {
    this.volume(volume).begin(change, cell, value);
    for (const snapshot of this.snapshots) {
      if (snapshot.capturing) snapshot.image(volume).begin(change, cell, value);
    }
  }

  #touch(changes: readonly Change[]): void {
    for (const change of changes) {
      for (const span of change.spans) {
        const touched = this.touchedAt[this.volumes.indexOf(span.image)];
        const end = Math.ceil(span.endCell / this.regionCells);
        touched?.fill(this.now, Math.floor(span.firstCell / this.regionCells), end);
      }
    }
  }

  endRequest(request: Request, acknowledged: boolean): void {
    this.now++;
    for (const change of request.changes) this.#end(change, acknowledged);
    this.#touch(request.changes);
  }

  #end(change: Change, acknowledged: boolean): void {
    change.endedAt = this.now;
    change.acknowledged = acknowledged;
    this.#decideLogged(change);
    if (!acknowledged) return;
    for (const span of change.spans) span.image.supersede(change, span, this.now);
  }

  #decideLogged(change: Change): void {
    const ofVolume = change.spans.some((span) => this.volumes.includes(span.image));
    change.logged = ofVolume && this.#mode === 'logged' && this.#epochs.get(change) === this.#epoch;
    this.#epochs.delete(change);
  }

  /** A flush of that image that began at `startedAt` was acknowledged. */
  flushed(image: Image, startedAt: number): void {
    this.now++;
    const shared = this.#mode === 'logged' && this.volumes.includes(image);
    this.#makeDurable(
      (change) =>
        change.acknowledged &&
        change.endedAt < startedAt &&
        (change.spans.some((span) => span.image === image) || (shared && change.logged)),
    );
    if (shared) this.durableUpTo = Math.max(this.durableUpTo, startedAt);
  }

  /** Something at that place in the order of the log is durable, and so is all before it. */
  #durableBefore(time: number): void {
    this.#makeDurable((change) => change.acknowledged && change.endedAt < time && this.#ofVolumes(change));
    this.durableUpTo = Math.max(this.durableUpTo, time);
  }

  #ofVolumes(change: Change): boolean {
    return change.spans.some((span) => this.volumes.includes(span.image));
  }

  #makeDurable(which: (change: Change) => boolean): void {
    for (const image of this.#images()) {
      if (image.unsettled.length === 0) continue;
      image.unsettled = image.unsettled.filter((change) => {
        if (!change.durable && !which(change)) return true;
        change.durable = true;
        for (const span of change.spans) {
          if (span.image === image) image.bury(change, span, this.#oldestReader);
        }
        return false;
      });
    }
  }

  #images(): Image[] {
    return [...this.volumes, ...this.snapshots.flatMap((snapshot) => snapshot.images)];
  }

  // Snapshots.

  /** A snapshot record is asked for: its place in the order lies between now and its acknowledgement. */
  beginSnapshot(
    name: string,
    options: { undo?: boolean; local?: boolean; instead?: SnapshotModel } = {},
  ): SnapshotModel {
    this.now++;
    const snapshot = new SnapshotModel(name, this.now, this.volumes, {
      regionCells: this.regionCells,
      undo: options.undo ?? false,
      local: options.local ?? false,
    });
    if (options.instead !== undefined) snapshot.refreshOf(options.instead);
    this.snapshots.push(snapshot);
    return snapshot;
  }

  snapshotTaken(snapshot: SnapshotModel, id: string): void {
    this.now++;
    // What is under way may land on either side of it.
    this.#touch([...this.#epochs.keys()]);
    snapshot.taken(id, this.now, this.touchedAt);
    this.#durableBefore(snapshot.issuedAt);
  }

  forget(snapshot: SnapshotModel): void {
    this.snapshots = this.snapshots.filter((other) => other !== snapshot);
  }

  find(name: string): SnapshotModel | undefined {
    return this.snapshots.find((snapshot) => snapshot.name === name && !snapshot.capturing);
  }

  /** A restore is asked for: a change of all cells of its volumes, to what the snapshot shows. */
  beginRestore(snapshot: SnapshotModel, volumes: readonly number[]): Request {
    this.now++;
    const spans = volumes.map((volume) => {
      const image = this.volume(volume);
      return { image, firstCell: 0, endCell: image.cells.length };
    });
    const change = this.#newChange(`restore of ${snapshot.name}`, spans);
    for (const volume of volumes) {
      const source = snapshot.image(volume);
      for (let cell = 0; cell < source.cells.length; cell++) {
        for (const entry of source.entries(cell)) {
          if (entry.goneAt === NEVER) this.volume(volume).begin(change, cell, entry.value);
          // Until the restore is acknowledged a crash may take from its source what was not flushed.
          else if (!entry.buried)
            this.volume(volume)
              .entries(cell)
              .push({ ...entry, change, goneAt: 0 });
        }
      }
      this.#touchRestored(snapshot, volume);
    }
    return { changes: [change] };
  }

  #touchRestored(snapshot: SnapshotModel, volume: number): void {
    const touched = this.touchedAt[volume];
    if (touched === undefined) return;
    for (let region = 0; region < touched.length; region++) {
      if (snapshot.mayDiffer(volume, region, touched)) touched[region] = this.now;
    }
  }

  /** Its record is durable, and it shows. */
  restored(request: Request, snapshot: SnapshotModel, volumes: readonly number[]): void {
    this.now++;
    for (const volume of volumes) this.#touchRestored(snapshot, volume);
    for (const change of request.changes) {
      this.#end(change, true);
      for (const span of change.spans) span.image.buryUnseen(change);
      this.#durableBefore(change.issuedAt);
      this.#makeDurable((other) => other === change);
    }
  }

  // Crashes.

  /** The group was closed, which makes everything durable that was acknowledged. */
  closed(): void {
    this.now++;
    this.#makeDurable((change) => change.acknowledged);
    this.durableUpTo = this.now;
  }

  /** The process is gone. What was under way may have happened, and nobody was told. */
  died(): void {
    this.now++;
    this.#touch([...this.#epochs.keys()]);
    for (const change of [...this.#epochs.keys()]) {
      change.endedAt = this.now;
      change.acknowledged = false;
      this.#decideLogged(change);
    }
    this.#readers.clear();
    // How the next process begins says nothing about how this one ended.
    this.#mode = 'direct';
    this.#epoch++;
    this.#dead = true;
  }

  /**
   * The group is open again, and shows this. `death` says what had happened; after a `power cut` what is there now is there for good. `snapshots`: those
   * that exist, in the same order as their images were found.
   */
  recovered(death: Death, volumes: readonly Int32Array[], mode: Mode): void {
    this.now++;
    let beganAt = this.durableUpTo;
    for (const snapshot of this.snapshots) beganAt = Math.max(beganAt, snapshot.issuedAt);
    const found = volumes.map((values, index): Found => {
      const image = this.volume(index);
      return { image, values, entries: (cell) => image.entries(cell) };
    });
    const seen = checkPrefix(found, {
      invariant:
        death === 'killed' ? '1 (acknowledged, and the process was killed)' : '1, 2 (durable, prefix)',
      what: AFTER[death],
      beganAt,
      ordered: (change) => change.logged,
      needed: (change) => change.acknowledged && survives(change, death),
    });
    for (const { image, values } of found) this.#adopt(image, values, death, seen);
    this.#mode = mode;
    this.#epoch++;
    this.#dead = false;
  }

  /** What is found after a crash is how it was decided. */
  #adopt(image: Image, values: Int32Array, death: Death, seen: ReadonlySet<Change>): void {
    image.loose = false;
    if (death === 'power cut') {
      image.settle(values, 'found after a crash', this.now);
      return;
    }
    // What was lost once does not come back.
    for (const change of image.unsettled) if (!survives(change, death)) change.acknowledged = false;
    for (const change of seen) change.acknowledged = true;
    for (let cell = 0; cell < values.length; cell++) {
      const entries = image.entries(cell);
      for (const entry of entries) {
        if (entry.value !== values[cell] && entry.goneAt === NEVER) entry.goneAt = this.now;
      }
      // A write that failed may have been seen for a while, and is not there: what was there before shows again.
      const shown = entries.findLast((entry) => entry.value === values[cell] && !entry.buried);
      if (shown !== undefined) shown.goneAt = NEVER;
    }
  }

  /** Checks what a snapshot shows after a crash. */
  snapshotRecovered(death: Death, snapshot: SnapshotModel, values: readonly Int32Array[]): void {
    this.now++;
    const found = values.map((one, volume) => snapshot.found(volume, one));
    const seen = checkPrefix(found, {
      invariant: '4 (snapshot)',
      what: `snapshot ${snapshot.name} ${AFTER[death]}`,
      beganAt: 0,
      ordered: () => false,
      needed: (change) => death !== 'power cut' && change.acknowledged && survives(change, death),
    });
    this.checkSnapshotOrder(snapshot, values);
    for (const { image, values: one } of found) this.#adopt(image, one, death, seen);
  }

  /** The image of a snapshot is the state at one place of the order: checked once, when all of it has been read. */
  checkSnapshotOrder(snapshot: SnapshotModel, values: readonly Int32Array[]): void {
    const kept = snapshot.takeOrigin();
    if (kept === undefined) return;
    const found: Found[] = values.map((one, volume) => {
      const own = snapshot.image(volume);
      const origin = kept[volume] ?? [];
      // A cell that was written through the snapshot says nothing about where it was taken.
      const written = (cell: number): boolean =>
        own.entries(cell).some((entry) => entry.value === one[cell] && entry.change !== snapshot.change);
      const passed = (cell: number): Entry[] => [
        { change: settledChange('own', 0), value: one[cell] ?? 0, goneAt: NEVER, buried: false },
      ];
      return {
        image: own,
        values: one,
        entries: (cell) => (written(cell) ? passed(cell) : (origin[cell] ?? [])),
      };
    });
    checkPrefix(found, {
      invariant: '4 (a snapshot is the group at one LSN)',
      what: `snapshot ${snapshot.name}`,
      beganAt: snapshot.issuedAt,
      // What was written directly and refused may have been done in part.
      ordered: (change) => change.logged || change.acknowledged,
      needed: () => false,
    });
  }

  /** Whether the volume has writes of direct mode that may be lost still: the log does not have them. */
  owesDirect(volume: number): boolean {
    return this.volume(volume).unsettled.some((change) => change.endedAt !== NEVER && !change.logged);
  }

  /** A sync of an image that nobody has a log of failed: what was not durable may be lost at once. */
  loosen(image: Image): void {
    image.loose = true;
  }
}
