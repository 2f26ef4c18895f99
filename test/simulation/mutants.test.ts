import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { MUTANTS } from './mutant-list.ts';
import { mutate } from './mutate.ts';

const ROOT = join(import.meta.dirname, '..', '..');

// Whether they are found is for `npm run mutants` to say; here only whether they still are bugs of this source.
test('every mutant fits the source', (t) => {
  for (const mutant of MUTANTS) {
    const source = readFileSync(join(ROOT, mutant.file), 'utf8');
    t.not(mutate(mutant, source), source, mutant.name);
  }
  t.equal(new Set(MUTANTS.map((mutant) => mutant.name)).size, MUTANTS.length, 'names tell them apart');
  t.end();
});

test('a mutant whose text is not there exactly once is refused', (t) => {
  const mutant = { name: 'x', rule: 'x', file: 'x.ts', find: 'sync()', replace: '', maxRuns: 1 };
  t.equal(mutate(mutant, 'a sync() b'), 'a  b');
  t.throws(() => mutate(mutant, 'a b'), /occurs 0 times/);
  t.throws(() => mutate(mutant, 'sync() sync()'), /occurs 2 times/);
  t.end();
});
