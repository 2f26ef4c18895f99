/** Moments in which more can be said than at others: nobody asks for anything, or there is no space at all. */
import type { Control } from './control.ts';
import { Violation } from './image.ts';
import type { Machine } from './machine.ts';

/** Rule L9: what is logged becomes durable unasked, and is applied, unless a disk refuses. */
export async function idle(machine: Machine): Promise<void> {
  if (!(await machine.attempt('an end of all requests', () => machine.inFlight.size === 0))) return;
  const { endLsn } = machine.open.log;
  const isDone = (): boolean => {
    const { failure, stall, log } = machine.open;
    return failure !== undefined || stall !== undefined || log.appliedLsn >= endLsn;
  };
  await machine.attempt('that what is logged becomes durable and is applied, unasked,', isDone);
}

/**
 * Without any space a snapshot is taken, the applier passes its record (rule S5), and one is deleted (rule S4). What else goes on has ended before,
 * so that nothing has a right to need any.
 */
export async function whenFull(machine: Machine, control: Control, place: number): Promise<void> {
  if (machine.troubled || machine.open.mode !== 'logged') return;
  await machine.until('an end of all requests', () => machine.inFlight.size === 0);
  let settled = false;
  const flight = { what: 'settled', snapshot: undefined, control: false };
  machine.follow(
    flight,
    machine.open.settled(),
    () => (settled = true),
    () => false,
  );
  await machine.until('an end of what goes on by itself', () => settled);
  if (machine.open.mode !== 'logged') return;
  machine.storage.limitSpace(0);
  machine.note(() => 'the disk is full');
  control.snapshot(false, false);
  await machine.until('a snapshot on a full disk', () => machine.inFlight.size === 0);
  const { endLsn } = machine.open.log;
  await machine.until('that the record of a snapshot is applied on a full disk', () => {
    if (machine.open.failure !== undefined) throw new Violation('8 (live)', machine.open.failure);
    return machine.open.log.appliedLsn >= endLsn;
  });
  const snapshot = control.pick({ pick: place });
  if (snapshot !== undefined) control.delete(snapshot);
  await machine.until('a deletion on a full disk', () => machine.inFlight.size === 0);
  machine.storage.heal();
  machine.note(() => 'there is space again');
}

/** Rule S8: where that is the policy, no writer waits for space as long as there is a snapshot to give up. */
export async function waitForSpace(machine: Machine): Promise<void> {
  if (machine.plan.onFull !== 'give-up' || machine.faultyEver) return;
  const isDone = (): boolean => {
    const { snapshots, operations, failure } = machine.open;
    // What is under way may need the snapshots that are left.
    if (snapshots.length === 0 || operations.length > 0 || failure !== undefined) return true;
    return ![...machine.inFlight].some((flight) => !flight.control && flight.snapshot === undefined);
  };
  await machine.until('space for writers by giving up snapshots', isDone);
}
