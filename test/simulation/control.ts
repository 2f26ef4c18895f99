/** What an operator asks of a group: snapshots, restores, imports. One at a time; the requests of clients go on meanwhile. */
import type { EngineError, EngineErrorCode } from '../../engine/errors.ts';
import { Group } from '../../engine/group.ts';
import type { SnapshotView } from '../../engine/snapshots.ts';
import { CELL_BYTES, cellValue, putCell } from './cells.ts';
import { restoreBounds } from './checks.ts';
import { Violation } from './image.ts';
import type { Flight, Machine } from './machine.ts';
import { matchSnapshots } from './matching.ts';
import type { Request } from './model.ts';
import { type Operation, REGION_BYTES } from './plan.ts';
import type { SnapshotModel } from './snapshot-model.ts';

type ControlOperation = Extract<Operation, { pick: number }>;

const UNDO = 'undo';
/** With so little, the maps of some snapshots leave no room for more. */
const SHORT_MEMORY_BYTES = 512 * 1024;
const IMAGE_PATH = '/images/import.img';

export class Control {
  readonly #machine: Machine;

  constructor(machine: Machine) {
    this.#machine = machine;
  }

  #flight(what: string, alone = false): Flight {
    this.#machine.note(() => what);
    return { what, snapshot: undefined, control: true, alone };
  }

  /** Whether something is under way of which a restore, which replaces the undo snapshot, cannot know what it will find. */
  get isUndoAsked(): boolean {
    return this.#machine.model.snapshots.some((snapshot) => snapshot.name === UNDO && snapshot.isAsked);
  }

  /** Which of the snapshots is meant, if there is any. */
  pick({ pick }: Pick<ControlOperation, 'pick'>): SnapshotModel | undefined {
    // One whose renaming failed with the log has either name until the next process finds out.
    const there = this.#machine.model.snapshots.filter((snapshot) => !snapshot.isAsked);
    return there[pick % Math.max(1, there.length)];
  }

  /** What is under way through a snapshot has to end before its image is used for something else. */
  async #quiet(snapshot: SnapshotModel): Promise<boolean> {
    const machine = this.#machine;
    const quiet = () => ![...machine.inFlight].some((flight) => flight.snapshot === snapshot);
    if (!(await machine.attempt(`an end of the requests to ${snapshot.name}`, quiet))) return false;
    // It may have been given up meanwhile, as an event has told.
    return machine.model.snapshots.includes(snapshot);
  }

  #view(snapshot: SnapshotModel): SnapshotView | undefined {
    return this.#machine.open.snapshots.find((view) => view.id === snapshot.id);
  }

  /** Whether there is too little memory for the maps of one more snapshot. */
  #isForMemory(error: EngineError): boolean {
    const isShort = this.#machine.plan.memoryBytes <= SHORT_MEMORY_BYTES;
    return isShort && error.code === 'unavailable' && error.message.includes('memoryBytes');
  }

  /** Whether a refusal is explained by disks in trouble, and by the snapshot having been given up for them. */
  #excused(error: EngineError, snapshot: SnapshotModel): boolean {
    const machine = this.#machine;
    if (machine.excused(error) || this.#isForMemory(error)) return true;
    return (
      machine.givenUp.has(snapshot.name) && error.code === 'not-found' && this.#view(snapshot) === undefined
    );
  }

  /** Whether a restore reads a snapshot that stands for itself: it may not change meanwhile (rule T3). */
  #isRead(snapshot: SnapshotModel): boolean {
    const isDetached = this.#view(snapshot)?.state === 'detached';
    return isDetached && this.#machine.open.operations.some((operation) => operation.kind === 'restore');
  }

  /** Whether a refusal is explained by what the snapshot is at, or was at when it was asked: a copy of its own, a refresh. */
  #busy(snapshot: SnapshotModel, stateBefore: string | undefined, error: EngineError): boolean {
    const states = [stateBefore, this.#view(snapshot)?.state];
    return error.code === 'in-use' && states.some((state) => state === 'detaching' || state === 'refreshing');
  }

  snapshot(local: boolean, again: boolean): void {
    const machine = this.#machine;
    const name = (again ? this.#freeName() : undefined) ?? `s${++machine.names}`;
    const snapshot = machine.model.beginSnapshot(name, { local });
    const done = (view: SnapshotView): void => {
      if (view.name !== name || view.local !== local)
        throw new Violation('4', `a snapshot asked for as ${name} is ${JSON.stringify(view)}`);
      machine.model.snapshotTaken(snapshot, view.id);
      snapshot.lsn = view.lsn;
    };
    machine.follow(
      this.#flight(`snapshot ${name}`),
      machine.open.createSnapshot(name, { local }),
      done,
      (error) => {
        this.reconcile([snapshot]);
        return machine.excused(error) || this.#isForMemory(error);
      },
    );
  }

  /** The name of the last one that was deleted, unless it is in use again. */
  #freeName(): string | undefined {
    const { deletedName, model } = this.#machine;
    return model.snapshots.some((snapshot) => snapshot.name === deletedName) ? undefined : deletedName;
  }

  delete(snapshot: SnapshotModel): void {
    const machine = this.#machine;
    snapshot.leaving = true;
    const done = (): void => {
      machine.model.forget(snapshot);
      this.#recordWritten();
      if (snapshot.name !== UNDO) machine.deletedName = snapshot.name;
      if (machine.open.snapshots.some((view) => view.name === snapshot.name))
        throw new Violation('4', `${snapshot.name} was deleted and is in the list`);
    };
    const deleting = machine.open.deleteSnapshot(snapshot.name);
    machine.follow(this.#flight(`delete ${snapshot.name}`), deleting, done, (error) => {
      // No log is asked: unless a disk refused the record, nothing was changed.
      snapshot.leaving = false;
      if (error.code === 'disk') snapshot.mayHaveLeftSince = machine.open.log.checkpointLsn;
      this.reconcile([snapshot]);
      return this.#excused(error, snapshot);
    });
  }

  /** A deletion is in the group's record, and what is done to a snapshot comes after any record in doubt: what a disk refused before is gone. */
  #recordWritten(): void {
    for (const snapshot of this.#machine.model.snapshots) snapshot.mayHaveLeftSince = undefined;
  }

  rename(snapshot: SnapshotModel): void {
    const machine = this.#machine;
    const to = `r${++machine.names}`;
    snapshot.nameToBe = to;
    const flight = this.#flight(`rename ${snapshot.name} to ${to}`);
    const done = (): void => {
      this.#recordWritten();
      snapshot.name = to;
      snapshot.nameToBe = undefined;
    };
    machine.follow(flight, machine.open.renameSnapshot(snapshot.name, to), done, (error) => {
      this.reconcile([snapshot]);
      return this.#excused(error, snapshot);
    });
  }

  async refresh(snapshot: SnapshotModel, force: boolean): Promise<void> {
    const machine = this.#machine;
    if (!(await this.#quiet(snapshot))) return;
    const refuses = snapshot.written && !force;
    const before = this.#view(snapshot)?.state;
    const wasRead = this.#isRead(snapshot);
    const fresh = machine.model.beginSnapshot(snapshot.name, {
      undo: snapshot.undo,
      local: snapshot.local,
      instead: snapshot,
    });
    snapshot.leaving = true;
    const flight = this.#flight(`refresh ${snapshot.name}${force ? ' by force' : ''}`, true);
    const done = (view: SnapshotView): void => {
      this.#recordWritten();
      machine.model.forget(snapshot);
      machine.model.snapshotTaken(fresh, view.id);
      fresh.lsn = view.lsn;
    };
    machine.follow(flight, machine.open.refreshSnapshot(snapshot.name, { force }), done, (error) => {
      this.reconcile([snapshot, fresh]);
      // A write through it that failed, or was never answered, may have been done or not.
      if (error.code === 'in-use' && (refuses || wasRead || this.#isRead(snapshot))) return true;
      return this.#busy(snapshot, before, error) || this.#excused(error, snapshot);
    });
  }

  async detach(snapshot: SnapshotModel): Promise<void> {
    const machine = this.#machine;
    const detaching = machine.open.detachSnapshot(snapshot.name);
    snapshot.detachAsked = true;
    const done = (): void => {
      this.#recordWritten();
      snapshot.detachAsked = false;
    };
    machine.follow(this.#flight(`detach ${snapshot.name}`), detaching, done, (error) => {
      snapshot.detachAsked = false;
      // It was asked before; a detach that was acknowledged shows once its record is applied.
      const state = this.#view(snapshot)?.state;
      const isSecond =
        (error.code === 'in-use' && state === 'detaching') ||
        (error.code === 'invalid' && (state === 'detached' || state === 'refreshing'));
      return isSecond || this.#excused(error, snapshot);
    });
  }

  async restore(snapshot: SnapshotModel, volume: number | null): Promise<void> {
    const machine = this.#machine;
    if (!(await this.#quiet(snapshot))) return;
    const { model } = machine;
    const view = this.#view(snapshot);
    // The undo of a restore of some volumes restores those.
    const all = view?.undoOf?.map((name) => Number(name.slice(1))) ?? [...model.volumes.keys()];
    const volumes = volume === null ? all : [volume];
    const options = volume === null ? {} : { volume: `v${volume}` };
    this.#checkPlan(snapshot, volumes, options);
    const old = model.find(UNDO);
    const undo = model.beginSnapshot(UNDO, { undo: true });
    if (old !== undefined) old.leaving = true;
    const request = model.beginRestore(snapshot, volumes);
    const restoring = machine.open.restore(snapshot.name, options);
    const flight = this.#flight(
      `restore of ${snapshot.name}, ${volume === null ? 'all volumes' : `v${volume}`}`,
      true,
    );
    machine.follow(
      flight,
      restoring,
      (result) => {
        this.#recordWritten();
        if (old !== undefined) model.forget(old);
        machine.restorable += result.plan.regions;
        model.snapshotTaken(undo, result.undo.id);
        undo.lsn = result.undo.lsn;
        model.restored(request, snapshot, volumes);
      },
      (error) => {
        model.endRequest(request, false);
        // Its record may have become durable even so.
        machine.restorable = Number.POSITIVE_INFINITY;
        this.reconcile(old === undefined ? [undo] : [undo, old]);
        return this.#excused(error, snapshot);
      },
    );
  }

  #checkPlan(snapshot: SnapshotModel, volumes: readonly number[], options: { volume?: string }): void {
    const machine = this.#machine;
    const plan = machine.open.planRestore(snapshot.name, options);
    if (plan.volumes.length !== volumes.length)
      throw new Violation('6', `a plan for ${volumes.length} volumes is ${JSON.stringify(plan)}`);
    for (const [index, planned] of plan.volumes.entries()) {
      const { least, most } = restoreBounds(machine, snapshot, volumes[index] ?? 0);
      if (planned.regions >= least && planned.regions <= most) continue;
      const what = `a restore of ${snapshot.name} would move ${planned.regions} regions of ${planned.name}`;
      throw new Violation('5, 6 (maps)', `${what}; ${least} differ, ${most} may`);
    }
  }

  /** Something was refused half way: what is there now is in the list. `ended`: what was asked of these has ended. */
  reconcile(ended: readonly SnapshotModel[]): void {
    const machine = this.#machine;
    if (machine.group === undefined) return;
    // A log that failed may hold the record even so: the next process finds out.
    if (machine.group.failure !== undefined) return;
    matchSnapshots(machine, machine.group.snapshots, ended);
  }

  /** All clients have stopped; the image is the volume as it is, but for some cells. */
  async import(volume: number, cell: number, cells: number): Promise<void> {
    const machine = this.#machine;
    if (!(await machine.attempt('an end of all requests', () => machine.inFlight.size === 0))) return;
    const image = machine.model.volume(volume);
    const place = machine.model.place(volume);
    const number = machine.model.nextRequest();
    const content = Buffer.alloc((cell + cells) * CELL_BYTES);
    for (let index = 0; index < cell + cells; index++) {
      const value = index < cell ? image.certain(index) : cellValue(number, place + index);
      if (value === undefined) return;
      putCell(content, index, value);
    }
    machine.storage.putFile(IMAGE_PATH, content);
    const label = `import #${number} of v${volume} ${cell}+${cells}`;
    const regionCells = machine.model.regionCells;
    const requests: Request[] = [];
    for (
      let first = cell;
      first < cell + cells;
      first = (Math.floor(first / regionCells) + 1) * regionCells
    ) {
      const end = Math.min(cell + cells, (Math.floor(first / regionCells) + 1) * regionCells);
      requests.push(machine.model.beginWrite(label, volume, first, end - first, number));
    }
    const { begun } = machine.model;
    const ended = (acknowledged: boolean): void => {
      for (const request of requests) machine.model.endRequest(request, acknowledged);
    };
    const done = (result: { regionsWritten: number }): void => {
      ended(true);
      // Where others write meanwhile, it meets differences that are theirs.
      if (begun === machine.model.begun && result.regionsWritten > requests.length)
        throw new Violation(
          '5 (tight)',
          `${label} wrote ${result.regionsWritten} regions; ${requests.length} differ`,
        );
    };
    const flight = this.#flight(label, true);
    machine.follow(flight, this.#importFile(volume), done, (error) => {
      ended(false);
      return machine.excused(error);
    });
    await machine.attempt('the end of an import', () => !machine.inFlight.has(flight));
  }

  async #importFile(volume: number): Promise<{ regionsWritten: number }> {
    const disk = await this.#machine.openImage(IMAGE_PATH);
    try {
      return await this.#machine.open.import(`v${volume}`, disk);
    } finally {
      await disk.close();
    }
  }

  /** Invariant 9: what cannot be right is refused with its reason, and changes nothing; the checks that follow would see it. */
  refusals(): void {
    const machine = this.#machine;
    const { group } = machine;
    if (group === undefined) return;
    const spec = { name: 'g', regionBytes: REGION_BYTES, volumes: [{ name: 'v0', sizeBytes: REGION_BYTES }] };
    const clock = machine.scheduler.clock();
    const { folder } = machine;
    this.#refused('a second opening', () => Group.open(folder, clock, {}), ['in-use']);
    this.#refused('a group over another', () => Group.create(folder, spec, clock, {}), ['in-use', 'exists']);
    // A name that is being taken away may be free already, and one that may be given up may be free at any moment.
    const mayGo = machine.controlBusy || (machine.shortEver && machine.plan.onFull === 'give-up');
    const [existing] = mayGo ? [] : group.snapshots;
    this.#refused('a snapshot with a name that cannot be', () => group.createSnapshot('a/b'), ['invalid']);
    this.#refused("a snapshot with the undo's name", () => group.createSnapshot(UNDO), ['invalid']);
    if (existing !== undefined && existing.name !== UNDO)
      this.#refused('a second snapshot of a name', () => group.createSnapshot(existing.name), ['exists']);
    this.#refused('deletion of nothing', () => group.deleteSnapshot('nothing'), ['not-found']);
    this.#refused('renaming of nothing', () => group.renameSnapshot('nothing', 'x'), ['not-found']);
    this.#refused('restore of nothing', () => group.restore('nothing'), ['not-found']);
    if (existing === undefined) return;
    const noVolume = () => group.restore(existing.name, { volume: 'x' });
    this.#refused('restore of no volume', noVolume, ['not-found']);
  }

  #refused(what: string, ask: () => Promise<unknown>, codes: readonly EngineErrorCode[]): void {
    const machine = this.#machine;
    const accepted = (): void => {
      throw new Violation('9 (refused clearly)', `${what} was accepted`);
    };
    const refused = (error: EngineError): boolean => codes.includes(error.code) || machine.excused(error);
    machine.follow(
      { what, snapshot: undefined, control: false },
      Promise.resolve().then(ask),
      accepted,
      refused,
    );
  }
}
