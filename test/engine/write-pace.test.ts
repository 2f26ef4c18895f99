import t from 'tap';
import { HELD_UP_MS, WritePace } from '../../engine/disk/write-pace.ts';

t.test('one write that is held up sends all to the pool, until one goes through', async (t) => {
  const pace = new WritePace();
  t.ok(pace.mayWriteInline);
  pace.wroteInline(HELD_UP_MS / 2);
  t.ok(pace.mayWriteInline);
  pace.wroteInline(HELD_UP_MS * 20);
  t.notOk(pace.mayWriteInline);
  pace.wroteOnPool(HELD_UP_MS * 20);
  t.notOk(pace.mayWriteInline, 'still held up');
  pace.wroteOnPool(HELD_UP_MS / 10);
  t.ok(pace.mayWriteInline);
});
