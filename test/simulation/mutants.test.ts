import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { MUTANTS } from './mutants/list.ts';
import { byFile, edit, mutate } from './mutants/mutant.ts';

const ROOT = join(import.meta.dirname, '..', '..');
/** T4 is about the kernel's caches: test/kernel/snapshots.test.ts has it, in the kernel test machine. */
const RULES = ['L', 12, 'S', 8, 'T', 3] as const;

// Whether they are found is for `npm run mutants` to say; here only whether they still are bugs of this source.
test('every mutant fits the source', (t) => {
  for (const { name, edits, setting = [] } of MUTANTS) {
    for (const [file, own] of byFile([...setting, ...edits])) {
      const source = readFileSync(join(ROOT, file), 'utf8');
      t.not(mutate(name, own, source), source, name);
    }
  }
  t.equal(new Set(MUTANTS.map((mutant) => mutant.name)).size, MUTANTS.length, 'names tell them apart');
  t.end();
});

test('every rule has a mutant', (t) => {
  const rules = new Set(MUTANTS.map((mutant) => mutant.rule));
  for (let at = 0; at < RULES.length; at += 2) {
    for (let number = 1; number <= Number(RULES[at + 1]); number++)
      t.ok(rules.has(`${RULES[at]}${number}`), `${RULES[at]}${number}`);
  }
  t.end();
});

test('a mutant whose text is not there exactly once is refused', (t) => {
  const edits = [edit('x.ts', 'sync()', '')];
  t.equal(mutate('x', edits, 'a sync() b'), 'a  b');
  t.throws(() => mutate('x', edits, 'a b'), /occurs 0 times/);
  t.throws(() => mutate('x', edits, 'sync() sync()'), /occurs 2 times/);
  t.end();
});
