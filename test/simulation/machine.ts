/** The machine of a run and what goes on in it: how time passes, what is under way, and what is wrong. */
import type { Disk } from '../../engine/disk/disk.ts';
import { EngineError } from '../../engine/errors.ts';
import { Group, type GroupOptions } from '../../engine/group.ts';
import { Random } from '../fixtures/random.ts';
import { CELL_BYTES } from './cells.ts';
import { Violation } from './image.ts';
import { type Death, Model } from './model.ts';
import { type Plan, REGION_BYTES } from './plan.ts';
import { Scheduler } from './scheduler.ts';
import type { SimFolder } from './sim-disk.ts';
import type { SnapshotModel } from './snapshot-model.ts';
import { fileKind, Storage } from './storage.ts';

const SECTOR_BYTES = 512;
/** An operation that has not ended after that many steps never will. The longest of sound runs take some thousands. */
const LIVE_STEPS = 40_000;
/** How long is waited for what may be held up, by a full disk or one that fails. */
const HELD_STEPS = 400;
/** Which snapshot is given up is decided so many steps at most before it is told. */
const DECISION_STEPS = 500;
/** Requests under way at most, as a client's queue. */
const MAX_IN_FLIGHT = 12;

/** Something the world waits for. */
export interface Flight {
  readonly what: string;
  /** Through which it goes, if it does. */
  readonly snapshot: SnapshotModel | undefined;
  /** The operator asked for it; `alone`: and asks for nothing else before it has ended. */
  readonly control: boolean;
  readonly alone?: boolean;
}

/** Of two, one after the other with nobody who looked in between. */
function worse(death: Death, before: Death | undefined): Death {
  const order: readonly Death[] = ['killed', 'log lost', 'power cut'];
  return order.indexOf(before ?? 'killed') > order.indexOf(death) ? (before ?? death) : death;
}

/** What the operator has under way at most. */
const MAX_CONTROLS = 3;

export class Machine {
  readonly plan: Plan;
  readonly scheduler: Scheduler;
  readonly storage: Storage;
  readonly model: Model;
  readonly inFlight = new Set<Flight>();
  /** What happened, a line each; kept only when somebody wants to read it. */
  readonly trace: string[] | undefined;
  group: Group | undefined;
  /** Disks have failed or were full since the group was opened, so that it may refuse or hold what it would do else. */
  troubled = false;
  troubledEver = false;
  /**
   * A sync failed, so that the cache holds what no disk does, and calls it clean. No later process can tell from what it reads, so that one
   * begins with what the disk has: the power goes with the process.
   */
  lossy = false;
  /**
   * A sync of the log failed: what was acknowledged and not flushed may be lost, page cache or not. What the next process finds it writes again before it
   * counts (rule L6), so that the cache may well be kept.
   */
  #logLost = false;
  /** How the process that had the group ended, until what is left has been looked at. */
  death: Death | undefined;
  names = 0;
  /** Of the snapshot that was deleted last. */
  deletedName: string | undefined;
  #wrong: Error | undefined;
  #life = 0;
  /** A disk was full, or nearly, at some time. */
  shortEver = false;
  /** A disk was made to fail at some time. */
  faultyEver = false;
  /** Names of snapshots that were given up, as the group told. */
  readonly givenUp = new Set<string>();
  #usedAt = 0;
  /** Regions that restores may have moved since the group was opened. */
  restorable = 0;
  readonly progress = new Map<string, { readonly done: number; readonly total: number }>();
  #folder: SimFolder | undefined;

  constructor(plan: Plan, verbose: boolean) {
    this.plan = plan;
    this.scheduler = new Scheduler(new Random(plan.schedule));
    this.storage = new Storage(this.scheduler, plan.traits);
    const cells = plan.volumeSectors.map((sectors) => (sectors * SECTOR_BYTES) / CELL_BYTES);
    this.model = new Model(cells, REGION_BYTES / CELL_BYTES);
    this.trace = verbose ? [] : undefined;
  }

  note(what: () => string): void {
    this.trace?.push(`${String(this.scheduler.steps).padStart(6)}  ${what()}`);
  }

  get options(): GroupOptions {
    const { memoryBytes, copyBytesPerSecond } = this.plan;
    return {
      memoryBytes,
      copyBytesPerSecond,
      onEvent: (event) => {
        this.note(() => `event ${event.type}: ${event.message}`);
        if (event.type === 'snapshot.given-up') this.#noteGivenUp(String(event.data?.['snapshot']));
      },
    };
  }

  /** The group that is open; the world calls nothing else without one. */
  get open(): Group {
    if (this.group === undefined) throw new Error('bug: no group is open');
    return this.group;
  }

  /** Looks at what changed by itself. */
  observe(): void {
    this.#noteCheckpoint();
    const mode = this.group?.mode ?? 'direct';
    if (this.group !== undefined && mode !== this.model.mode) {
      this.note(() => `the group is in ${mode} mode`);
      this.model.observe(mode);
    }
    this.#forgetGone();
    this.#noteUse();
    for (const name of this.storage.failedSyncs.splice(0)) this.#syncFailed(name);
  }

  /**
   * A snapshot may be given up for want of space, where that is the group's policy, and for no other reason (rule S8): the undo snapshot first, then the oldest.
   * Which of them are in use cannot be seen from here, so that while anything may use one the order is not looked at.
   */
  #noteGivenUp(name: string): void {
    this.givenUp.add(name);
    if (this.plan.onFull === 'hold' || !this.shortEver) {
      this.report(new Violation('4 (S8)', `snapshot ${name} was given up, and was not to be`));
      return;
    }
    const victim = this.model.find(name);
    const views = this.group?.snapshots ?? [];
    const mayUse = this.scheduler.steps - this.#usedAt < DECISION_STEPS;
    if (victim === undefined || mayUse || name === 'undo') return;
    const better = views.find((view) => view.name === 'undo' || view.lsn < victim.lsn);
    if (better !== undefined)
      this.report(new Violation('4 (S8)', `snapshot ${name} was given up, and ${better.name} was not`));
  }

  #forgetGone(): void {
    if (this.givenUp.size === 0 || this.group === undefined) return;
    for (const name of this.givenUp) {
      const snapshot = this.model.find(name);
      const isThere = this.group.snapshots.some((view) => view.id === snapshot?.id);
      if (snapshot !== undefined && !snapshot.leaving && !isThere) this.model.forget(snapshot);
    }
  }

  /** A later checkpoint is in a record that was written whole: what a disk refused before is not there any more. What a dead process left is looked at first. */
  #noteCheckpoint(): void {
    if (this.group === undefined || this.death !== undefined) return;
    for (const snapshot of this.model.snapshots) {
      const since = snapshot.mayHaveLeftSince;
      if (since !== undefined && this.group.log.checkpointLsn > since) snapshot.mayHaveLeftSince = undefined;
    }
  }

  #syncFailed(name: string): void {
    this.note(() => `a sync of ${name} failed`);
    const volume = fileKind(name) === 'volume';
    const index = Number(/v(\d+)/.exec(name)?.[1] ?? 0);
    // While a group logs, what its volumes lack is written again from the log; but for what was written before it did.
    const isLogged = this.model.mode === 'logged' || this.group === undefined;
    if (volume && isLogged && !this.model.owesDirect(index)) return;
    // What was not durable of these is written again by the next process, before it counts (rule L6).
    if (fileKind(name) === 'record') return;
    if (fileKind(name) === 'log') {
      // One that fails while the group is opened loses what the process before it left in the log, and nothing else.
      if (this.group !== undefined) this.#logLost = true;
      else if (this.death === 'killed') this.death = 'log lost';
      return;
    }
    this.lossy = true;
    if (volume) this.model.loosen(this.model.volume(index));
    // What was written through a snapshot and not flushed may be gone at once.
    const [, id] = /^snapshots\/([^/]+)\/.*\.modified$/.exec(name) ?? [];
    const snapshot = this.model.snapshots.find((one) => one.id === id);
    if (snapshot !== undefined) this.model.loosen(snapshot.image(index));
  }

  /** Something that does not hold. The run ends at the next step. */
  report(error: unknown): void {
    this.#wrong ??= error instanceof Error ? error : new Error(String(error));
  }

  throwIfWrong(): void {
    if (this.#wrong !== undefined) throw this.#wrong;
  }

  async step(): Promise<boolean> {
    const any = await this.scheduler.step();
    this.observe();
    this.throwIfWrong();
    return any;
  }

  async steps(count: number): Promise<void> {
    for (let left = count; left > 0; left--) if (!(await this.step())) return;
  }

  /** When anything was last seen that may use a snapshot. */
  #noteUse(): void {
    if (this.plan.onFull === 'hold' || !this.shortEver || this.group === undefined) return;
    const { snapshots, operations } = this.group;
    const isUsed =
      operations.length > 0 || this.controlBusy || snapshots.some((one) => one.state !== 'attached');
    if (isUsed) this.#usedAt = this.scheduler.steps;
  }

  /** Goes on until something is so; with disks fine it has to come (invariant 8). */
  async until(what: string, condition: () => boolean): Promise<void> {
    for (let left = LIVE_STEPS; left > 0; left--) {
      if (condition()) return;
      if (!(await this.step())) break;
    }
    if (condition()) return;
    const waiting = [...this.inFlight].map((flight) => flight.what).join(', ');
    throw new Violation('8 (live)', `${what} does not come about; under way: ${waiting || 'nothing'}`);
  }

  /** As `until`, but gives up where the disks may be what holds it. */
  async attempt(what: string, condition: () => boolean): Promise<boolean> {
    if (!this.troubled) {
      await this.until(what, condition);
      return true;
    }
    for (let left = HELD_STEPS; left > 0; left--) {
      if (condition()) return true;
      if (!(await this.step())) break;
    }
    return condition();
  }

  async roomForOneMore(): Promise<void> {
    await this.attempt('a free place in the queue', () => this.inFlight.size < MAX_IN_FLIGHT);
  }

  get full(): boolean {
    return this.inFlight.size >= MAX_IN_FLIGHT;
  }

  get controlBusy(): boolean {
    return [...this.inFlight].some((flight) => flight.control);
  }

  /** Whether the operator may ask for more while what was asked is under way. What disks in trouble do to two at a time is too much to follow. */
  get mayAskTogether(): boolean {
    const controls = [...this.inFlight].filter((flight) => flight.control);
    return (
      !this.troubled && controls.length < MAX_CONTROLS && !controls.some((flight) => flight.alone === true)
    );
  }

  /**
   * Follows a promise of the engine. `refused` says whether the error is one that may be; anything else is a violation, as is an error that is none of
   * the engine's. What belongs to a process that has died is never heard of again.
   */
  follow<T>(
    flight: Flight,
    promise: Promise<T>,
    done: (value: T) => void,
    refused: (error: EngineError) => boolean,
  ): void {
    const life = this.#life;
    this.inFlight.add(flight);
    const end = (act: () => void): void => {
      if (life !== this.#life) return;
      this.inFlight.delete(flight);
      try {
        this.observe();
        act();
      } catch (error) {
        this.report(error);
      }
    };
    promise.then(
      (value) => end(() => done(value)),
      (error: unknown) => end(() => this.#failed(flight, error, refused)),
    );
  }

  #failed(flight: Flight, error: unknown, refused: (error: EngineError) => boolean): void {
    this.note(() => `${flight.what}: ${error instanceof Error ? error.message : error}`);
    if (!(error instanceof EngineError)) throw error;
    if (refused(error)) return;
    throw new Violation('8 (live)', `${flight.what} was refused: ${error.code}: ${error.message}`);
  }

  /** Whether this error is one that disks in trouble explain. */
  excused(error: EngineError): boolean {
    return (
      this.troubled && (error.code === 'disk' || error.code === 'unavailable' || error.code === 'corrupt')
    );
  }

  /** Disks are about to fail. */
  trouble(): void {
    this.troubled = true;
    this.troubledEver = true;
  }

  /** The disks as the process that runs has them. */
  get folder(): SimFolder {
    if (this.#folder === undefined) throw new Error('bug: no process runs');
    return this.#folder;
  }

  /** The disks as the next process finds them. */
  newFolder(): SimFolder {
    if (this.#folder === undefined || this.#folder.dead) this.#folder = this.storage.folder();
    return this.#folder;
  }

  openImage(path: string): Promise<Disk> {
    return this.folder.openImage(path);
  }

  /** Ends the process. */
  die(power: boolean): void {
    this.observe();
    let cut = power || this.lossy;
    this.model.died();
    this.#life++;
    this.inFlight.clear();
    this.progress.clear();
    this.group = undefined;
    this.storage.kill(cut);
    if (!cut && this.storage.failedSyncs.length > 0) {
      // Nobody heard of it, and what it lost is lost.
      this.storage.kill(true);
      cut = true;
    }
    this.note(() => (cut ? 'power cut' : 'killed'));
    this.storage.failedSyncs = [];
    this.death = worse(cut ? 'power cut' : this.#logLost ? 'log lost' : 'killed', this.death);
    this.lossy = false;
    this.#logLost = false;
  }

  /** Begins to make the group; `group` is set when it is there. The disks are fine. */
  beginCreate(): void {
    const { plan } = this;
    const spec = {
      name: 'g',
      regionBytes: REGION_BYTES,
      volumes: plan.volumeSectors.map((sectors, index) => ({
        name: `v${index}`,
        sizeBytes: sectors * SECTOR_BYTES,
      })),
      logBytes: plan.logBytes,
      onFull: plan.onFull,
    };
    const options = { ...this.options, firstLsn: plan.firstLsn };
    const made = Group.create(this.newFolder(), spec, this.scheduler.clock(), options);
    this.#follow('create', made, (error) => this.excused(error));
  }

  #follow(what: string, opening: Promise<Group>, refused: (error: EngineError) => boolean): void {
    const flight = { what, snapshot: undefined, control: false };
    const done = (group: Group): void => {
      this.group = group;
      this.restorable = group.counters.regionsRestored;
      for (const { kind, done: moved, total } of group.operations)
        if (kind === 'restore') this.restorable += total - moved;
      this.note(() => `${what}: the group is open`);
    };
    this.follow(flight, opening, done, refused);
  }

  /** Begins to open what is there; `group` is set when it is. */
  beginOpen(refused: (error: EngineError) => boolean = (error) => this.excused(error)): void {
    this.troubled =
      this.storage.faults.length > 0 || this.storage.space.totalPages !== Number.POSITIVE_INFINITY;
    // Whoever could not open it has left nothing open, so that the same process may try again.
    this.#follow('open', Group.open(this.newFolder(), this.scheduler.clock(), this.options), refused);
  }
}
