import { LINK_MUTANTS } from './links.ts';
import { LOG_MUTANTS } from './log.ts';
import type { Mutant } from './mutant.ts';
import { RESTORE_MUTANTS } from './restores.ts';
import { SNAPSHOT_MUTANTS } from './snapshots.ts';

export const MUTANTS: readonly Mutant[] = [
  ...LOG_MUTANTS,
  ...SNAPSHOT_MUTANTS,
  ...RESTORE_MUTANTS,
  ...LINK_MUTANTS,
];
