/** A group is made, perhaps at the second or third try: whatever ended the ones before, there is a whole group then, or none and room for one. */
import type { EngineError } from '../../engine/errors.ts';
import type { Machine } from './machine.ts';

export async function createGroup(machine: Machine): Promise<void> {
  const { plan } = machine;
  const died = (plan.createCrashes ?? []).length > 0;
  for (const crash of plan.createCrashes ?? []) {
    if (machine.group === undefined) machine.beginCreate();
    await machine.steps(crash.steps);
    machine.die(crash.power);
    await openHalfMade(machine);
  }
  if (machine.group === undefined) machine.beginCreate();
  await machine.until('the group that is made', () => machine.group !== undefined);
  if (!died) return;
  const blank = machine.model.volumes.map((image) => new Int32Array(image.cells.length));
  machine.model.recovered('power cut', blank, machine.open.mode);
  machine.death = undefined;
}

/** Either all of it is there, or nothing is, and the same name can be used again. */
async function openHalfMade(machine: Machine): Promise<void> {
  let missing = false;
  machine.beginOpen((error: EngineError) => {
    missing = error.code === 'not-found';
    return missing;
  });
  await machine.until('a whole group, or none', () => missing || machine.group !== undefined);
}
