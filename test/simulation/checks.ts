/** Looks at a whole group: every image, every map, every list. */
import type { SnapshotView } from '../../engine/snapshots.ts';
import { CELL_BYTES } from './cells.ts';
import { type Image, Violation } from './image.ts';
import type { Machine } from './machine.ts';
import { REGION_BYTES } from './plan.ts';
import type { Requests, Target } from './requests.ts';
import type { SnapshotModel } from './snapshot-model.ts';

const REGION_CELLS = REGION_BYTES / CELL_BYTES;
/** Whole images are read in pieces of that size. */
const PIECE_CELLS = 5 * REGION_CELLS;

export function volumeTarget(machine: Machine, volume: number): Target {
  const device = machine.open.volumes.get(`v${volume}`);
  if (device === undefined) throw new Violation('1', `volume v${volume} is gone`);
  return { device, image: machine.model.volume(volume), volume, snapshot: undefined };
}

/** What it is called: while it is being renamed, either of two. */
export function nameNow(machine: Machine, snapshot: SnapshotModel): string {
  if (snapshot.nameToBe === undefined) return snapshot.name;
  return machine.open.snapshots.find((view) => view.id === snapshot.id)?.name ?? snapshot.name;
}

export function snapshotTarget(machine: Machine, snapshot: SnapshotModel, volume: number): Target {
  const device = machine.open.snapshotVolume(nameNow(machine, snapshot), `v${volume}`);
  if (device === undefined) throw new Violation('4', `snapshot ${snapshot.name} shows no volume v${volume}`);
  return { device, image: snapshot.image(volume), volume, snapshot };
}

/** Reads all of a device, while the world goes on. */
export function readAll(requests: Requests, target: Target, seen: (values: Int32Array) => void): void {
  const all = new Int32Array(target.image.cells.length);
  let missing = all.length;
  for (let cell = 0; cell < all.length; cell += PIECE_CELLS) {
    const cells = Math.min(PIECE_CELLS, all.length - cell);
    requests.read(target, { cell, cells }, cell % 2 === 0, (values) => {
      all.set(values, cell);
      missing -= cells;
      if (missing === 0) seen(all);
    });
  }
}

/** Begins to read everything, and checks the maps. */
export function beginVerify(machine: Machine, requests: Requests): void {
  const { model } = machine;
  for (let volume = 0; volume < model.volumes.length; volume++)
    readAll(requests, volumeTarget(machine, volume), () => {});
  for (const snapshot of model.snapshots) {
    if (snapshot.capturing || snapshot.leaving) continue;
    const found: Int32Array[] = [];
    let missing = model.volumes.length;
    for (let volume = 0; volume < model.volumes.length; volume++)
      readAll(requests, snapshotTarget(machine, snapshot, volume), (values) => {
        found[volume] = values;
        if (--missing === 0) model.checkSnapshotOrder(snapshot, found);
      });
  }
  checkMaps(machine);
}

/** Whether the region certainly differs between two images. */
function differs(one: Image, other: Image, region: number): boolean {
  const end = Math.min(one.cells.length, (region + 1) * REGION_CELLS);
  for (let cell = region * REGION_CELLS; cell < end; cell++) {
    const first = one.certain(cell);
    const second = other.certain(cell);
    if (first !== undefined && second !== undefined && first !== second) return true;
  }
  return false;
}

/** A restore moves the regions of its map, each once, and goes forward only (invariants 5 and 6). */
export function checkProgress(machine: Machine): void {
  const { operations, counters } = machine.open;
  if (counters.regionsRestored > machine.restorable)
    throw new Violation(
      '5 (tight)',
      `restores have moved ${counters.regionsRestored} regions; their maps had ${machine.restorable}`,
    );
  for (const { id, kind, done, total } of operations) {
    const before = machine.progress.get(id);
    machine.progress.set(id, { done, total });
    const backward =
      kind === 'restore' && before !== undefined && (done < before.done || total !== before.total);
    if (done <= total && !backward) continue;
    const then = before === undefined ? 'nothing' : `${before.done} of ${before.total}`;
    throw new Violation('6', `${kind} ${id} has done ${done} of ${total}, and had done ${then}`);
  }
}

/** Invariant 5. */
export function checkMaps(machine: Machine): void {
  checkProgress(machine);
  checkWritten(machine);
  const settled = machine.model.snapshots.filter((snapshot) => !snapshot.capturing && !snapshot.leaving);
  if (settled.length === 0) return;
  const views = new Map(machine.open.snapshots.map((view) => [view.id, view]));
  for (const snapshot of settled) {
    for (let volume = 0; volume < machine.model.volumes.length; volume++) {
      checkAgainstVolume(machine, snapshot, volume, views);
      for (const newer of settled) {
        if (newer.issuedAt > snapshot.takenAt) checkPair(machine, snapshot, newer, volume, views);
      }
    }
  }
  checkViews(machine, settled, views);
}

/** The map of a volume has every region that is not blank. */
function checkWritten(machine: Machine): void {
  if (machine.model.mode !== 'direct') return;
  for (const [index, image] of machine.model.volumes.entries()) {
    const written = machine.open.volumes.get(`v${index}`)?.written;
    for (let region = 0; region * REGION_CELLS < image.cells.length; region++) {
      const end = Math.min(image.cells.length, (region + 1) * REGION_CELLS);
      for (let cell = region * REGION_CELLS; cell < end; cell++) {
        const value = image.certain(cell);
        if (value === undefined || value === 0 || written?.has(region) === true) continue;
        throw new Violation(
          '5 (sound)',
          `region ${region} of v${index} holds data and is not in the map of what was written`,
        );
      }
    }
  }
}

function changedRegions(machine: Machine, volume: number, from: string, to: string | undefined): Uint8Array {
  const regions = Math.ceil(machine.model.volume(volume).cells.length / REGION_CELLS);
  const changed = new Uint8Array(regions);
  for (const run of machine.open.changedRuns(`v${volume}`, from, to, 0, regions))
    changed.fill(1, run.first, run.end);
  return changed;
}

type Views = ReadonlyMap<string | undefined, SnapshotView>;

function checkAgainstVolume(machine: Machine, snapshot: SnapshotModel, volume: number, views: Views): void {
  const { model } = machine;
  const touchedAt = model.touchedAt[volume] ?? new Int32Array();
  const changed = changedRegions(machine, volume, nameNow(machine, snapshot), undefined);
  const refreshing = views.get(snapshot.id)?.state === 'refreshing';
  for (let region = 0; region < changed.length; region++) {
    const what = `region ${region} of v${volume} against ${snapshot.name}`;
    if (changed[region] === 0 && differs(model.volume(volume), snapshot.image(volume), region))
      throw new Violation('5 (sound)', `${what} differs, and is not in the map`);
    const may = refreshing
      ? snapshot.mayDifferLoosely(volume, region, touchedAt)
      : snapshot.mayDiffer(volume, region, touchedAt);
    if (changed[region] === 1 && !may)
      throw new Violation('5 (tight)', `${what} was never touched, and is in the map`);
  }
}

function checkPair(
  machine: Machine,
  older: SnapshotModel,
  newer: SnapshotModel,
  volume: number,
  views: Views,
): void {
  const changed = changedRegions(machine, volume, nameNow(machine, older), nameNow(machine, newer));
  // A detached one keeps what has changed since then, not when.
  const touchedAt = machine.model.touchedAt[volume] ?? new Int32Array();
  const detached = [older, newer].some(({ id }) => views.get(id)?.state !== 'attached');
  for (let region = 0; region < changed.length; region++) {
    const what = `region ${region} of v${volume} between ${older.name} and ${newer.name}`;
    if (changed[region] === 0 && differs(older.image(volume), newer.image(volume), region))
      throw new Violation('5 (sound)', `${what} differs, and is not in the map`);
    const may =
      newer.touchedSince(older, volume, region) ||
      older.modified(volume, region) ||
      newer.modified(volume, region) ||
      (detached &&
        (older.mayDifferLoosely(volume, region, touchedAt) ||
          newer.mayDifferLoosely(volume, region, touchedAt)));
    if (changed[region] === 1 && !may)
      throw new Violation('5 (tight)', `${what} was never touched, and is in the map`);
  }
}

/** The counters of the list of snapshots are within what was done. */
function checkViews(machine: Machine, settled: readonly SnapshotModel[], views: Views): void {
  for (const snapshot of settled) {
    const view = views.get(snapshot.id);
    if (view === undefined) throw new Violation('4', `snapshot ${snapshot.name} is not in the list`);
    // Until a refresh has moved everything, its map is what has to be moved.
    const refreshing = view.state === 'refreshing';
    for (const [volume, counts] of view.volumes.entries()) {
      const touchedAt = machine.model.touchedAt[volume] ?? new Int32Array();
      let touched = 0;
      let modified = 0;
      for (let region = 0; region < touchedAt.length; region++) {
        const loosely = refreshing && snapshot.mayDifferLoosely(volume, region, touchedAt);
        if (loosely || (touchedAt[region] ?? 0) >= snapshot.issuedAt) touched++;
        if (loosely || snapshot.modified(volume, region)) modified++;
      }
      if (counts.preservedRegions > touched || counts.modifiedRegions > modified)
        throw new Violation(
          '5 (tight)',
          `${snapshot.name} counts ${counts.preservedRegions} preserved and ${counts.modifiedRegions} modified regions of ` +
            `${counts.name}; ${touched} and ${modified} at most can be`,
        );
    }
  }
}

/** How many regions a restore has to move, at least and at most. */
export function restoreBounds(
  machine: Machine,
  snapshot: SnapshotModel,
  volume: number,
): { least: number; most: number } {
  const { model } = machine;
  const touchedAt = model.touchedAt[volume] ?? new Int32Array();
  const view = machine.open.snapshots.find((one) => one.id === snapshot.id);
  const refreshing = view?.state === 'refreshing';
  let least = 0;
  let most = 0;
  for (let region = 0; region < touchedAt.length; region++) {
    if (differs(model.volume(volume), snapshot.image(volume), region)) least++;
    const may = refreshing
      ? snapshot.mayDifferLoosely(volume, region, touchedAt)
      : snapshot.mayDiffer(volume, region, touchedAt);
    if (may) most++;
  }
  return { least, most };
}
