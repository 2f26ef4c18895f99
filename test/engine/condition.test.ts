import t from 'tap';
import { Condition } from '../../engine/condition.ts';

t.test('who waits goes on when what he waits for holds, in order', async (t) => {
  const condition = new Condition();
  let value = 0;
  const seen: string[] = [];
  await condition.until(() => true);
  const first = condition.until(() => value >= 2).then(() => seen.push('first'));
  const second = condition.until(() => value >= 1).then(() => seen.push('second'));
  value = 1;
  await Promise.resolve();
  t.same(seen, [], 'nobody said so');
  condition.changed();
  await second;
  t.same(seen, ['second']);
  value = 2;
  condition.changed();
  await first;
  condition.changed();
  t.same(seen, ['second', 'first']);
});

t.test('one who looks may say that something changed', async (t) => {
  const condition = new Condition();
  let looks = 0;
  const waiting = condition.until(() => {
    if (++looks === 2) condition.changed();
    return looks >= 2;
  });
  condition.changed();
  await waiting;
  t.equal(looks, 2);
});
