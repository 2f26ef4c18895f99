/** Removes detached snapshots that have lost their name (rule S4): the group's record forgets one, then its files go. */
import type { GroupState } from '../group-state.ts';
import type { DetachedSnapshot } from './detached.ts';

/** Removes one, if there is one that nobody reads through. In no lane. Returns whether it did anything. */
export async function removeDetached(state: GroupState): Promise<boolean> {
  const { detached, folder, readers } = state;
  const victim = detached.find((snapshot) => snapshot.recordedName === null && snapshot.users === 0);
  if (victim === undefined) return false;
  const isUnneeded = () => victim.recordedName === null && victim.users === 0;
  const forgotten = await state.lane(async () => isUnneeded() && (await forget(state, victim)));
  if (!forgotten) return true;
  await readers.drained();
  await victim.close();
  for (const name of await folder.list())
    if (name.startsWith(`snapshots/${victim.id}/`) && !name.endsWith('.preserved')) await folder.remove(name);
  return true;
}

async function forget(state: GroupState, victim: DetachedSnapshot): Promise<true> {
  const { detached } = state;
  const at = detached.indexOf(victim);
  detached.splice(at, 1);
  if (victim.refresh !== undefined) victim.refresh.layer.users--;
  try {
    await state.writeRecord(state.checkpointLsn);
  } catch (error) {
    detached.splice(at, 0, victim);
    if (victim.refresh !== undefined) victim.refresh.layer.users++;
    throw error;
  }
  return true;
}
