/**
 * Back to direct mode, when nothing needs the log any more (rule L4): writers are held for a moment, all is applied, and a checkpoint at the log's end is
 * made durable. `WritePath` has the way out of it.
 */
import type { Condition } from '../condition.ts';
import type { GroupState } from '../group-state.ts';
import type { Applier } from './applier.ts';
import type { WritePath } from './write-path.ts';

export interface DirectEntry {
  readonly state: GroupState;
  readonly path: WritePath;
  readonly applier: Applier;
  /** Told whatever `isChanging` and `isStuck` depend on. */
  readonly changes: Condition;
  /** Whether something is under way that may need the log, or ends the group. */
  readonly isChanging: () => boolean;
  /** Whether nothing can be applied at the moment. */
  readonly isStuck: () => boolean;
}

/** Whether there is somebody to log for. A secondary logs always: what it gets is a log. */
export function needsLog(state: GroupState): boolean {
  if (state.record.replica !== null) return true;
  const { chain, detached, links } = state;
  return chain.nodes.length > 0 || detached.length > 0 || links.length > 0;
}

/** Returns whether the mode changed. */
export async function enterDirect(entry: DirectEntry): Promise<boolean> {
  const { state, path, applier, changes, isStuck } = entry;
  const isChanging = () => entry.isChanging() || needsLog(state);
  if (path.mode === 'direct' || isChanging()) return false;
  const drain = async (): Promise<void> => {
    await state.log.sync();
    applier.hurry();
    // Whoever takes a snapshot meanwhile ends this; the applier may wait for the background itself.
    const isOver = () => isStuck() || isChanging();
    await changes.until(() => applier.isCaughtUp || isOver());
    if (isOver()) return;
    await state.lane(() => applier.checkpoint());
  };
  const isEmpty = (): boolean => !isChanging() && state.log.endLsn === state.checkpointLsn;
  if (!(await path.enterDirect(drain, isEmpty))) return false;
  await state.space.remove();
  return true;
}
