/**
 * An open group: volumes that keep one write order among them, with their log, their snapshots, and what works on them.
 *
 * It composes the parts and holds no state of its own. `GroupState` is what they share; the way of a write is `Volume` → `WritePath` → `Log` →
 * `Applier`; `Snapshots` is what users change; `Background` does what nobody waits for.
 */
import { appendControl } from './append-control.ts';
import { Background } from './background.ts';
import type { Clock } from './clock.ts';
import { Condition } from './condition.ts';
import type { Control } from './control-record.ts';
import type { Disk, DiskFolder } from './disk/disk.ts';
import { EngineError } from './errors.ts';
import { createGroup, destroyGroup, type OpenGroup, openGroup } from './group-files.ts';
import { closeState, controlOf, type RecoveredGroup, recover } from './group-recovery.ts';
import type { GroupSpec } from './group-spec.ts';
import type { GroupCounters, GroupEvent, GroupState } from './group-state.ts';
import { type ImportResult, importImage } from './import.ts';
import { Links, type LinksHost } from './link/links.ts';
import type { PeerConnector } from './link/peer.ts';
import { Applier } from './log/applier.ts';
import type { LogBatch } from './log/record.ts';
import { WritePath } from './log/write-path.ts';
import type { RegionRun } from './map/region-map.ts';
import { Operations, type OperationView } from './operations.ts';
import type { RestoreNode } from './snapshot/chain.ts';
import type { ControlEffects } from './snapshot/control-effects.ts';
import type { DetachedSnapshot } from './snapshot/detached.ts';
import type { SnapshotVolume } from './snapshot/snapshot-volume.ts';
import { type RestorePlan, type RestoreResult, Snapshots, type SnapshotView } from './snapshots.ts';
import { type Lsn, MIB, type RegionIndex } from './units.ts';
import { Volume } from './volume.ts';

/** Memory for payload that is logged and not applied, and for maps, unless told otherwise, in bytes. */
export const DEFAULT_GROUP_MEMORY_BYTES = 256 * MIB;

export interface GroupOptions {
  /** See `DEFAULT_GROUP_MEMORY_BYTES`. */
  readonly memoryBytes?: number;
  /** What the copier of a restore moves a second at most; 0 or absent: no limit. */
  readonly copyBytesPerSecond?: number;
  readonly onEvent?: (event: GroupEvent) => void;
  /** Reaches secondaries; without it links wait. */
  readonly connector?: PeerConnector;
  /** Where the log of a new group begins. */
  readonly firstLsn?: Lsn;
}

export interface LogStatus {
  readonly sizeBytes: number;
  readonly usedBytes: number;
  readonly endLsn: Lsn;
  readonly durableLsn: Lsn;
  readonly appliedLsn: Lsn;
  readonly checkpointLsn: Lsn;
  /** Memory that holds payload of records not yet applied. */
  readonly pendingBytes: number;
}

export class Group {
  readonly name: string;
  /** A UUID. */
  readonly id: string;
  readonly role: 'primary' | 'secondary';
  readonly createdAt: string;
  readonly regionBytes: number;
  readonly volumes: ReadonlyMap<string, Volume>;
  /** To secondaries. */
  readonly links: Links;
  /** What was found damaged when it was opened, a line each. */
  readonly warnings: readonly string[];
  readonly #state: GroupState;
  readonly #opened: OpenGroup;
  readonly #effects: ControlEffects;
  readonly #path: WritePath;
  readonly #applier: Applier;
  readonly #background: Background;
  readonly #snapshots: Snapshots;
  readonly #operations: Operations;
  readonly #changes = new Condition();
  /** Control records at the head that are not applied. Bounded by the log. */
  readonly #controls = new Map<LogBatch, Control>();
  #bug: string | undefined;
  /** Snapshots are being given up (rule S8). */
  #givingUp = false;
  #closing: Promise<void> | undefined;

  private constructor(opened: OpenGroup, recovered: RecoveredGroup, options: GroupOptions) {
    const { record } = opened;
    this.name = record.name;
    this.id = record.id;
    this.role = record.role;
    this.createdAt = record.createdAt;
    this.regionBytes = record.regionBytes;
    this.warnings = recovered.warnings;
    this.#opened = opened;
    this.#effects = recovered.effects;
    const state = recovered.state;
    this.#state = state;
    this.#path = new WritePath(state, this.#needsLog(recovered.batches.length > 0) ? 'logged' : 'direct');
    this.#applier = new Applier(state, this.#applierHooks());
    this.#background = new Background(state, this.#backgroundHooks());
    this.#background.copyBytesPerSecond = options.copyBytesPerSecond ?? 0;
    this.#snapshots = new Snapshots(state, recovered.effects, {
      beginLogging: () => this.#path.leaveDirect((until) => this.#applier.pause(until)),
      enqueue: (batch, control) => this.#enqueueControl(batch, control),
      applied: (lsn) => this.#applied(lsn),
      gaveUp: () => this.#retryNow(),
      check: () => this.#check(),
    });
    this.links = new Links(state, this.#linksHost(options.connector));
    state.log.onDurable = () => {
      this.#applier.poke();
      this.links.logDurable();
    };
    this.#operations = new Operations(state, this.#applier);
    this.#path.onBatch = (batch) => this.#applier.enqueue(batch);
    state.log.onFailure = (error) => this.#logFailed(error);
    this.volumes = new Map(
      state.volumes.map((volume) => [
        volume.name,
        new Volume(state, volume, this.#path, this.role === 'secondary'),
      ]),
    );
    this.#start(recovered.batches);
  }

  /**
   * Makes a group in a folder of its own. Throws `invalid`, `exists`, `not-found`, `in-use` or `disk`, and has left nothing behind then. (A
   * crash at the wrong moment may leave a blank file outside the folder, where the user asked for one.)
   */
  static async create(
    folder: DiskFolder,
    spec: GroupSpec,
    clock: Clock,
    options: GroupOptions = {},
  ): Promise<Group> {
    const { firstLsn } = options;
    const opened = await createGroup(folder, spec, clock, firstLsn === undefined ? {} : { firstLsn });
    try {
      return await Group.#begin(folder, opened, clock, options);
    } catch (error) {
      // All or nothing: the error is the one to tell, whatever becomes of this.
      await destroyGroup(folder)
        .then(opened.clearOutside)
        .catch(() => {});
      throw error;
    }
  }

  /**
   * Opens a group: what its log holds is applied while it is in use already. Throws `not-found` (also for one whose creation was cut short, which
   * is cleared away), `corrupt`, `in-use`, `unsupported` (made by a later version) or `disk`.
   */
  static async open(folder: DiskFolder, clock: Clock, options: GroupOptions = {}): Promise<Group> {
    return await Group.#begin(folder, await openGroup(folder, clock), clock, options);
  }

  static async #begin(
    folder: DiskFolder,
    opened: OpenGroup,
    clock: Clock,
    options: GroupOptions,
  ): Promise<Group> {
    try {
      const recovered = await recover(folder, opened, clock, {
        memoryBytes: options.memoryBytes ?? DEFAULT_GROUP_MEMORY_BYTES,
        emit: options.onEvent ?? (() => {}),
      });
      return new Group(opened, recovered, options);
    } catch (error) {
      await closeParts(opened);
      throw error;
    }
  }

  /** Removes a group that is not open, with its data, but for files and devices outside. Throws `not-found`, `in-use`, `disk`. */
  static async destroy(folder: DiskFolder): Promise<void> {
    await destroyGroup(folder);
  }

  /** Direct: writes go straight to the volumes (rule L4). */
  get mode(): 'direct' | 'logged' {
    return this.#path.mode;
  }

  /** Why the group takes no more writes, or undefined. */
  get failure(): string | undefined {
    return this.#bug ?? this.#path.failure?.message;
  }

  /** Why what is logged cannot be applied at the moment, or undefined. It is tried again; writers wait once the log is full. */
  get stall(): string | undefined {
    return this.#applier.stall ?? this.#background.held;
  }

  get log(): LogStatus {
    const { log, checkpointLsn } = this.#state;
    return {
      sizeBytes: log.capacityBytes,
      usedBytes: log.usedBytes,
      endLsn: log.endLsn,
      durableLsn: log.durableLsn,
      appliedLsn: this.#applier.appliedLsn,
      checkpointLsn,
      pendingBytes: log.keptBytes,
    };
  }

  get counters(): GroupCounters {
    return this.#state.counters;
  }

  /** The snapshots that have a name, oldest first. */
  get snapshots(): readonly SnapshotView[] {
    return this.#snapshots.views;
  }

  get operations(): readonly OperationView[] {
    return this.#operations.views;
  }

  snapshotVolume(snapshotName: string, volumeName: string): SnapshotVolume | undefined {
    return this.#snapshots.device(snapshotName, volumeName);
  }

  createSnapshot(name: string, options: { readonly local?: boolean } = {}): Promise<SnapshotView> {
    return this.#snapshots.create(name, options);
  }

  deleteSnapshot(name: string): Promise<void> {
    return this.#snapshots.delete(name);
  }

  renameSnapshot(name: string, to: string): Promise<void> {
    return this.#snapshots.rename(name, to);
  }

  refreshSnapshot(name: string, options: { readonly force?: boolean } = {}): Promise<SnapshotView> {
    return this.#snapshots.refresh(name, options);
  }

  detachSnapshot(name: string): Promise<void> {
    return this.#snapshots.detach(name);
  }

  planRestore(name: string, options: { readonly volume?: string } = {}): RestorePlan {
    return this.#snapshots.plan(name, options);
  }

  restore(name: string, options: { readonly volume?: string } = {}): Promise<RestoreResult> {
    return this.#snapshots.restore(name, options);
  }

  changedRuns(
    volume: string,
    from: string,
    to: string | undefined,
    first: RegionIndex,
    end: RegionIndex,
  ): RegionRun[] {
    return this.#snapshots.changedRuns(volume, from, to, first, end);
  }

  /**
   * Writes an image into a volume: only regions that differ are written, through the log where the group logs. The image stays the caller's. Throws
   * `not-found`, `invalid` when it is larger than the volume, `disk`.
   */
  async import(volumeName: string, image: Disk): Promise<ImportResult> {
    const volume = this.volumes.get(volumeName);
    if (volume === undefined)
      throw new EngineError('not-found', `the group has no volume ${JSON.stringify(volumeName)}`);
    return await this.#operations.during('import', volumeName, image.sizeBytes, 'bytes', (progress) =>
      importImage(volume, image, this.#state.clock, progress),
    );
  }

  /** Resolves when nothing is left to do in the background, or nothing can be done because a disk refuses. */
  async settled(): Promise<void> {
    const stuck = () => this.failure !== undefined || this.stall !== undefined || this.#closing !== undefined;
    while (!stuck()) {
      await this.#state.log.sync().catch(() => {});
      this.#applier.hurry();
      this.#applier.checkpointSoon();
      await this.#changes.until(() => this.#applier.isSettled || stuck());
      if (stuck()) return;
      this.#background.poke();
      await this.#background.idle();
      const restoring = this.#state.chain.restores.length > 0;
      if (restoring) await this.#changes.until(() => this.#state.chain.restores.length === 0 || stuck());
      else if (this.#applier.isSettled) return;
    }
  }

  /** Applies what it can, makes everything durable, and closes. Rejects with the first error, after everything is closed. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const errors: unknown[] = [];
    const step = async (run: () => Promise<unknown>): Promise<void> => {
      await run().catch((error: unknown) => errors.push(error));
    };
    const failedBefore = new Set([...this.volumes.values()].filter((volume) => volume.failure !== undefined));
    const isWorking = () => this.#applier.stall === undefined && this.failure === undefined;
    // What is in flight may wait for the log: it is applied, or refused.
    const idle = Promise.all([...this.volumes.values()].map((volume) => volume.close()));
    let isIdle = false;
    void idle.then(() => {
      isIdle = true;
      this.#changes.changed();
    });
    await this.#changes.until(() => isIdle || !isWorking());
    if (!isIdle) this.#path.close();
    await idle;
    this.#changes.changed();
    this.#path.close();
    await step(() => this.#snapshots.close());
    await step(() => this.links.close());
    await this.#background.close();
    if (isWorking()) await step(() => this.#state.log.sync());
    this.#applier.hurry();
    await this.#changes.until(() => this.#applier.isCaughtUp || !isWorking());
    await this.#applier.close();
    if (isWorking()) {
      // What was written directly, too.
      for (const volume of this.#state.volumes) {
        if (this.volumes.get(volume.name)?.failure === undefined) await step(() => volume.disk.sync());
      }
      await step(() => this.#state.lane(() => this.#applier.checkpoint()));
      await step(() => this.#applier.freeLog());
    }
    const { failure } = this.#state.log;
    if (failure !== undefined) errors.push(failure);
    for (const volume of this.volumes.values())
      if (volume.failure !== undefined && !failedBefore.has(volume))
        errors.push(new EngineError('unavailable', volume.failure, { errno: 'EIO' }));
    await step(() => this.#state.space.close());
    await step(() => closeState(this.#state));
    await step(() => this.#state.log.close());
    await step(() => closeVolumes(this.#opened));
    await step(() => this.#opened.file.close());
    if (errors.length > 0) throw errors[0];
  }

  #start(batches: readonly LogBatch[]): void {
    for (const batch of batches) {
      if (batch.control !== undefined) this.#controls.set(batch, controlOf(this.#state, batch));
      this.#applier.enqueue(batch);
    }
    if (batches.length > 0) this.#operations.beginReplay();
    this.#applier.start();
    this.#background.start();
    this.#background.poke();
    this.links.start();
  }

  #needsLog(pending: boolean): boolean {
    const { chain, detached, links } = this.#state;
    return pending || chain.nodes.length > 0 || detached.length > 0 || links.length > 0;
  }

  #linksHost(connector: PeerConnector | undefined): LinksHost {
    return {
      connector,
      beginLogging: () => this.#path.leaveDirect((until) => this.#applier.pause(until)),
      append: (control) => {
        this.#check();
        const enqueue = (batch: LogBatch, appended: Control) => this.#enqueueControl(batch, appended);
        return appendControl(this.#state, this.#effects, enqueue, control);
      },
      snapshots: () => this.#effects.named,
      applied: (lsn) => this.#applied(lsn),
      appliedLsn: () => this.#applier.appliedLsn,
      freed: () => {
        this.#applier.freeSoon();
        this.#background.poke();
      },
      changed: () => this.#changes.changed(),
      check: () => this.#check(),
      bug: (error) => this.#broke(error),
    };
  }

  #applierHooks() {
    return {
      prepareControl: (batch: LogBatch) => this.#effects.prepare(this.#controlOf(batch)),
      controlApplied: (batch: LogBatch) => {
        this.#controls.delete(batch);
      },
      flushMaps: async () => {
        for (const tracker of this.#state.trackers) await tracker.flush();
      },
      giveUp: () => this.#giveUp(),
      writersWait: () => this.#path.writersWait,
      checkpointed: () => {
        this.#path.shareMemory(this.#state.mapBytes);
        // It tells what it finds; that it cannot look is told by what fails.
        void this.#state.space.look().catch(() => {});
        this.#changes.changed();
      },
      bug: (error: unknown) => this.#broke(error),
      stalled: () => this.#changes.changed(),
      progress: () => {
        this.#background.poke();
        this.#operations.applied();
        this.#changes.changed();
      },
    };
  }

  #backgroundHooks() {
    return {
      enterDirect: () => this.#enterDirect(),
      removeDetached: () => this.#removeDetached(),
      restored: (restore: RestoreNode) => {
        const snapshot = restore.source.name ?? restore.source.id;
        const message = `everything that was restored from snapshot ${snapshot} is in the volumes now`;
        this.#state.emit({ type: 'restore.completed', message, data: { id: restore.id, snapshot } });
        this.#changes.changed();
      },
      detached: (id: string) => this.#noteSnapshot('detached', id, 'stands for itself now'),
      refreshed: (id: string) => this.#noteSnapshot('refresh-completed', id, 'has all of its refresh now'),
      freed: () => this.#applier.retryNow(),
      bug: (error: unknown) => this.#broke(error),
    };
  }

  #noteSnapshot(what: string, id: string, message: string): void {
    const name = this.#effects.byId(id)?.name ?? id;
    this.#state.emit({
      type: `snapshot.${what}`,
      message: `snapshot ${name} ${message}`,
      data: { snapshot: name },
    });
  }

  #controlOf(batch: LogBatch): Control {
    return this.#controls.get(batch) ?? controlOf(this.#state, batch);
  }

  #enqueueControl(batch: LogBatch, control: Control): void {
    this.#controls.set(batch, control);
    this.#applier.enqueue(batch);
    this.#changes.changed();
  }

  async #applied(lsn: Lsn): Promise<void> {
    this.#applier.hurry();
    await this.#changes.until(
      () => this.#applier.appliedLsn > lsn || this.failure !== undefined || this.#closing !== undefined,
    );
    this.#check();
  }

  /** Whether something needs the log, or is about to. */
  #isChanging(): boolean {
    const isBusy = this.#snapshots.isBusy || this.links.isBusy || this.#givingUp;
    return isBusy || this.#closing !== undefined || this.#needsLog(false);
  }

  /** Back to direct mode, when nothing needs the log. */
  async #enterDirect(): Promise<boolean> {
    if (this.#path.mode === 'direct' || this.#isChanging()) return false;
    const { log } = this.#state;
    const drain = async (): Promise<void> => {
      await log.sync();
      this.#applier.hurry();
      // Whoever takes a snapshot meanwhile ends this; the applier may wait for the background itself.
      const isOver = () => this.stall !== undefined || this.failure !== undefined || this.#isChanging();
      await this.#changes.until(() => this.#applier.isCaughtUp || isOver());
      if (isOver()) return;
      await this.#state.lane(() => this.#applier.checkpoint());
    };
    const isEmpty = (): boolean => !this.#isChanging() && log.endLsn === this.#state.checkpointLsn;
    if (!(await this.#path.enterDirect(drain, isEmpty))) return false;
    await this.#state.space.remove();
    return true;
  }

  /** A detached snapshot without a name: the record forgets it, then its files go. */
  async #removeDetached(): Promise<boolean> {
    const { detached, folder, readers } = this.#state;
    const victim = detached.find((snapshot) => snapshot.recordedName === null && snapshot.users === 0);
    if (victim === undefined) return false;
    const isUnneeded = () => victim.recordedName === null && victim.users === 0;
    const forgotten = await this.#state.lane(
      async () => isUnneeded() && (await this.#forgetDetached(victim)),
    );
    if (!forgotten) return true;
    await readers.drained();
    await victim.close();
    for (const name of await folder.list())
      if (name.startsWith(`snapshots/${victim.id}/`) && !name.endsWith('.preserved'))
        await folder.remove(name);
    return true;
  }

  async #forgetDetached(victim: DetachedSnapshot): Promise<true> {
    const { detached } = this.#state;
    const at = detached.indexOf(victim);
    detached.splice(at, 1);
    if (victim.refresh !== undefined) victim.refresh.layer.users--;
    try {
      await this.#state.writeRecord(this.#state.checkpointLsn);
    } catch (error) {
      detached.splice(at, 0, victim);
      if (victim.refresh !== undefined) victim.refresh.layer.users++;
      throw error;
    }
    return true;
  }

  /** A disk is full (rule S8). Whether space was made. */
  async #giveUp(): Promise<boolean> {
    if (this.#state.record.onFull === 'hold' || this.#closing !== undefined) return false;
    // The background must not wait for the applier meanwhile, which waits for the background here.
    this.#givingUp = true;
    this.#changes.changed();
    try {
      if (!(await this.#snapshots.giveUpOne())) return false;
      await this.#background.idle();
      return true;
    } finally {
      this.#givingUp = false;
      this.#background.poke();
    }
  }

  #retryNow(): void {
    this.#background.retryNow();
    this.#applier.retryNow();
  }

  #logFailed(error: EngineError): void {
    const message = `group ${this.name} takes no more writes: ${error.message}`;
    this.#path.fail(new EngineError('unavailable', message, { errno: 'EIO', cause: error }));
    this.#state.emit({ type: 'group.failed', message });
    for (const volume of this.volumes.values()) volume.fail(error.message);
    this.#changes.changed();
  }

  /** What only a bug explains: nothing more is changed, and what is logged stays there. */
  #broke(error: unknown): void {
    const why = error instanceof Error ? (error.stack ?? error.message) : String(error);
    this.#bug = `group ${this.name} stopped because of a bug: ${why}`;
    this.#path.fail(new EngineError('unavailable', this.#bug, { errno: 'EIO', cause: error }));
    this.#state.emit({ type: 'group.failed', message: this.#bug });
    this.#changes.changed();
  }

  #check(): void {
    if (this.#path.failure !== undefined) throw this.#path.failure;
    if (this.#closing === undefined) return;
    throw new EngineError('unavailable', `group ${this.name} is closing`, { errno: 'ESHUTDOWN' });
  }
}

/** Closes volumes and maps. */
async function closeVolumes(opened: OpenGroup): Promise<void> {
  const errors: unknown[] = [];
  for (const { map, disk } of opened.parts) {
    await map.close().catch((error: unknown) => errors.push(error));
    await disk.close().catch((error: unknown) => errors.push(error));
  }
  if (errors.length > 0) throw errors[0];
}

/** Closes all parts of a group that could not be opened. The log's disk closes with the log, or here. */
async function closeParts(opened: OpenGroup): Promise<void> {
  await opened.logDisk.close().catch(() => {});
  await closeVolumes(opened).catch(() => {});
  await opened.file.close().catch(() => {});
}
