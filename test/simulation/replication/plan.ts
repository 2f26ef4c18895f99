/**
 * A run of several nodes before it is made: one primary (node 0), its secondaries, and the list of what is done. Plain data, as `../plan.ts`. What an
 * operation refers to that is not there when its turn comes makes it do nothing.
 */
import type { PlanBase } from '../plan.ts';
import type { LocalOperation } from './local-snapshots.ts';

/** `pick`: which snapshot or link, modulo those that there are. `node`: 0 is the primary. */
export type ClusterOperation = { readonly steps: number } & (
  | { readonly op: 'write' | 'trim'; volume: number; cell: number; cells: number }
  | { readonly op: 'flush' }
  | { readonly op: 'snapshot'; local: boolean }
  | { readonly op: 'delete' | 'rename' | 'refresh' | 'detach'; pick: number }
  | { readonly op: 'restore'; pick: number; volume: number | null }
  /** Through a snapshot of that node, flushed. */
  | { readonly op: 'snapshot-write'; node: number; pick: number; volume: number; cell: number; cells: number }
  /** Everything that a node shows. */
  | { readonly op: 'check'; node: number }
  /** Of a secondary's own. */
  | { readonly op: 'local-snapshot'; node: number }
  | { readonly op: 'change-there'; node: number; what: LocalOperation; pick: number }
  | { readonly op: 'freeze' | 'thaw'; node: number }
  /** A process dies, or the power of its machine goes; it comes back after so many steps. */
  | { readonly op: 'crash'; node: number; power: boolean; down: number }
  /** All connections of a secondary break; new ones cannot be made for so many steps. */
  | { readonly op: 'cut'; node: number; down: number }
  /** Messages to a secondary take that many times as long. */
  | { readonly op: 'slow'; node: number; factor: number }
  | { readonly op: 'pause' | 'resume'; pick: number }
  /** Begins to compare the two sides of a link, beside everything else. */
  | { readonly op: 'verify'; pick: number }
  /** Other settings of a link. */
  | { readonly op: 'mode'; pick: number; mode: LinkMode; onLost: OnLost }
  /** Until every link streams and every secondary has everything. */
  | { readonly op: 'equal' }
);

export type ClusterOperationName = ClusterOperation['op'];

export type LinkMode = 'async' | 'memory' | 'sync';
export type OnLost = 'go-on' | 'block';

export interface SecondaryPlan {
  readonly logBytes: number;
  /** Of its link. */
  readonly mode: LinkMode;
  /** `go-on` unless told. */
  readonly onLost?: OnLost;
  readonly onFull: 'dcm' | 'block' | 'detach';
  readonly limitBytes: number;
  readonly rateBytesPerSecond: number;
  /** After how many operations its link is made. */
  readonly joinsAt: number;
  readonly applyDelaySeconds: number;
  /** Number of the secondary that feeds it (rule K11), one that comes before it; absent: the primary. */
  readonly feeder?: number;
}

export interface ClusterPlan extends PlanBase {
  readonly secondaries: readonly SecondaryPlan[];
  readonly operations: readonly ClusterOperation[];
}
