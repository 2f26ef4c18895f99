/**
 * The snapshots of a group, as its users ask for them: each change is a control record at one point of the order of writes, and is there for
 * every reader once that record is durable (DESIGN's rules S4 to S7, L10).
 */
import { appendControl } from './append-control.ts';
import type { Control } from './control-record.ts';
import { encodeControl } from './control-record.ts';
import { turnstile } from './disk/turnstile.ts';
import { EngineError } from './errors.ts';
import type { GroupState, GroupVolume } from './group-state.ts';
import type { LogBatch } from './log/record.ts';
import type { RegionMap, RegionRun } from './map/region-map.ts';
import { checkName } from './names.ts';
import {
  changedBetween,
  countChangedSince,
  modifiedMap,
  modifiedOf,
  restorationMap,
} from './snapshot/changes.ts';
import { type ControlEffects, type Snapshot, UNDO_NAME } from './snapshot/control-effects.ts';
import { SnapshotVolume } from './snapshot/snapshot-volume.ts';
import type { Lsn, RegionIndex } from './units.ts';

/** Snapshots of a group at most: each look-up through the chain may pass all of them. */
export const MAX_SNAPSHOTS = 256;
/** Once maps take that share of the memory of the group, no more snapshots are taken. The rest is for payload. */
const MAP_SHARE = 3 / 4;

export interface SnapshotView {
  readonly id: string;
  readonly name: string;
  readonly lsn: Lsn;
  /** ISO 8601, UTC. */
  readonly createdAt: string;
  readonly local: boolean;
  /** Names of the volumes that it restores, where it was taken to undo a restore. */
  readonly undoOf: readonly string[] | undefined;
  readonly state: 'attached' | 'detaching' | 'detached' | 'refreshing';
  readonly volumes: readonly {
    readonly name: string;
    /** The volume with reference to the snapshot: regions that may differ from its image. */
    readonly preservedRegions: number;
    /** The snapshot with reference to the volume: regions written through it. */
    readonly modifiedRegions: number;
  }[];
}

/** What a restore would move, or moves. */
export interface RestorePlan {
  readonly snapshot: SnapshotView;
  readonly volumes: readonly { readonly name: string; readonly regions: number; readonly bytes: number }[];
  readonly regions: number;
  readonly bytes: number;
}

export interface RestoreResult {
  /** Id of the operation that materialises it. */
  readonly operation: string;
  readonly plan: RestorePlan;
  /** Restoring this one undoes it. */
  readonly undo: SnapshotView;
}

interface ServedDevice {
  readonly device: SnapshotVolume;
  /** A refresh changes the id of a snapshot in the chain. */
  readonly snapshot: { id: string };
}

export interface SnapshotsHost {
  /** Leaves direct mode if need be; when it resolves, all that was written before is durable. */
  readonly beginLogging: () => Promise<void>;
  /** A control batch was appended: the applier will come to it. */
  readonly enqueue: (batch: LogBatch, control: Control) => void;
  /** Resolves once the log is applied beyond the position. */
  readonly applied: (lsn: Lsn) => Promise<void>;
  /** Something was given up: there may be space, and there is work. */
  readonly gaveUp: () => void;
  /** Throws why the group takes no changes. */
  readonly check: () => void;
}

export class Snapshots {
  readonly #state: GroupState;
  readonly #effects: ControlEffects;
  readonly #host: SnapshotsHost;
  /** One change at a time: each is judged by what the one before it left. */
  readonly #turns = turnstile(1);
  #busy = 0;
  #closed = false;
  /** By snapshot id and volume name: all sessions of one share one. */
  readonly #devices = new Map<string, ServedDevice>();

  constructor(state: GroupState, effects: ControlEffects, host: SnapshotsHost) {
    this.#state = state;
    this.#effects = effects;
    this.#host = host;
    effects.onGone = (id, successor) => {
      for (const volume of state.volumes) this.#follow(`${id}/${volume.name}`, volume.name, successor);
    };
  }

  /** Who has a snapshot open keeps it open through a refresh. */
  #follow(key: string, volumeName: string, successor: string | undefined): void {
    const served = this.#devices.get(key);
    this.#devices.delete(key);
    if (served === undefined || successor === undefined) return;
    served.snapshot.id = successor;
    this.#devices.set(`${successor}/${volumeName}`, served);
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

  /** Whether a change is under way, so that the group has to go on logging. */
  get isBusy(): boolean {
    return this.#busy > 0;
  }

  async #inTurn<T>(change: () => Promise<T>): Promise<T> {
    this.#busy++;
    try {
      return await this.#turns(change);
    } finally {
      this.#busy--;
    }
  }

  get views(): SnapshotView[] {
    return this.#effects.named.map((snapshot) => this.view(snapshot));
  }

  view(snapshot: Snapshot): SnapshotView {
    const detached = snapshot.kind === 'detached';
    const inChain = !detached && snapshot.detaching ? 'detaching' : 'attached';
    const alone = detached && snapshot.refresh !== undefined ? 'refreshing' : 'detached';
    const figures = () => this.#figures(snapshot);
    // A refresh is seen from its record on, like everything else.
    const taken = (detached ? snapshot.refresh?.layer : undefined) ?? snapshot;
    return {
      id: snapshot.id,
      name: snapshot.name ?? '',
      lsn: taken.lsn,
      createdAt: taken.createdAt,
      local: snapshot.local,
      undoOf: detached ? undefined : snapshot.undoOf,
      state: detached ? alone : inChain,
      // Counted when somebody looks: who only wants names asks often.
      get volumes() {
        return figures();
      },
    };
  }

  #figures(snapshot: Snapshot): SnapshotView['volumes'] {
    return this.#state.volumes.map((volume) => ({
      name: volume.name,
      preservedRegions: countChangedSince(this.#state, volume, snapshot),
      modifiedRegions: modifiedOf(snapshot, volume.index)?.count ?? 0,
    }));
  }

  /** The device of a volume as a snapshot shows it; undefined when there is none. */
  device(snapshotName: string, volumeName: string): SnapshotVolume | undefined {
    const snapshot = this.#effects.find(snapshotName);
    const volume = this.#state.volumes.find((candidate) => candidate.name === volumeName);
    if (snapshot === undefined || volume === undefined) return undefined;
    return this.#deviceOf(snapshot, volume);
  }

  #deviceOf(snapshot: Snapshot, volume: GroupVolume): SnapshotVolume {
    const key = `${snapshot.id}/${volume.name}`;
    const served = this.#devices.get(key);
    if (served !== undefined) return served.device;
    const identity = { id: snapshot.id };
    const label = `snapshot ${snapshot.name ?? snapshot.id} of volume ${volume.name}`;
    const find = () => {
      const found = this.#closed ? undefined : this.#effects.byId(identity.id);
      return found?.name == null ? undefined : found;
    };
    const device = new SnapshotVolume(this.#state, volume, label, { find, applied: this.#host.applied });
    this.#devices.set(key, { device, snapshot: identity });
    return device;
  }

  /** Takes a snapshot of all volumes at one point of the order of writes. Throws `invalid`, `exists`, `unavailable`, `disk`. */
  create(name: string, options: { readonly local?: boolean } = {}): Promise<SnapshotView> {
    return this.#inTurn(async () => {
      this.#checkNew(name);
      this.#checkRoom();
      await this.#host.beginLogging();
      const id = this.#state.newId();
      const local = options.local ?? false;
      await this.#commit({ type: 'snapshot', id, name, createdAt: this.#now(), local });
      this.#emit('created', name, `snapshot ${name} was taken`);
      return this.view(this.#require(name));
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
    this.#tellMembers(control);
    this.#emit(event, name, message);
    this.#host.gaveUp();
  }

  /** A record for other members, where there is room: the deletion holds without it (rule S4). */
  #tellMembers(control: Control): void {
    if (this.#state.log.failure !== undefined) return;
    const batch = this.#state.log.appendControl(encodeControl(control));
    if (batch !== undefined) this.#host.enqueue(batch, control);
  }

  /** Gives it another name; an undo snapshot that was given a name is kept when the next restore is made. */
  rename(name: string, to: string): Promise<void> {
    return this.#inTurn(async () => {
      while (this.#isHeld(name)) await this.#require(name).held;
      const { id } = this.#require(name);
      this.#checkNew(to);
      await this.#commit({ type: 'rename', id, name: to });
      this.#emit('renamed', to, `snapshot ${name} is named ${to} now`);
    });
  }

  /** Moves it to now. Throws `in-use` for one that was written, unless forced: what was written through it is lost then. */
  refresh(name: string, options: { readonly force?: boolean } = {}): Promise<SnapshotView> {
    return this.#inTurn(async () => {
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
      await this.#commit({ type: 'refresh', id: snapshot.id, nextId, createdAt: this.#now() });
      this.#emit('refreshed', name, `snapshot ${name} was refreshed`);
      return this.view(this.#require(name));
    });
  }

  /** Begins to make it a copy that stands for itself. Throws `invalid` when it is one. */
  detach(name: string): Promise<void> {
    return this.#inTurn(async () => {
      while (this.#isHeld(name)) await this.#require(name).held;
      const snapshot = this.#require(name);
      if (snapshot.kind === 'detached')
        throw new EngineError('invalid', `snapshot ${name} is detached already`);
      this.#refuseWhileChanging(snapshot, name);
      await this.#commit({ type: 'detach', id: snapshot.id });
    });
  }

  /** What a restore would move, as things stand. Throws `not-found`. */
  plan(name: string, options: { readonly volume?: string } = {}): RestorePlan {
    const snapshot = this.#require(name);
    return this.#planOf(snapshot, this.#mapsToRestore(snapshot, options.volume));
  }

  #mapsToRestore(
    snapshot: Snapshot,
    volumeName: string | undefined,
  ): { readonly volume: GroupVolume; readonly map: RegionMap }[] {
    return this.#volumesToRestore(snapshot, volumeName).map((volume) => ({
      volume,
      map: restorationMap(this.#state, volume, snapshot),
    }));
  }

  #planOf(
    snapshot: Snapshot,
    maps: readonly { readonly volume: GroupVolume; readonly map: RegionMap }[],
  ): RestorePlan {
    const { regionBytes } = this.#state;
    const volumes = maps.map(({ volume, map }) => {
      const lastIsShort = map.length > 0 && map.has(map.length - 1);
      const missing = lastIsShort ? map.length * regionBytes - volume.sizeBytes : 0;
      return { name: volume.name, regions: map.count, bytes: map.count * regionBytes - missing };
    });
    const sum = (of: 'regions' | 'bytes') => volumes.reduce((total, volume) => total + volume[of], 0);
    return { snapshot: this.view(snapshot), volumes, regions: sum('regions'), bytes: sum('bytes') };
  }

  /**
   * Restores the group, or one volume, from a snapshot. When it resolves, its record is durable and every read shows the snapshot ([0047]); the
   * regions follow in the background. An undo snapshot is taken with it. Throws `not-found`, `unavailable`.
   */
  restore(name: string, options: { readonly volume?: string } = {}): Promise<RestoreResult> {
    return this.#inTurn(async () => {
      this.#volumesToRestore(this.#require(name), options.volume);
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
      for (const volume of this.#state.volumes) await this.#deviceOf(snapshot, volume).flush();
      return await work();
    } finally {
      snapshot.held = undefined;
      release();
    }
  }

  async #restore(
    source: Snapshot,
    name: string,
    options: { readonly volume?: string },
  ): Promise<RestoreResult> {
    const maps = this.#mapsToRestore(source, options.volume);
    const plan = this.#planOf(source, maps);
    const replaced = this.#effects.find(UNDO_NAME);
    const id = this.#state.newId();
    const volumes = maps.map(({ volume, map }) => ({
      name: volume.name,
      restoration: map,
      modified: modifiedMap(this.#state, volume, source),
    }));
    const undo = { id: this.#state.newId(), createdAt: this.#now(), replaces: replaced?.id ?? null };
    await this.#commit({ type: 'restore', id, sourceId: source.id, undo, volumes });
    const message = `restored from snapshot ${name}: ${plan.regions} regions follow in the background`;
    this.#state.emit({
      type: 'restore.started',
      message,
      data: { id, snapshot: name, regions: plan.regions },
    });
    return { operation: id, plan, undo: this.view(this.#require(UNDO_NAME)) };
  }

  /** Regions from `first` up to `end` that may differ between two snapshots, or a snapshot and the volume. Throws `not-found`. */
  changedRuns(
    volumeName: string,
    from: string,
    to: string | undefined,
    first: RegionIndex,
    end: RegionIndex,
  ): RegionRun[] {
    const volume = this.#volume(volumeName);
    const [a, b] = [this.#require(from), to === undefined ? undefined : this.#require(to)];
    return changedBetween(this.#state, volume, a, b, first, end);
  }

  /** Appends a control record, and waits until it is durable. Its effect at the head is there at once. */
  async #commit(control: Control): Promise<void> {
    this.#host.check();
    appendControl(this.#state, this.#effects, this.#host.enqueue, control);
    await this.#state.log.sync();
  }

  #volumesToRestore(snapshot: Snapshot, name: string | undefined): GroupVolume[] {
    if (name !== undefined) return [this.#volume(name)];
    const undoOf = snapshot.kind === 'layer' ? snapshot.undoOf : undefined;
    return this.#state.volumes.filter((volume) => undoOf?.includes(volume.name) ?? true);
  }

  #volume(name: string): GroupVolume {
    const volume = this.#state.volumes.find((candidate) => candidate.name === name);
    if (volume !== undefined) return volume;
    throw new EngineError('not-found', `the group has no volume ${JSON.stringify(name)}`);
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
    const { state } = this.view(snapshot);
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
    const { memoryBytes, mapBytes } = this.#state;
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
