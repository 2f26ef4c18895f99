import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { oneNode, severalNodes } from './game.ts';

const FOLDER = join(import.meta.dirname, 'regressions');

// Each is a bug that was found once, as the shortest run that showed it.
for (const name of readdirSync(FOLDER).filter((file) => file.endsWith('.json'))) {
  test(`regression: ${name}`, async (t) => {
    const plan = JSON.parse(readFileSync(join(FOLDER, name), 'utf8'));
    const { violation } = await ('secondaries' in plan ? severalNodes : oneNode).run(plan, false);
    t.equal(violation, undefined);
  });
}
