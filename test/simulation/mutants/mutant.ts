/**
 * Bugs put into the engine on purpose, one or more for each rule of the design: a simulator that does not find them checks nothing. Each is a change of the
 * source text; a text that no longer occurs exactly once is an error, so that the list cannot rot.
 */
import type { Preferences } from '../generate.ts';
import type { OperationName } from '../plan.ts';
import type { ClusterPreferences } from '../replication/generate.ts';
import type { ClusterOperationName } from '../replication/plan.ts';

/** In one file, one text that occurs exactly once becomes another. */
export interface Edit {
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

export interface Mutant {
  readonly name: string;
  /** The rule that it breaks. */
  readonly rule: string;
  readonly edits: readonly Edit[];
  /**
   * Changes that are no bug, and without which the rule does not matter in a world this small. The engine that the mutant is compared with
   * has them too.
   */
  readonly setting?: readonly Edit[];
  /** It shows only where there are several nodes. */
  readonly cluster?: boolean;
  /** Operations to draw from; all that there are unless told. */
  readonly ops?: readonly (OperationName | ClusterOperationName)[];
  /** How runs are drawn that have a good chance to show it. */
  readonly prefer?: Preferences | ClusterPreferences;
  /** It has to be found within that many runs. */
  readonly maxRuns: number;
}

export function edit(file: string, find: string, replace: string): Edit {
  return { file: `engine/${file}`, find, replace };
}

/** The text of a file with the edits of it made. Throws when one does not fit. */
export function mutate(name: string, edits: readonly Edit[], source: string): string {
  return edits.reduce((text, { file, find, replace }) => {
    const pieces = text.split(find);
    if (pieces.length === 2) return pieces.join(replace);
    throw new Error(`mutant "${name}": its text occurs ${pieces.length - 1} times in ${file}, not once`);
  }, source);
}

/** The edits of each file. */
export function byFile(edits: readonly Edit[]): ReadonlyMap<string, readonly Edit[]> {
  const files = new Map<string, Edit[]>();
  for (const one of edits) files.set(one.file, [...(files.get(one.file) ?? []), one]);
  return files;
}
