import t from 'tap';
import { LagMarks } from '../../../engine/link/lag.ts';

t.test('the age of what waits, as far as it is marked', (t) => {
  const marks = new LagMarks();
  t.equal(marks.ageMs(0, 1000), 0, 'nothing waits');
  marks.note(10, 1000);
  marks.note(20, 1050);
  marks.note(30, 1200);
  t.equal(marks.ageMs(0, 1500), 500);
  t.equal(marks.ageMs(15, 1500), 500, 'too close to the mark before to have its own');
  t.equal(marks.ageMs(20, 1500), 300);
  t.equal(marks.ageMs(30, 1500), 0);
  marks.forget(20);
  t.equal(marks.ageMs(0, 1500), 300);
  t.end();
});

t.test('where no link is left all is forgotten', (t) => {
  const marks = new LagMarks();
  marks.note(10, 1000);
  marks.forget(Number.POSITIVE_INFINITY);
  t.equal(marks.ageMs(0, 2000), 0);
  t.end();
});
