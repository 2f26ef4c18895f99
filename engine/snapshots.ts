/**
 * The snapshots of a group, as its users ask for them: each change is a control record at one point of the order of writes, and is there for
 * every reader once that record is durable (DESIGN's rules S4 to S7, L10).
 */
import type { ControlQueue } from './control-queue.ts';
import type { Control } from './control-record.ts';
import { turnstile } from './disk/turnstile.ts';
import { EngineError } from './errors.ts';
import { mapBytesOf } from './group-memory.ts';
import type { GroupState } from './group-state.ts';
import type { LogBatch } from './log/record.ts';
import type { RegionRun } from './map/region-map.ts';
import { checkName } from './names.ts';
import { changedBetween, modifiedMap } from './snapshot/changes.ts';
import { type ControlEffects, type Snapshot, UNDO_NAME } from './snapshot/control-effects.ts';
import {
  mapsToRestore,
  planOf,
  type RestorePlan,
  volumeNamed,
  volumesToRestore,
} from './snapshot/restore-plan.ts';
import { SnapshotDevices } from './snapshot/snapshot-devices.ts';
import { type SnapshotView, stateOf, viewOf } from './snapshot/snapshot-view.ts';
import type { SnapshotVolume } from './snapshot/snapshot-volume.ts';
import type { Lsn, RegionIndex } from './units.ts';

export type { RestorePlan } from './snapshot/restore-plan.ts';
export type { SnapshotView } from './snapshot/snapshot-view.ts';

/** Snapshots of a group at most: each look-up through the chain may pass all of them. */
export const MAX_SNAPSHOTS = 256;
/** Once maps take that share of the memory of the group, no more snapshots are taken. The rest is for payload. */
const MAP_SHARE = 3 / 4;

export interface RestoreResult {
  /** Id of the operation that materialises it. */
  readonly operation: string;
  readonly plan: RestorePlan;
  /** Restoring this one undoes it. */
  readonly undo: SnapshotView;
}

export interface SnapshotsHost {
  /** A secondary's log is its primary's: what its users do is in no record. */
  readonly isSecondary: boolean;
  /** Leaves direct mode if need be; when it resolves, all that was written before is durable. */
  readonly beginLogging: () => Promise<void>;
  readonly controls: ControlQueue;
  /** The record of a restore has just been logged. */
  readonly restoreLogged: (plan: RestorePlan, lsn: Lsn) => void;
  /** Resolves once the log is applied beyond the position. */
  readonly applied: (lsn: Lsn) => Promise<void>;
  /** Something was given up: there may be space, and there is work. */
  readonly gaveUp: () => void;
  /** Throws `in-use` why a restore is refused unless it is forced. */
  readonly checkRestore: (plan: RestorePlan) => void;
  /** Throws why the group takes no changes. */
  readonly check: () => void;
}

export class Snapshots {
  readonly #state: GroupState;
  readonly #effects: ControlEffects;
  readonly #host: SnapshotsHost;
  readonly #devices: SnapshotDevices;
  /** One change at a time: each is judged by what the one before it left. */
  readonly #turns = turnstile(1);
  #busy = 0;
  /** End of the last control record of the change under way. */
  #loggedLsn: Lsn = 0;

  constructor(state: GroupState, effects: ControlEffects, host: SnapshotsHost) {
    this.#state = state;
    this.#effects = effects;
    this.#host = host;
    this.#devices = new SnapshotDevices(state, effects, host.applied);
  }

  /** Whether a change is under way, so that the group has to go on logging. */
  get isBusy(): boolean {
    return this.#busy > 0;
  }

  /**
   * The same for what is done to a snapshot that is there: a deletion of it that was refused may be in a record all the same, which would take the
   * change back after a crash.
   */
  #inTurnSettled<T>(change: () => Promise<T>): Promise<T> {
    return this.#inTurn(async () => {
      if (this.#state.isRecordInDoubt) await this.#state.lane(() => this.#state.settleRecord());
      return await change();
    });
  }

  async #inTurn<T>(change: () => Promise<T>): Promise<T> {
    this.#busy++;
    try {
      const { result, loggedLsn } = await this.#turns(async () => {
        this.#loggedLsn = 0;
        return { result: await change(), loggedLsn: this.#loggedLsn };
      });
      // Rule K4. The next change need not wait for that: the applier may be what asks for it.
      const { acknowledgement } = this.#state;
      if (loggedLsn > 0 && acknowledgement.isNeeded) await acknowledgement.reached(loggedLsn);
      return result;
    } finally {
      this.#busy--;
    }
  }

  get views(): SnapshotView[] {
    return this.#effects.named.map((snapshot) => viewOf(this.#state, snapshot));
  }

  /** The device of a volume as a snapshot shows it; undefined when there is none. */
  device(snapshotName: string, volumeName: string): SnapshotVolume | undefined {
    const snapshot = this.#effects.find(snapshotName);
    const volume = this.#state.volumes.find((candidate) => candidate.name === volumeName);
    if (snapshot === undefined || volume === undefined) return undefined;
    return this.#devices.of(snapshot, volume);
  }

  /** No snapshot is written from here on; what was is durable when it resolves. Reads under way have ended then. */
  close(): Promise<void> {
    return this.#devices.close();
  }

  /** Takes a snapshot of all volumes at one point of the order of writes; `take` has another way to do it. Throws `invalid`, `exists`, `unavailable`, `disk`. */
  create(
    name: string,
    options: { readonly local?: boolean; readonly take?: (name: string) => Promise<void> } = {},
  ): Promise<SnapshotView> {
    return this.#inTurn(async () => {
      this.#checkNew(name);
      this.#checkRoom();
      if (options.take !== undefined) {
        await options.take(name);
        this.#emit('created', name, `snapshot ${name} was taken`);
        return viewOf(this.#state, this.#require(name));
      }
      await this.#host.beginLogging();
      const id = this.#state.newId();
      const local = options.local ?? false;
      await this.#commit({ type: 'snapshot', id, name, createdAt: this.#now(), local });
      this.#emit('created', name, `snapshot ${name} was taken`);
      return viewOf(this.#state, this.#require(name));
    });
  }

  /**
   * Takes the name away, durably and at once, also on a full disk (rule S4). What it held for others goes in the background. A record tells
   * other members, when there is room for one. Throws `not-found`, `in-use`, `disk`.
   */
  delete(name: string): Promise<void> {
    return this.#inTurn(() => this.#delete(name, 'deleted', `snapshot ${name} was deleted`));
  }

  /** As `delete`, because a disk is full (rule S8): undo snapshots first, then the oldest. False when there is none that would help. */
  giveUpOne(): Promise<boolean> {
    return this.#inTurn(async () => {
      const candidates = this.#effects.named.filter((snapshot) => snapshot.users === 0);
      const victim = candidates.find(isUndo) ?? candidates[0];
      if (victim === undefined || victim.name === null) return false;
      const message = `snapshot ${victim.name} was given up, because the disk is full`;
      await this.#delete(victim.name, 'given-up', message);
      return true;
    });
  }

  async #delete(name: string, event: string, message: string): Promise<void> {
    this.#host.check();
    const { id } = this.#require(name);
    await this.#state.lane(async () => {
      // It may have left the chain while the lane was waited for.
      const snapshot = this.#effects.byId(id);
      if (snapshot === undefined) return;
      const old = snapshot.recordedName;
      const isPending = snapshot.kind === 'layer' && !snapshot.applied;
      if (isPending) this.#state.voided.add(id);
      snapshot.recordedName = null;
      try {
        await this.#state.writeRecord(this.#state.checkpointLsn);
      } catch (error) {
        snapshot.recordedName = old;
        if (isPending) this.#state.voided.delete(id);
        throw error;
      }
    });
    const control: Control = { type: 'delete', id };
    this.#effects.append(control, this.#state.log.endLsn);
    // The deletion holds without it (rule S4). A secondary's log has only what its primary wrote.
    if (!this.#host.isSecondary) this.#host.controls.tellMembers(control);
    this.#emit(event, name, message);
    this.#host.gaveUp();
  }

  /** Gives it another name; an undo snapshot that was given a name is kept when the next restore is made. */
  rename(name: string, to: string): Promise<void> {
    return this.#inTurnSettled(async () => {
      while (this.#isHeld(name)) await this.#require(name).held;
      const { id } = this.#require(name);
      this.#checkNew(to);
      await this.#commit({ type: 'rename', id, name: to });
      this.#emit('renamed', to, `snapshot ${name} is named ${to} now`);
    });
  }

  /** Moves it to now. Throws `in-use` for one that was written, unless forced: what was written through it is lost then. */
  refresh(name: string, options: { readonly force?: boolean } = {}): Promise<SnapshotView> {
    return this.#inTurnSettled(async () => {
      while (this.#isHeld(name)) await this.#require(name).held;
      const snapshot = this.#require(name);
      const written = snapshot.parts.some((part) => (part.modified?.map.count ?? 0) > 0);
      if (written && options.force !== true) {
        const what = `snapshot ${name} was written, and refreshing it would lose that: use --force if it may go, or take another snapshot`;
        throw new EngineError('in-use', what);
      }
      this.#refuseWhileChanging(snapshot, name);
      // A detached one is its own and only copy: what a restore still reads there must not change (rule T3).
      if (snapshot.kind === 'detached' && snapshot.users > 0)
        throw new EngineError(
          'in-use',
          `a restore still reads snapshot ${name}: wait for that to end, see status`,
        );
      this.#checkRoom();
      while (snapshot.writing !== undefined) await snapshot.writing;
      const nextId = this.#state.newId();
      const { id } = snapshot;
      // As the record finds it: it may have become one meanwhile.
      const detached = this.#effects.byId(id)?.kind === 'detached';
      await this.#commit({ type: 'refresh', id, nextId, createdAt: this.#now(), detached });
      this.#emit('refreshed', name, `snapshot ${name} was refreshed`);
      return viewOf(this.#state, this.#require(name));
    });
  }

  /** Begins to make it a copy that stands for itself. Throws `invalid` when it is one. */
  detach(name: string): Promise<void> {
    return this.#inTurnSettled(async () => {
      while (this.#isHeld(name)) await this.#require(name).held;
      const snapshot = this.#require(name);
      if (snapshot.kind === 'detached')
        throw new EngineError('invalid', `snapshot ${name} is detached already`);
      this.#refuseWhileChanging(snapshot, name);
      if (this.#host.isSecondary) await this.#detachHere(snapshot.id);
      else await this.#commit({ type: 'detach', id: snapshot.id });
    });
  }

  /** Of a snapshot that is this node's alone, without a record. */
  async #detachHere(id: string): Promise<void> {
    this.#host.check();
    const state = this.#state;
    await state.lane(async () => {
      const takeBack = await this.#effects.prepare({ type: 'detach', id });
      try {
        await state.writeRecord(state.checkpointLsn);
      } catch (error) {
        takeBack();
        throw error;
      }
    });
    this.#host.gaveUp();
  }

  /** What a restore would move, as things stand. Throws `not-found`. */
  plan(name: string, options: { readonly volume?: string } = {}): RestorePlan {
    const snapshot = this.#require(name);
    return planOf(this.#state, snapshot, mapsToRestore(this.#state, snapshot, options.volume));
  }

  /**
   * Restores the group, or one volume, from a snapshot. When it resolves, its record is durable and every read shows the snapshot ([0047]); the
   * regions follow in the background. An undo snapshot is taken with it. Throws `not-found`, `unavailable`, `in-use` unless forced.
   */
  restore(
    name: string,
    options: { readonly volume?: string; readonly force?: boolean } = {},
  ): Promise<RestoreResult> {
    return this.#inTurnSettled(async () => {
      volumesToRestore(this.#state, this.#require(name), options.volume);
      this.#checkRoom();
      await this.#host.beginLogging();
      while (this.#isHeld(name)) await this.#require(name).held;
      const source = this.#require(name);
      return await this.#whileHeld(source, () => this.#restore(source, name, options));
    });
  }

  /**
   * Writes to the snapshot wait, those under way are awaited, and what was written is durable: so that what the work finds there is what a power cut
   * leaves there (rule T3).
   */
  async #whileHeld<T>(snapshot: Snapshot, work: () => Promise<T>): Promise<T> {
    let release: () => void = () => {};
    snapshot.held = new Promise((resolve) => {
      release = resolve;
    });
    try {
      await snapshot.writing;
      for (const volume of this.#state.volumes) await this.#devices.of(snapshot, volume).flush();
      return await work();
    } finally {
      snapshot.held = undefined;
      release();
    }
  }

  async #restore(
    source: Snapshot,
    name: string,
    options: { readonly volume?: string; readonly force?: boolean },
  ): Promise<RestoreResult> {
    const maps = mapsToRestore(this.#state, source, options.volume);
    const plan = planOf(this.#state, source, maps);
    if (options.force !== true) this.#host.checkRestore(plan);
    const replaced = this.#effects.find(UNDO_NAME);
    const id = this.#state.newId();
    const volumes = maps.map(({ volume, map }) => ({
      name: volume.name,
      restoration: map,
      modified: modifiedMap(this.#state, volume, source),
    }));
    const undo = { id: this.#state.newId(), createdAt: this.#now(), replaces: replaced?.id ?? null };
    const { id: sourceId, imageId } = source;
    const control: Control = { type: 'restore', id, sourceId, imageId, undo, volumes };
    await this.#commit(control, ({ lsn }) => this.#host.restoreLogged(plan, lsn));
    const message = `restored from snapshot ${name}: ${plan.regions} regions follow in the background`;
    this.#state.emit({
      type: 'restore.started',
      message,
      data: { id, snapshot: name, regions: plan.regions },
    });
    return { operation: id, plan, undo: viewOf(this.#state, this.#require(UNDO_NAME)) };
  }

  /** Regions from `first` up to `end` that may differ between two snapshots, or a snapshot and the volume. Throws `not-found`. */
  changedRuns(
    volumeName: string,
    from: string,
    to: string | undefined,
    first: RegionIndex,
    end: RegionIndex,
  ): RegionRun[] {
    const volume = volumeNamed(this.#state, volumeName);
    const [a, b] = [this.#require(from), to === undefined ? undefined : this.#require(to)];
    return changedBetween(this.#state, volume, a, b, first, end);
  }

  /** Appends a control record, and waits until it is durable. Its effect at the head is there at once. */
  async #commit(control: Control, appended: (batch: LogBatch) => void = () => {}): Promise<void> {
    this.#host.check();
    const batch = this.#host.controls.append(control);
    this.#loggedLsn = batch.endLsn;
    appended(batch);
    await this.#state.log.sync();
  }

  #require(name: string): Snapshot {
    const snapshot = this.#effects.find(name);
    if (snapshot !== undefined) return snapshot;
    throw new EngineError('not-found', `there is no snapshot ${JSON.stringify(name)}: see snapshot list`);
  }

  /** Whether something is under way that may make something else of the snapshot. Who has waited for that looks it up again. */
  #isHeld(name: string): boolean {
    return this.#require(name).held !== undefined;
  }

  #refuseWhileChanging(snapshot: Snapshot, name: string): void {
    const state = stateOf(snapshot);
    if (state !== 'detaching' && state !== 'refreshing') return;
    throw new EngineError('in-use', `snapshot ${name} is ${state}: wait for that to end, see status`);
  }

  #checkNew(name: string): void {
    checkName('snapshot', name);
    if (name === UNDO_NAME)
      throw new EngineError(
        'invalid',
        `${UNDO_NAME} is the name of the snapshot before a restore: use another`,
      );
    if (this.#effects.find(name) !== undefined)
      throw new EngineError(
        'exists',
        `there is a snapshot ${name} already: use another name, or delete it first`,
      );
  }

  #checkRoom(): void {
    const { memoryBytes } = this.#state;
    const mapBytes = mapBytesOf(this.#state);
    if (mapBytes > memoryBytes * MAP_SHARE) {
      const what = `the maps of the snapshots take ${mapBytes} of ${memoryBytes} bytes of memory: delete snapshots, or raise memoryBytes`;
      throw new EngineError('unavailable', what);
    }
    if (this.#effects.named.length < MAX_SNAPSHOTS) return;
    throw new EngineError('unavailable', `a group has at most ${MAX_SNAPSHOTS} snapshots: delete one first`);
  }

  #now(): string {
    return new Date(this.#state.clock.nowMs()).toISOString();
  }

  #emit(what: string, snapshot: string, message: string): void {
    this.#state.emit({ type: `snapshot.${what}`, message, data: { snapshot } });
  }
}

function isUndo(snapshot: Snapshot): boolean {
  return snapshot.name === UNDO_NAME;
}
