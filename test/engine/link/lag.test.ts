import t from 'tap';
import { LagMarks } from '../../../engine/link/lag.ts';
import { LinkedPair } from '../../fixtures/linked-pair.ts';

t.test('marks are as old as what waits, and are forgotten when nobody asks any more', (t) => {
  const marks = new LagMarks();
  marks.note(10, 0);
  marks.note(20, 500);
  t.equal(marks.ageMs(5, 1000), 1000);
  t.equal(marks.ageMs(10, 1000), 500);
  t.equal(marks.ageMs(20, 1000), 0);
  marks.forget(10);
  t.equal(marks.ageMs(5, 1000), 500);
  marks.forget(Number.POSITIVE_INFINITY);
  t.equal(marks.ageMs(5, 1000), 0);
  t.end();
});

t.test('the last link is removed, and time passes', async (t) => {
  const pair = await LinkedPair.make({ regions: 8 });
  await pair.here.write(0, 1);
  await pair.here.group.links.add({ name: 'b', uri: 'nbd://b' });
  await pair.streaming();
  await pair.here.group.links.remove('b');
  await pair.pass(3000);
  t.same(pair.here.group.links.views(), []);
  await pair.here.write(1, 2);
  await pair.here.group.settled();
  t.equal(pair.here.group.mode, 'direct');
});
