/** One run of several nodes: from a plan to what came of it. */
import { type Outcome, outcomeOf } from '../run-plan.ts';
import type { ClusterPlan } from './plan.ts';
import { ClusterWorld } from './world.ts';

export function runClusterPlan(plan: ClusterPlan, verbose: boolean): Promise<Outcome> {
  const world = new ClusterWorld(plan, verbose);
  const { cluster } = world;
  return outcomeOf(plan.seed, {
    run: () => world.run(),
    report: (error) => cluster.report(error),
    throwIfWrong: () => cluster.throwIfWrong(),
    steps: () => cluster.scheduler.steps,
    trace: () => cluster.trace ?? [],
  });
}
