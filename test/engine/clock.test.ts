/** The machine's clock. */
import t from 'tap';
import { systemClock } from '../../engine/clock.ts';

t.test('a timer may be longer than those of Node', async (t) => {
  const waits: number[] = [];
  const runs: (() => void)[] = [];
  t.intercept(globalThis, 'setTimeout', {
    value: (run: () => void, ms: number) => {
      waits.push(ms);
      runs.push(run);
      return { unref: () => undefined };
    },
  });
  const most = 2 ** 31 - 1;
  let count = 0;
  systemClock.after(2 * most + 5, () => {
    count += 1;
  });
  runs.shift()?.();
  runs.shift()?.();
  t.equal(count, 0);
  runs.shift()?.();
  t.equal(count, 1);
  t.strictSame(waits, [most, most, 5]);
});

t.test('one that is cancelled does not run', async (t) => {
  let hasRun = false;
  systemClock
    .after(0, () => {
      hasRun = true;
    })
    .cancel();
  await new Promise((resolve) => setTimeout(resolve, 1));
  await new Promise((resolve) => setImmediate(resolve));
  t.notOk(hasRun);
});
