/**
 * Who goes next, and what time it is. One thread, and every choice from the seed: whatever the engine waits for (a disk, a turn, a timer) is a
 * task here, and the world advances by one task at a time.
 *
 * The engine uses promises and nothing else to wait, so after a task has run everybody who can react does so before the next one is
 * chosen: see `reactions`. What happens is a function of the seed and of the order in which the engine asks for things, and of
 * nothing else.
 */
import type { Clock, Timer } from '../../engine/clock.ts';
import type { Random } from '../fixtures/random.ts';

export interface Task {
  /** What it does, and the answer to whoever waits. */
  perform(): void;
  /** What it may have done when the process died before it was answered; the seed says whether. */
  orphan?(): void;
}

/** Where the processes of one machine put what they wait for: the scheduler itself where there is only one, else a `MachineTasks`. */
export interface Tasks {
  readonly random: Random;
  readonly steps: number;
  readonly nowMs: number;
  add(task: Task): void;
  addTimer(delayMs: number, run: () => void): DueTimer;
  clock(): SimClock;
  /** The process is dead: some of what it had under way happens even so, nobody learns of it, and its timers never run out. */
  orphanAll(): void;
}

interface OwnedTask {
  readonly task: Task;
  readonly owner: object | undefined;
}

interface LateTask {
  readonly owned: OwnedTask;
  readonly notBefore: number;
}

export interface DueTimer {
  readonly dueMs: number;
  readonly owner: object | undefined;
  run: (() => void) | undefined;
}

/** One task in so many takes far longer than the others. */
const LATE_SHARE = 0.03;
/** How many steps the longest take. */
const LATEST_STEPS = 120;
/** One step in so many takes a millisecond. */
const TICK_SHARE = 0.2;
/** One step in so many lets the next timer run out at once, however much there is to do. */
const HURRY_SHARE = 0.01;

/** Settles when every reaction to what happened has run: Node calls ticks once no promise has anything left to do. */
export function reactions(): Promise<void> {
  return new Promise((resolve) => {
    process.nextTick(resolve);
  });
}

export class Scheduler implements Tasks {
  readonly random: Random;
  /** Tasks done so far. */
  steps = 0;
  nowMs = 1_700_000_000_000;
  #ready: OwnedTask[] = [];
  #late: LateTask[] = [];
  #timers: DueTimer[] = [];

  constructor(random: Random) {
    this.random = random;
  }

  add(task: Task, owner?: object): void {
    const owned = { task, owner };
    if (!this.random.chance(LATE_SHARE)) this.#ready.push(owned);
    else this.#late.push({ owned, notBefore: this.steps + this.random.between(2, LATEST_STEPS) });
  }

  /** The clock of one process: its timers die with it. */
  clock(): SimClock {
    return new SimClock(this);
  }

  addTimer(delayMs: number, run: () => void, owner?: object): DueTimer {
    const timer = { dueMs: this.nowMs + Math.max(0, delayMs), owner, run };
    this.#timers.push(timer);
    return timer;
  }

  /** Whether anything but timers is to be done. */
  get busy(): boolean {
    return this.#ready.length > 0 || this.#late.length > 0;
  }

  /** Does one thing, and waits for the reactions. False when there is nothing to do, ever. */
  async step(): Promise<boolean> {
    // What was asked a moment ago may lead to tasks, or to an end, by itself.
    if (!this.busy) await reactions();
    const owned = this.#take();
    if (owned === undefined) return false;
    this.steps++;
    owned.task.perform();
    await reactions();
    return true;
  }

  /** Of one owner, or of all. */
  orphanAll(owner?: object): void {
    const isMeant = (one: { readonly owner: object | undefined }): boolean =>
      owner === undefined || one.owner === owner;
    const late = this.#late.map((one) => one.owned);
    const tasks = [...this.#ready, ...late].filter(isMeant).map((owned) => owned.task);
    this.#ready = this.#ready.filter((one) => !isMeant(one));
    this.#late = this.#late.filter((one) => !isMeant(one.owned));
    this.#timers = this.#timers.filter((timer) => !isMeant(timer));
    while (tasks.length > 0) {
      const index = this.random.below(tasks.length);
      const task = tasks[index];
      const last = tasks.pop();
      if (last !== undefined && index < tasks.length) tasks[index] = last;
      if (this.random.chance(0.5)) task?.orphan?.();
    }
  }

  #take(): OwnedTask | undefined {
    if (this.random.chance(TICK_SHARE)) this.#passTime(this.nowMs + 1);
    if (this.#timers.length > 0 && this.random.chance(HURRY_SHARE)) this.#passTime(this.#nextDueMs());
    this.#admitLate();
    if (this.#ready.length === 0 && this.#timers.length > 0) this.#passTime(this.#nextDueMs());
    const index = this.random.below(this.#ready.length);
    const owned = this.#ready[index];
    const last = this.#ready.pop();
    if (last !== undefined && index < this.#ready.length) this.#ready[index] = last;
    return owned;
  }

  #admitLate(): void {
    if (this.#late.length === 0) return;
    const still: LateTask[] = [];
    for (const late of this.#late) {
      if (late.notBefore <= this.steps) this.#ready.push(late.owned);
      else still.push(late);
    }
    this.#late = still;
    if (this.#ready.length > 0) return;
    // Nothing else is left, so the wait is over for one of them.
    const first = this.#late.shift();
    if (first !== undefined) this.#ready.push(first.owned);
  }

  #nextDueMs(): number {
    let dueMs = Number.POSITIVE_INFINITY;
    for (const timer of this.#timers) {
      if (timer.run !== undefined) dueMs = Math.min(dueMs, timer.dueMs);
    }
    return dueMs;
  }

  /** Timers that have run out are tasks like others: a timer may be late, and run after one that was due later. */
  #passTime(toMs: number): void {
    if (toMs === Number.POSITIVE_INFINITY) this.#timers = [];
    else this.nowMs = Math.max(this.nowMs, toMs);
    if (this.#timers.length === 0) return;
    const still: DueTimer[] = [];
    for (const timer of this.#timers) {
      if (timer.run === undefined) continue;
      if (timer.dueMs <= this.nowMs)
        this.#ready.push({ task: { perform: () => fire(timer) }, owner: timer.owner });
      else still.push(timer);
    }
    this.#timers = still;
  }
}

function fire(timer: DueTimer): void {
  const { run } = timer;
  timer.run = undefined;
  run?.();
}

/** The tasks of one machine among several. */
export class MachineTasks implements Tasks {
  readonly #scheduler: Scheduler;

  constructor(scheduler: Scheduler) {
    this.#scheduler = scheduler;
  }

  get random(): Random {
    return this.#scheduler.random;
  }

  get steps(): number {
    return this.#scheduler.steps;
  }

  get nowMs(): number {
    return this.#scheduler.nowMs;
  }

  add(task: Task): void {
    this.#scheduler.add(task, this);
  }

  addTimer(delayMs: number, run: () => void): DueTimer {
    return this.#scheduler.addTimer(delayMs, run, this);
  }

  clock(): SimClock {
    return new SimClock(this);
  }

  orphanAll(): void {
    this.#scheduler.orphanAll(this);
  }
}

export class SimClock implements Clock {
  readonly #scheduler: Tasks;

  constructor(scheduler: Tasks) {
    this.#scheduler = scheduler;
  }

  nowMs(): number {
    return this.#scheduler.nowMs;
  }

  after(delayMs: number, run: () => void): Timer {
    const timer = this.#scheduler.addTimer(delayMs, run);
    return {
      cancel: () => {
        timer.run = undefined;
      },
    };
  }

  turn(): Promise<void> {
    return new Promise((resolve) => {
      this.#scheduler.add({ perform: resolve });
    });
  }
}
