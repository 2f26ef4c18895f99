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
  {
    name: 'a batch is applied before it is durable',
    rule: 'L1',
    file: 'engine/log/applier.ts',
    find: 'if (batch.lsn >= durableLsn || bytes > UNIT_BYTES',
    replace: 'if (durableLsn < 0 || bytes > UNIT_BYTES',
    maxRuns: 5000,
  },
  {
    name: 'direct writes are not awaited and synced before anything is applied',
    rule: 'L4',
    file: 'engine/log/write-path.ts',
    find: 'pause(synced.catch(() => {}));\n    await synced;',
    replace: 'void pause;\n    synced.catch(() => {});',
    maxRuns: 5000,
  },
  {
    name: 'what a failed sync of a volume lost is not applied again',
    rule: 'L6',
    file: 'engine/log/applier.ts',
    find: 'state.onVolumeLost = () => this.#volumeLost();',
    replace: 'state.onVolumeLost = () => {};',
    ops: ['write', 'flush', 'snapshot', 'fault', 'verify', 'settled', 'crash', 'heal'],
    maxRuns: 10_000,
  },
  {
    name: 'nothing is preserved',
    rule: 'S1',
    file: 'engine/log/applier.ts',
    find: 'await preserve(this.#state, volume, regions);',
    replace: 'void preserve;',
    maxRuns: 1000,
  },
  {
    name: 'the bits of a store before its copies',
    rule: 'S1',
    file: 'engine/snapshot/preserve.ts',
    find: 'await syncStore(store);\n  await addRegions(store, missing);',
    replace: 'await addRegions(store, missing);\n  await syncStore(store);',
    maxRuns: 10_000,
  },
  {
    name: 'a reader does not look again',
    rule: 'S2',
    file: 'engine/snapshot/image-reader.ts',
    find: 'if (!samePlace(piece.place, this.#chain.locate(volume.index, region, view))) return false;',
    replace: 'if (region < 0) return false;',
    maxRuns: 10_000,
  },
  {
    name: 'what is written over a region still to come is not materialised first',
    rule: 'T2',
    file: 'engine/log/applier.ts',
    find: 'await bringForward(this.#state, volume, regions);',
    replace: 'void bringForward;',
    maxRuns: 5000,
  },
];
