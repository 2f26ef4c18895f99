/**
 * Bugs put into the engine on purpose, one for each rule of the design: a simulator that does not find them checks nothing. Each is a change of the
 * source text of one file; a text that no longer occurs exactly once is an error, so that the list cannot rot.
 */
import type { OperationName } from './plan.ts';

export interface Mutant {
  readonly name: string;
  /** The rule that it breaks. */
  readonly rule: string;
  readonly file: string;
  readonly find: string;
  readonly replace: string;
  /** Operations to draw from; all that there are unless told. */
  readonly ops?: readonly OperationName[];
  /** It has to be found within that many runs. */
  readonly maxRuns: number;
}

const DIRECT: readonly OperationName[] = [
  'write',
  'settle',
  'zero',
  'trim',
  'flush',
  'read',
  'verify',
  'wait',
  'crash',
  'reopen',
];

export const MUTANTS: readonly Mutant[] = [
  {
    name: 'a mark does not wait for its zone',
    rule: 'map 1',
    file: 'engine/map/map-file.ts',
    find: 'if (this.#active[zone] === 0) return this.#map.hasAll(first, end);',
    replace: 'if (zone < 0) return false;',
    ops: DIRECT,
    maxRuns: 2000,
  },
  {
    name: 'a zone is retired before its map is durable',
    rule: 'map 2',
    file: 'engine/map/map-file.ts',
    find: 'if (pages.length > 0) await this.#sync(forgiven);',
    replace: '',
    ops: DIRECT,
    maxRuns: 10_000,
  },
];
