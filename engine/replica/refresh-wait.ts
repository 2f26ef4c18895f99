/**
 * Whether a record of the primary has to wait for what is still under way here (rules S5, S6). There it came when a snapshot was detached, or a refresh had
 * ended; here the same may take longer. It is waited for, so that the snapshot stays; where that cannot end, or the log is full, `onSecondary` gives the
 * snapshot up: the applier never stops on one.
 */
import type { Control } from '../control-record.ts';
import type { GroupState } from '../group-state.ts';
import type { ControlEffects } from '../snapshot/control-effects.ts';
import { hindrance, named } from './controls.ts';
import { replicaOf } from './replica-record.ts';

export interface WaitFacts {
  /** All that is admitted is applied, so that what records ask for has begun. */
  readonly isApplied: boolean;
  /** A disk refuses what is under way, again and again. */
  readonly isStuck: boolean;
  /** Nothing more of the log can be freed, and what comes finds no room. */
  readonly isFull: boolean;
}

/** What it waits for, or undefined. */
export function waitOf(
  state: GroupState,
  effects: ControlEffects,
  control: Control,
  facts: WaitFacts,
): string | undefined {
  // Inside a resync it is given up in any case.
  if (control.type !== 'refresh' || replicaOf(state).resync !== null) return undefined;
  const snapshot = named(effects, control.id);
  const why = snapshot && hindrance(snapshot, control);
  if (why === undefined) return undefined;
  const ends = snapshot?.kind === 'detached' || snapshot?.detaching === true || !facts.isApplied;
  if (!ends || facts.isStuck || facts.isFull) return undefined;
  return `snapshot ${snapshot?.name} of the primary: ${why}`;
}
