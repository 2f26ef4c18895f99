/**
 * An open group: volumes that keep one write order among them, with their log, their snapshots, and what works on them.
 *
 * It composes the parts and holds no state of its own. `GroupState` is what they share; the way of a write is `Volume` → `WritePath` → `Log` →
 * `Applier`; `Snapshots` is what users change; `Background` does what nobody waits for.
 */
import { Background } from './background.ts';
import type { Clock } from './clock.ts';
import { Condition } from './condition.ts';
import { ControlQueue } from './control-queue.ts';
import type { Disk, DiskFolder } from './disk/disk.ts';
import { EngineError } from './errors.ts';
import { GivingUp } from './giving-up.ts';
import { closeGroup, closeParts } from './group-closing.ts';
import { GroupFailure } from './group-failure.ts';
import { createGroup, destroyGroup, type OpenGroup, openGroup } from './group-files.ts';
import { type GroupMemory, groupMemoryOf, mapBytesOf } from './group-memory.ts';
import { type RecoveredGroup, recover } from './group-recovery.ts';
import { settled } from './group-settling.ts';
import type { GroupSpec } from './group-spec.ts';
import type { GroupCounters, GroupEvent, GroupState } from './group-state.ts';
import { type ImportResult, importImage } from './import.ts';
import { PrimaryFeeder } from './link/feeder.ts';
import { Links, type LinksHost } from './link/links.ts';
import type { PeerConnector } from './link/peer.ts';
import { Applier } from './log/applier.ts';
import { enterDirect, needsLog } from './log/direct-entry.ts';
import { type LogStatus, logStatusOf } from './log/log-status.ts';
import type { LogBatch } from './log/record.ts';
import { WritePath } from './log/write-path.ts';
import type { RegionRun } from './map/region-map.ts';
import { Operations, type OperationView } from './operations.ts';
import { Replica } from './replica/replica.ts';
import type { ControlEffects } from './snapshot/control-effects.ts';
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

export class Group {
  readonly name: string;
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
  readonly #controls: ControlQueue;
  readonly #path: WritePath;
  readonly #failure: GroupFailure;
  readonly #applier: Applier;
  readonly #background: Background;
  readonly #snapshots: Snapshots;
  readonly #operations: Operations;
  readonly #changes = new Condition();
  readonly #givingUp: GivingUp;
  /** What a secondary answers its primary; undefined on a primary. */
  readonly replica: Replica | undefined;
  #closing: Promise<void> | undefined;

  private constructor(opened: OpenGroup, recovered: RecoveredGroup, options: GroupOptions) {
    const { record } = opened;
    this.name = record.name;
    this.role = record.role;
    this.createdAt = record.createdAt;
    this.regionBytes = record.regionBytes;
    this.warnings = recovered.warnings;
    this.#opened = opened;
    this.#effects = recovered.effects;
    const state = recovered.state;
    this.#state = state;
    const isLogged = recovered.batches.length > 0 || needsLog(state);
    this.#path = new WritePath(state, isLogged ? 'logged' : 'direct');
    this.#failure = new GroupFailure(state, this.#path, this.#changes);
    this.#applier = new Applier(state, this.#applierHooks());
    this.#controls = new ControlQueue(state, recovered.effects, this.#applier, this.#changes);
    this.#background = new Background(state, this.#backgroundHooks());
    this.#background.copyBytesPerSecond = options.copyBytesPerSecond ?? 0;
    this.#snapshots = new Snapshots(state, recovered.effects, {
      beginLogging: () => this.#beginLogging(),
      controls: this.#controls,
      restoreLogged: (plan, lsn) => this.links.restoreLogged(plan, lsn),
      applied: (lsn) => this.#applied(lsn),
      gaveUp: () => this.#retryNow(),
      checkRestore: (plan) => this.links.checkRestore(plan),
      check: () => this.#check(),
      isSecondary: record.replica !== null,
    });
    this.#givingUp = new GivingUp(state, this.#snapshots, this.#background, this.#changes);
    this.#operations = new Operations(state, this.#applier);
    this.#path.onBatch = (batch) => this.#applier.enqueue(batch);
    state.log.onFailure = (error) => this.#failure.logFailed(error, this.volumes.values());
    this.volumes = new Map(
      state.volumes.map((volume) => [
        volume.name,
        new Volume(state, volume, this.#path, this.role === 'secondary'),
      ]),
    );
    this.replica = this.#makeReplica(recovered);
    this.links = new Links(state, this.#linksHost(options.connector));
    state.log.onDurable = () => {
      this.#applier.poke();
      this.replica?.poke();
      this.links.logDurable();
    };
    this.#start(recovered);
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

  /** A UUID, the same on all members: a secondary has it from its primary. */
  get id(): string {
    return this.#state.record.id;
  }

  /** Direct: writes go straight to the volumes (rule L4). */
  get mode(): 'direct' | 'logged' {
    return this.#path.mode;
  }

  /** Why the group takes no more writes, or undefined. */
  get failure(): string | undefined {
    return this.#failure.reason;
  }

  /** Why what is logged cannot be applied at the moment, or undefined. It is tried again; writers wait once the log is full. */
  get stall(): string | undefined {
    return this.#applier.stall ?? this.#background.held;
  }

  get log(): LogStatus {
    return logStatusOf(this.#state, this.#applier.appliedLsn);
  }

  get memory(): GroupMemory {
    return groupMemoryOf(this.#state);
  }

  get counters(): GroupCounters {
    return this.#state.counters;
  }

  /** The snapshots that have a name, oldest first. */
  get snapshots(): readonly SnapshotView[] {
    return this.#snapshots.views;
  }

  get operations(): readonly OperationView[] {
    return [...this.#operations.views, ...this.links.operations];
  }

  snapshotVolume(snapshotName: string, volumeName: string): SnapshotVolume | undefined {
    return this.#snapshots.device(snapshotName, volumeName);
  }

  createSnapshot(name: string, options: { readonly local?: boolean } = {}): Promise<SnapshotView> {
    const replica = this.replica;
    if (replica === undefined) return this.#snapshots.create(name, options);
    if (options.local !== true)
      return this.#refused('a snapshot of all members is taken', 'use --local for one of this node alone');
    return this.#snapshots.create(name, { take: (local) => replica.takeLocal(local) });
  }

  deleteSnapshot(name: string): Promise<void> {
    return this.#snapshots.delete(name);
  }

  renameSnapshot(name: string, to: string): Promise<void> {
    if (this.replica !== undefined) return this.#refused('snapshots are renamed');
    return this.#snapshots.rename(name, to);
  }

  refreshSnapshot(name: string, options: { readonly force?: boolean } = {}): Promise<SnapshotView> {
    if (this.replica !== undefined) return this.#refused('snapshots are refreshed');
    return this.#snapshots.refresh(name, options);
  }

  detachSnapshot(name: string): Promise<void> {
    const isLocal = this.#effects.find(name)?.local ?? true;
    if (this.replica !== undefined && !isLocal) return this.#refused('snapshots of all members are detached');
    return this.#snapshots.detach(name);
  }

  /** Throws as `restore`, but for what force would overcome. */
  planRestore(name: string, options: { readonly volume?: string } = {}): RestorePlan {
    if (this.replica !== undefined) throw this.replica.restoreRefusal;
    return this.#snapshots.plan(name, options);
  }

  /** `force`: also where a link would refuse it ([0079]). */
  restore(
    name: string,
    options: { readonly volume?: string; readonly force?: boolean } = {},
  ): Promise<RestoreResult> {
    if (this.replica !== undefined) return Promise.reject(this.replica.restoreRefusal);
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
    if (this.replica !== undefined) return await this.#refused('volumes are imported into');
    const volume = this.volumes.get(volumeName);
    if (volume === undefined)
      throw new EngineError('not-found', `the group has no volume ${JSON.stringify(volumeName)}`);
    return await this.#operations.during('import', volumeName, image.sizeBytes, 'bytes', (progress) =>
      importImage(volume, image, this.#state.clock, progress),
    );
  }

  /** [0080]. */
  #refused(what: string, besides?: string): Promise<never> {
    const where = besides === undefined ? '' : `; ${besides}`;
    const message = `group ${this.name} is a secondary here: ${what} on its primary${where}`;
    return Promise.reject(new EngineError('invalid', message));
  }

  /** Resolves when nothing is left to do in the background, or nothing can be done because a disk refuses. */
  settled(): Promise<void> {
    return settled({
      state: this.#state,
      applier: this.#applier,
      background: this.#background,
      replica: this.replica,
      changes: this.#changes,
      isStuck: () => this.failure !== undefined || this.stall !== undefined || this.#closing !== undefined,
    });
  }

  /** Applies what it can, makes everything durable, and closes. Rejects with the first error, after everything is closed. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  #close(): Promise<void> {
    return closeGroup({
      state: this.#state,
      opened: this.#opened,
      volumes: this.volumes,
      path: this.#path,
      snapshots: this.#snapshots,
      background: this.#background,
      applier: this.#applier,
      replica: this.replica,
      links: this.links,
      changes: this.#changes,
      isWorking: () => this.#applier.stall === undefined && this.failure === undefined,
    });
  }

  #start({ batches, controls }: RecoveredGroup): void {
    for (const [batch, control] of controls) this.#controls.recovered(batch, control);
    for (const batch of batches) this.#applier.enqueue(batch);
    const last = batches.at(-1);
    if (last !== undefined) this.#operations.beginReplay(last.endLsn);
    this.#applier.start();
    this.replica?.start();
    this.#background.start();
    this.#background.poke();
    this.links.start();
  }

  #linksHost(connector: PeerConnector | undefined): LinksHost {
    return {
      connector,
      beginLogging: () => this.#beginLogging(),
      feeder: this.replica?.feeder ?? this.#primaryFeeder(),
      applied: (lsn) => this.#applied(lsn),
      appliedLsn: () => this.#applier.appliedLsn,
      freed: () => {
        this.#applier.freeSoon();
        this.#background.poke();
      },
      changed: () => {
        if (this.#controls.hasUntold) this.#applier.freeSoon();
        this.#changes.changed();
      },
      check: () => this.#check(),
      bug: (error) => this.#failure.broke(error),
    };
  }

  #primaryFeeder(): PrimaryFeeder {
    return new PrimaryFeeder(this.#state, {
      controls: this.#controls,
      snapshots: () => this.#effects.named,
      check: () => this.#check(),
    });
  }

  #applierHooks() {
    return {
      prepareControl: (batch: LogBatch) => this.#controls.prepare(batch),
      controlApplied: (batch: LogBatch) => this.#controls.applied(batch),
      flushMaps: async () => {
        for (const tracker of this.#state.trackers) await tracker.flush();
      },
      giveUp: async () => this.#closing === undefined && (await this.#givingUp.one()),
      writersWait: () =>
        this.#path.writersWait || this.replica?.wantsRoom === true || this.#controls.hasUntold,
      freed: () => {
        this.#path.freed();
        this.#controls.tellUntold();
      },
      checkpointed: () => {
        this.#path.shareMemory(mapBytesOf(this.#state));
        // It tells what it finds; that it cannot look is told by what fails.
        void this.#state.space.look().catch(() => {});
        this.#changes.changed();
      },
      bug: (error: unknown) => this.#failure.broke(error),
      stalled: () => this.#changes.changed(),
      progress: () => {
        this.#background.poke();
        this.#operations.applied();
        this.replica?.poke();
        this.#changes.changed();
      },
    };
  }

  #backgroundHooks() {
    return {
      enterDirect: () => this.#enterDirect(),
      changed: () => {
        this.replica?.poke();
        this.#changes.changed();
      },
      freed: () => this.#applier.retryNow(),
      bug: (error: unknown) => this.#failure.broke(error),
    };
  }

  #makeReplica({ needs, state, effects }: RecoveredGroup): Replica | undefined {
    if (needs === undefined) return undefined;
    return new Replica(state, effects, needs, {
      applier: this.#applier,
      controls: this.#controls,
      background: this.#background,
      changed: () => {
        this.#changes.changed();
        this.links.feederChanged();
      },
      fed: () => this.links,
      bug: (error) => this.#failure.broke(error),
      until: (holds) => this.#changes.until(holds),
      isClosing: () => this.#closing !== undefined || this.failure !== undefined,
      failure: () => this.failure,
      freed: () => this.#background.poke(),
    });
  }

  /** Leaves direct mode if need be; all that was written before is durable when it resolves. */
  #beginLogging(): Promise<void> {
    return this.#path.leaveDirect((until) => this.#applier.pause(until));
  }

  async #applied(lsn: Lsn): Promise<void> {
    this.#applier.hurry();
    await this.#changes.until(
      () => this.#applier.appliedLsn > lsn || this.failure !== undefined || this.#closing !== undefined,
    );
    this.#check();
  }

  /** Back to direct mode, when nothing needs the log. */
  #enterDirect(): Promise<boolean> {
    return enterDirect({
      state: this.#state,
      path: this.#path,
      applier: this.#applier,
      changes: this.#changes,
      isChanging: () =>
        this.#snapshots.isBusy ||
        this.links.isBusy ||
        this.#givingUp.isUnderWay ||
        this.#closing !== undefined,
      isStuck: () => this.stall !== undefined || this.failure !== undefined,
    });
  }

  #retryNow(): void {
    this.#background.retryNow();
    this.#applier.retryNow();
    this.replica?.poke();
  }

  #check(): void {
    if (this.#path.failure !== undefined) throw this.#path.failure;
    if (this.#closing === undefined) return;
    throw new EngineError('unavailable', `group ${this.name} is closing`, { errno: 'ESHUTDOWN' });
  }
}
