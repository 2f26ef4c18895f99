import type { Background } from './background.ts';
import type { Condition } from './condition.ts';
import type { GroupState } from './group-state.ts';
import type { Applier } from './log/applier.ts';
import type { Replica } from './replica/replica.ts';

export interface SettlingGroup {
  readonly state: GroupState;
  readonly applier: Applier;
  readonly background: Background;
  readonly replica: Replica | undefined;
  /** Told whatever `isStuck` depends on. */
  readonly changes: Condition;
  /** Whether nothing can be done any more, or at the moment. */
  readonly isStuck: () => boolean;
}

/** Resolves when nothing is left to do in the background, or nothing can be done because a disk refuses. */
export async function settled(group: SettlingGroup): Promise<void> {
  const { state, applier, background, replica, changes, isStuck } = group;
  while (!isStuck()) {
    await state.log.sync().catch(() => {});
    await replica?.settled();
    applier.hurry();
    applier.checkpointSoon();
    await changes.until(() => applier.isSettled || isStuck());
    if (isStuck()) return;
    background.poke();
    await background.idle();
    const restoring = state.chain.restores.length > 0;
    if (restoring) await changes.until(() => state.chain.restores.length === 0 || isStuck());
    else if (applier.isSettled && replica?.isIdle !== false) return;
  }
}
