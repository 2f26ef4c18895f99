/** One node of several: its disks, and the process that has its group, if one runs. */
import { EngineError } from '../../../engine/errors.ts';
import { Group, type GroupOptions } from '../../../engine/group.ts';
import type { GroupSpec } from '../../../engine/group-spec.ts';
import type { ReplicaPort } from '../../../engine/link/peer.ts';
import { MachineTasks, type Scheduler } from '../scheduler.ts';
import { Storage, type Traits } from '../storage.ts';
import type { Host } from './network.ts';

export class SimNode implements Host {
  readonly number: number;
  readonly storage: Storage;
  readonly #tasks: MachineTasks;
  /** Grows with each process. */
  life = 0;
  group: Group | undefined;
  /** A process runs, or begins to. */
  isUp = false;
  /** The number of the state that it showed last: it never shows an earlier one again. */
  shownAt = 0;
  /** The number of the last state that it may show however young it is: somebody, or something, has shortened its delay (rule K12). */
  shortenedTo = 0;
  /** Its operator has asked it to go on, and was not answered yet. */
  thaws = 0;
  /** Writes through its snapshots: what those show is in between while they differ. */
  readonly ownWrites = { begun: 0, ended: 0 };
  /** Its snapshots that a write may be in that was made through what they were before a refresh, by id. */
  readonly unsure = new Set<string>();
  readonly #report: (error: unknown) => void;

  constructor(number: number, scheduler: Scheduler, traits: Traits, report: (error: unknown) => void) {
    this.number = number;
    this.#tasks = new MachineTasks(scheduler);
    this.storage = new Storage(this.#tasks, traits);
    this.#report = report;
  }

  get port(): ReplicaPort | undefined {
    return this.group?.replica;
  }

  create(spec: GroupSpec, options: GroupOptions): void {
    this.#begin(Group.create(this.storage.folder(), spec, this.#tasks.clock(), options));
  }

  open(options: GroupOptions): void {
    this.#begin(Group.open(this.storage.folder(), this.#tasks.clock(), options));
  }

  #begin(opening: Promise<Group>): void {
    this.isUp = true;
    const { life } = this;
    opening.then(
      (group) => {
        if (life === this.life) this.group = group;
      },
      (error: unknown) => {
        if (life !== this.life) return;
        const what = error instanceof EngineError ? `${error.code}: ${error.message}` : error;
        this.#report(new Error(`node ${this.number} does not open its group: ${String(what)}`));
      },
    );
  }

  /** The process is dead; with `power` the page cache is lost as well. */
  die(power: boolean): void {
    this.life++;
    this.thaws = 0;
    this.isUp = false;
    this.group = undefined;
    this.storage.kill(power);
  }
}
