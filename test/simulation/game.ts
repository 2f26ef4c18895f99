/** What can be simulated: one node, or several. All that draws, runs and shortens plans is the same for both. */
import { ALL_OPERATIONS, generate, type Preferences } from './generate.ts';
import type { Operation, OperationName, Plan } from './plan.ts';
import {
  ALL_CLUSTER_OPERATIONS,
  type ClusterPreferences,
  type DrawnName,
  generateCluster,
} from './replication/generate.ts';
import type { ClusterPlan } from './replication/plan.ts';
import { runClusterPlan } from './replication/run-plan.ts';
import { type Outcome, runPlan } from './run-plan.ts';

export interface AnyPlan {
  readonly seed: number;
  readonly schedule: number;
  readonly operations: readonly { readonly op: string; readonly steps: number }[];
}

export interface Game<P extends AnyPlan> {
  /** Names of what can be drawn. */
  readonly operations: readonly string[];
  generate(seed: number, operations: readonly string[], length: number, prefer: object): P;
  run(plan: P, verbose: boolean): Promise<Outcome>;
  /** Simpler forms of an operation. */
  simpler(operation: P['operations'][number]): Iterable<P['operations'][number]>;
  /** What may be quieter in a plan, one thing at a time. */
  calmer(plan: P): Iterable<Partial<P>>;
}

export const oneNode: Game<Plan> = {
  operations: ALL_OPERATIONS,
  generate: (seed, operations, length, prefer) =>
    generate(seed, operations as readonly OperationName[], length, prefer as Preferences),
  run: runPlan,
  *simpler(operation: Operation): Generator<Operation> {
    if (operation.steps > 0) yield { ...operation, steps: 0 };
    if ('cells' in operation && operation.cells > 1) yield { ...operation, cells: 1 };
    if (operation.op === 'crash' && operation.again.length > 0) yield { ...operation, again: [] };
    if (operation.op === 'restore' && operation.volume === null) yield { ...operation, volume: 0 };
  },
  *calmer({ traits }): Generator<Partial<Plan>> {
    yield { traits: { ...traits, tryRefusal: 0 } };
    yield { traits: { ...traits, tearing: 0 } };
    yield { firstLsn: 0 };
    yield { copyBytesPerSecond: 0 };
    yield { memoryBytes: 256 * 1024 * 1024 };
  },
};

export const severalNodes: Game<ClusterPlan> = {
  operations: ALL_CLUSTER_OPERATIONS,
  generate: (seed, operations, length, prefer) =>
    generateCluster(seed, operations as readonly DrawnName[], length, prefer as ClusterPreferences),
  run: runClusterPlan,
  *simpler(operation): Generator<ClusterPlan['operations'][number]> {
    if (operation.steps > 0) yield { ...operation, steps: 0 };
    if ('cells' in operation && operation.cells > 1) yield { ...operation, cells: 1 };
    if ('down' in operation && operation.down > 0) yield { ...operation, down: 0 };
    if (operation.op === 'restore' && operation.volume === null) yield { ...operation, volume: 0 };
  },
  *calmer({ traits, secondaries }): Generator<Partial<ClusterPlan>> {
    if (secondaries.length > 1) yield { secondaries: secondaries.slice(0, -1) };
    yield { secondaries: secondaries.map((one) => ({ ...one, joinsAt: 0 })) };
    yield { secondaries: secondaries.map((one) => ({ ...one, mode: 'async' as const })) };
    yield { secondaries: secondaries.map((one) => ({ ...one, limitBytes: 0, rateBytesPerSecond: 0 })) };
    yield { secondaries: secondaries.map((one) => ({ ...one, applyDelaySeconds: 0 })) };
    yield { traits: { ...traits, tryRefusal: 0, tearing: 0 } };
    yield { firstLsn: 0, copyBytesPerSecond: 0, memoryBytes: 256 * 1024 * 1024 };
  },
};
