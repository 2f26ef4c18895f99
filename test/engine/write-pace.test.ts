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

t.test('a log that was held up goes on once a sync has ended', (t) => {
  const pace = new WritePace();
  pace.wroteNow(HELD_UP_MS / 2);
  t.equal(pace.mayWriteInline, true);
  pace.wroteNow(HELD_UP_MS * 2);
  t.equal(pace.mayWriteInline, false);
  pace.synced();
  t.equal(pace.mayWriteInline, true);
  pace.wroteInline(HELD_UP_MS * 2);
  pace.synced();
  t.equal(pace.mayWriteInline, false, 'a volume is told by its writes on the pool');
  t.end();
});
