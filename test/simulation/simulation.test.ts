import { test } from 'tap';
import { ALL_OPERATIONS, generate } from './generate.ts';
import type { OperationName } from './plan.ts';
import { runPlan } from './run-plan.ts';

/** The first of the fixed seeds. `npm run simulate` draws fresh ones. */
const FIRST_SEED = 1_000_000;
const STEPS = 40;

const DIRECT: readonly OperationName[] = [
  'write',
  'settle',
  'zero',
  'trim',
  'flush',
  'read',
  'refusals',
  'verify',
  'wait',
  'crash',
  'reopen',
  'fault',
  'space',
  'heal',
];

async function runSeeds(
  first: number,
  count: number,
  operations: readonly OperationName[],
): Promise<string | undefined> {
  for (let seed = first; seed < first + count; seed++) {
    const { violation } = await runPlan(generate(seed, operations, STEPS));
    if (violation !== undefined)
      return `seed ${seed}: invariant ${violation.invariant}: ${violation.message}`;
  }
  return undefined;
}

test('a group without snapshots keeps what was flushed, whatever the disks do', async (t) => {
  t.equal(await runSeeds(FIRST_SEED, 100, DIRECT), undefined);
});

test('a group keeps its order of writes, its snapshots and its restores, whatever the disks do', async (t) => {
  t.equal(await runSeeds(FIRST_SEED + 1000, 200, ALL_OPERATIONS), undefined);
});

test('the same plan makes the same run', async (t) => {
  const plan = generate(FIRST_SEED, ALL_OPERATIONS, STEPS);
  const first = await runPlan(plan, true);
  const second = await runPlan(plan, true);
  t.ok(first.trace.length > 0, 'something happens');
  t.same(second, first);
});
