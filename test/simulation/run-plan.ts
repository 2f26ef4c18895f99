/** One run: from a plan to what came of it. */
import { resetArena } from './arena.ts';
import { determine } from './determine.ts';
import { Violation } from './image.ts';
import type { Plan } from './plan.ts';
import { World } from './world.ts';

export interface Outcome {
  /** Undefined: everything held. */
  readonly violation: { readonly invariant: string; readonly message: string } | undefined;
  readonly steps: number;
  readonly trace: readonly string[];
}

/** A world that is made, and has not begun. */
export interface Run {
  run(): Promise<void>;
  /** Something that does not hold. */
  report(error: unknown): void;
  throwIfWrong(): void;
  steps(): number;
  trace(): readonly string[];
}

export function runPlan(plan: Plan, verbose = false): Promise<Outcome> {
  const world = new World(plan, verbose);
  const { machine } = world;
  return outcomeOf(plan.seed, {
    run: () => world.run(),
    report: (error) => machine.report(error),
    throwIfWrong: () => machine.throwIfWrong(),
    steps: () => machine.scheduler.steps,
    trace: () => machine.trace ?? [],
  });
}

/** What the engine leaves to chance (names, marks of an opening) has to be the same in the same run: see `determine`. */
export async function outcomeOf(seed: number, world: Run): Promise<Outcome> {
  determine(seed);
  resetArena();
  // A promise that fails unheard is a bug of the engine like any other.
  const unheard = (error: unknown): void => world.report(error);
  process.on('unhandledRejection', unheard);
  let violation: Outcome['violation'];
  try {
    await world.run();
    // Node looks for promises that failed unheard only when it has nothing else to do, and a run leaves it no such moment.
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
    world.throwIfWrong();
  } catch (error) {
    violation = describe(error);
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
  } finally {
    process.off('unhandledRejection', unheard);
  }
  return { violation, steps: world.steps(), trace: world.trace() };
}

function describe(error: unknown): { invariant: string; message: string } {
  if (error instanceof Violation) return { invariant: error.invariant, message: error.message };
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return { invariant: 'bug', message: text };
}
