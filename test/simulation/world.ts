/** Makes a run: does what the plan says, step by step, and checks what has to hold. */

import { beginVerify, checkMaps, snapshotTarget, volumeTarget } from './checks.ts';
import { Control } from './control.ts';
import { createGroup } from './creation.ts';
import { damageLog } from './damage.ts';
import { Violation } from './image.ts';
import { Machine } from './machine.ts';
import { matchSnapshots } from './matching.ts';
import type { Death } from './model.ts';
import { idle, waitForSpace, whenFull } from './moments.ts';
import type { Operation, Plan } from './plan.ts';
import { Requests, type Target } from './requests.ts';
import { reactions } from './scheduler.ts';

type CrashAgain = Extract<Operation, { op: 'crash' }>['again'];

export class World {
  readonly machine: Machine;
  readonly #requests: Requests;
  readonly #control: Control;

  constructor(plan: Plan, verbose: boolean) {
    this.machine = new Machine(plan, verbose);
    this.#requests = new Requests(this.machine);
    this.#control = new Control(this.machine);
  }

  async run(): Promise<void> {
    const { machine } = this;
    await createGroup(machine);
    for (const operation of machine.plan.operations) {
      await this.#do(operation);
      await reactions();
      machine.observe();
      machine.throwIfWrong();
      await machine.steps(operation.steps);
    }
    await this.#finish();
  }

  async #do(operation: Operation): Promise<void> {
    const { machine } = this;
    if ('pick' in operation) {
      const together = 'together' in operation && operation.together === true;
      if (!(await this.#mayAsk(together))) return;
      if (!machine.full) await this.#snapshotOperation(operation);
      return;
    }
    switch (operation.op) {
      case 'crash':
        await this.#crash(operation.power, operation.again);
        return;
      case 'reopen':
        await this.#reopen();
        return;
      case 'verify':
        if (!machine.full) beginVerify(machine, this.#requests);
        return;
      case 'wait':
        if (!(await machine.attempt('an end of all requests', () => machine.inFlight.size === 0)))
          await waitForSpace(machine);
        checkMaps(machine);
        return;
      case 'settled':
        await this.#settled();
        return;
      case 'settle':
        this.#requests.settle();
        return;
      case 'idle':
        await idle(machine);
        return;
      case 'when-full':
        this.#requests.settle();
        await whenFull(machine, this.#control, operation.place);
        return;
      case 'damage':
        await this.#damage(operation.power, operation.place);
        return;
      case 'refusals':
        this.#control.refusals();
        return;
      case 'fault':
        machine.trouble();
        machine.faultyEver = true;
        machine.storage.faults.push({
          operation: operation.operation,
          file: operation.file,
          times: operation.times,
        });
        machine.note(
          () => `from now on ${operation.operation} of ${operation.file} fails, times: ${operation.times}`,
        );
        return;
      case 'space':
        machine.trouble();
        machine.shortEver = true;
        machine.storage.limitSpace(operation.pages);
        machine.note(() => `the disk has ${operation.pages} pages left`);
        return;
      case 'heal':
        machine.storage.heal();
        return;
      case 'snapshot':
        if (await this.#mayAsk(operation.together === true))
          this.#control.snapshot(operation.local, operation.again ?? false);
        return;
      case 'import':
        await this.#control.import(operation.volume, operation.cell, operation.cells);
        return;
      default:
        await machine.roomForOneMore();
        if (!machine.full) this.#request(volumeTarget(machine, operation.volume), operation);
    }
  }

  /** Whether the operator may ask for something now, after waiting for what was asked before. */
  async #mayAsk(together: boolean): Promise<boolean> {
    const { machine } = this;
    if (!machine.controlBusy || (together && machine.mayAskTogether)) return true;
    return await machine.attempt('an end of what the operator asked', () => !machine.controlBusy);
  }

  #request(target: Target, operation: Extract<Operation, { volume: number }>): void {
    const requests = this.#requests;
    switch (operation.op) {
      case 'write':
        requests.write(target, operation, operation.inline, operation.settle);
        return;
      case 'snapshot-write':
        requests.write(target, operation, operation.inline, true);
        return;
      case 'zero':
        requests.zero(target, operation, operation);
        return;
      case 'trim':
      case 'snapshot-trim':
        requests.trim(target, operation);
        return;
      case 'flush':
      case 'snapshot-flush':
        requests.flush(target);
        return;
      case 'read':
      case 'snapshot-read':
        requests.read(target, operation, operation.inline);
        return;
    }
  }

  async #snapshotOperation(operation: Extract<Operation, { pick: number }>): Promise<void> {
    const snapshot = this.#control.pick(operation);
    if (snapshot === undefined) return;
    switch (operation.op) {
      case 'delete':
        this.#control.delete(snapshot);
        return;
      case 'rename':
        this.#control.rename(snapshot);
        return;
      case 'refresh':
        await this.#control.refresh(snapshot, operation.force);
        return;
      case 'detach':
        await this.#control.detach(snapshot);
        return;
      case 'restore':
        if (!this.#control.isUndoAsked || (await this.#mayAsk(false)))
          await this.#control.restore(snapshot, operation.volume);
        return;
      default:
        this.#request(snapshotTarget(this.machine, snapshot, operation.volume), operation);
    }
  }

  /** Everything that goes on by itself comes to its end. */
  async #settled(): Promise<void> {
    const { machine } = this;
    let settled = false;
    const flight = { what: 'settled', snapshot: undefined, control: false };
    machine.follow(
      flight,
      machine.open.settled(),
      () => (settled = true),
      (error) => machine.excused(error),
    );
    await machine.attempt('an end of what goes on by itself', () => settled);
  }

  async #crash(power: boolean, again: CrashAgain): Promise<void> {
    this.#requests.forget();
    this.machine.die(power);
    await this.#reopenAfterDeath(again);
  }

  async #damage(power: boolean, place: number): Promise<void> {
    const { machine } = this;
    const known = machine.open.log;
    const failed = machine.open.failure !== undefined;
    this.#requests.forget();
    machine.die(power);
    if (!machine.troubledEver && !failed) await damageLog(machine, known, place);
    await this.#reopenAfterDeath([]);
  }

  /** Closes the group and opens it again. Nothing that was acknowledged may be lost, whatever happens to the machine in between. */
  async #reopen(): Promise<void> {
    const { machine } = this;
    this.#requests.settle();
    await machine.attempt('an end of all requests', () => machine.inFlight.size === 0);
    const closed = await this.#close();
    this.#requests.forget();
    if (closed) machine.model.closed();
    machine.die(closed ? machine.scheduler.random.chance(0.5) : false);
    await this.#reopenAfterDeath([]);
  }

  /** Whether it could make everything durable. What has failed promises nothing any more. */
  async #close(): Promise<boolean> {
    const { machine } = this;
    const failed =
      machine.open.failure !== undefined ||
      [...machine.open.volumes.values()].some((one) => one.failure !== undefined);
    let closed: boolean | undefined;
    const flight = { what: 'close', snapshot: undefined, control: false };
    const refused = (error: Parameters<typeof machine.excused>[0]): boolean => {
      closed = false;
      return machine.excused(error);
    };
    machine.follow(flight, machine.open.close(), () => (closed = true), refused);
    await machine.attempt('the end of close', () => closed !== undefined);
    return closed === true && !failed;
  }

  /** Opens what a crash left, with further crashes on the way, and looks at all of it. */
  async #reopenAfterDeath(again: CrashAgain): Promise<void> {
    const { machine } = this;
    for (const crash of again) {
      let found = false;
      const finding = this.#find(() => (found = true));
      for (let left = crash.steps; left > 0 && !found; left--) await machine.step();
      if (found) break;
      machine.die(crash.power);
      // What waited for the dead process waits for ever.
      finding.abandoned = true;
    }
    if (machine.death !== undefined) await this.#findAll();
  }

  async #findAll(): Promise<void> {
    const { machine } = this;
    let found = false;
    this.#find(() => (found = true));
    if (await machine.attempt('an open group', () => found)) return;
    // Disks in trouble may keep it from opening; once they are fine it has to.
    machine.storage.heal();
    machine.note(() => 'the disks work again');
    machine.die(false);
    this.#find(() => (found = true));
    await machine.until('an open group', () => found);
  }

  /** Opens the group, and reads everything before anybody writes. Tries again where a disk refuses. */
  #find(done: () => void): { abandoned: boolean } {
    const { machine } = this;
    const state = { abandoned: false };
    const finding = async (): Promise<void> => {
      machine.beginOpen();
      while (machine.group === undefined) {
        await machine.scheduler.clock().turn();
        if (state.abandoned) return;
        if (machine.group !== undefined || machine.inFlight.size > 0) continue;
        // A process that could not open it because of a sync leaves what one that dies after a failed sync leaves.
        if (machine.lossy) machine.die(false);
        machine.beginOpen();
      }
      await this.#look();
      done();
    };
    finding().catch((error: unknown) => machine.report(error));
    return state;
  }

  async #look(): Promise<void> {
    const { machine } = this;
    const { model } = machine;
    const death: Death = machine.death ?? 'killed';
    matchSnapshots(machine, machine.open.snapshots, undefined);
    const volumes: Int32Array[] = [];
    for (let volume = 0; volume < model.volumes.length; volume++) {
      const seen = await this.#requests.readRaw(volumeTarget(machine, volume));
      if (seen !== undefined) volumes.push(seen);
    }
    model.recovered(death, volumes, machine.open.mode);
    for (const snapshot of model.snapshots) {
      const values: Int32Array[] = [];
      for (let volume = 0; volume < model.volumes.length; volume++) {
        // It may be given up while it is looked at.
        if (!model.snapshots.includes(snapshot)) break;
        const seen = await this.#requests.readRaw(snapshotTarget(machine, snapshot, volume));
        if (seen !== undefined) values.push(seen);
      }
      if (values.length === model.volumes.length) model.snapshotRecovered(death, snapshot, values);
    }
    machine.death = undefined;
    checkMaps(machine);
  }

  /** The disks are fine, everything ends, and is what it has to be; also after the last close. */
  async #finish(): Promise<void> {
    const { machine } = this;
    machine.storage.heal();
    this.#requests.settle();
    if (machine.troubledEver) {
      await machine.attempt('an end of all requests', () => machine.inFlight.size === 0);
      await this.#reopen();
      machine.troubled = false;
    }
    await machine.until('an end of all requests', () => machine.inFlight.size === 0);
    await this.#settled();
    beginVerify(machine, this.#requests);
    await machine.until('an end of all requests', () => machine.inFlight.size === 0);
    await this.#reopen();
    beginVerify(machine, this.#requests);
    await machine.until('an end of all requests', () => machine.inFlight.size === 0);
    if (!(await this.#close())) throw new Violation('8 (live)', 'the group does not close');
  }
}
