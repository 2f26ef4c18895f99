/**
 * A run before it is made: the machine, the group, and the list of what is done. All of it is plain data, so that a run can be printed, kept
 * and shortened. What an operation refers to that is not there when its turn comes (a snapshot, …) makes it do nothing.
 */
import type { DiskOperation, FileKind, Traits } from './storage.ts';

/**
 * `pick`: which snapshot, modulo those that there are. `steps`: how far the world goes on before the next operation. `together`: asked while what the
 * operator asked before is under way.
 */
export type Operation = {
  readonly steps: number;
} /** `idle`: nobody asks for anything, and what is logged becomes durable and is applied by itself. */ & (
  | { readonly op: 'settle' | 'refusals' | 'verify' | 'wait' | 'settled' | 'idle' | 'reopen' | 'heal' }
  | { readonly op: 'write'; volume: number; cell: number; cells: number; inline: boolean; settle: boolean }
  | { readonly op: 'zero'; volume: number; cell: number; cells: number; mayPunch: boolean; fast: boolean }
  | { readonly op: 'trim' | 'import'; volume: number; cell: number; cells: number }
  | { readonly op: 'flush'; volume: number }
  | { readonly op: 'read'; volume: number; cell: number; cells: number; inline: boolean }
  /** `again`: by the name of one that was deleted, if there is one. */
  | { readonly op: 'snapshot'; local: boolean; again?: boolean; together?: boolean }
  | { readonly op: 'delete' | 'rename' | 'detach'; pick: number; together?: boolean }
  | { readonly op: 'refresh'; pick: number; force: boolean; together?: boolean }
  | { readonly op: 'restore'; pick: number; volume: number | null; together?: boolean }
  | {
      readonly op: 'snapshot-write' | 'snapshot-read';
      pick: number;
      volume: number;
      cell: number;
      cells: number;
      inline: boolean;
    }
  | { readonly op: 'snapshot-trim'; pick: number; volume: number; cell: number; cells: number }
  | { readonly op: 'snapshot-flush'; pick: number; volume: number }
  /** A snapshot is taken, and one is deleted, while there is no space at all. */
  | { readonly op: 'when-full'; place: number }
  /** The machine stops, and a sector of the log that was durable is damaged. */
  | { readonly op: 'damage'; power: boolean; place: number }
  | {
      readonly op: 'crash';
      power: boolean;
      again: readonly EarlyEnd[];
    }
  | { readonly op: 'fault'; operation: DiskOperation; file: FileKind | 'any'; times: number | null }
  | { readonly op: 'space'; pages: number }
);

export type OperationName = Operation['op'];

/** After so many steps the process dies, or the power goes. */
export interface EarlyEnd {
  readonly steps: number;
  readonly power: boolean;
}

/** What every run has: the machine, and the group. */
export interface PlanBase {
  readonly seed: number;
  /** Of the scheduler's choices. */
  readonly schedule: number;
  readonly volumeSectors: readonly number[];
  readonly traits: Traits;
  readonly logBytes: number;
  readonly firstLsn: number;
  readonly memoryBytes: number;
  readonly copyBytesPerSecond: number;
}

export interface Plan extends PlanBase {
  readonly onFull: 'hold' | 'give-up';
  /** Tries to make the group that come to nothing. */
  readonly createCrashes?: readonly EarlyEnd[];
  readonly operations: readonly Operation[];
}

export const REGION_BYTES = 4096;
