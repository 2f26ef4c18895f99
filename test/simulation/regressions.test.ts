import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import type { Plan } from './plan.ts';
import { runPlan } from './run-plan.ts';

const FOLDER = join(import.meta.dirname, 'regressions');

// Each is a bug that was found once, as the shortest run that showed it.
for (const name of readdirSync(FOLDER).filter((file) => file.endsWith('.json'))) {
  test(`regression: ${name}`, async (t) => {
    const plan = JSON.parse(readFileSync(join(FOLDER, name), 'utf8')) as Plan;
    const { violation } = await runPlan(plan);
    t.equal(violation, undefined);
  });
}
