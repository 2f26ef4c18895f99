import t from 'tap';
import { LargeBuffers } from '../../server/large-buffers.ts';

const MIB = 1024 * 1024;

t.test('a buffer that was given back is lent again, also for another length of its size', async (t) => {
  const buffers = new LargeBuffers();
  const first = buffers.take(MIB + 28);
  t.equal(first.length, MIB + 28);
  buffers.giveBack(first);
  const again = buffers.take(MIB);
  t.equal(again.length, MIB);
  t.equal(again.buffer, first.buffer);
  const other = buffers.take(MIB);
  t.not(other.buffer, first.buffer, 'one lent is lent once');
  t.equal(buffers.keptBytes, 0);
});

t.test('what nobody needs is let go, what is needed now and then is kept', async (t) => {
  const buffers = new LargeBuffers();
  const [a, b] = [buffers.take(MIB), buffers.take(MIB)];
  buffers.giveBack(a);
  buffers.giveBack(b);
  const kept = buffers.keptBytes;
  t.ok(kept >= 2 * MIB);
  buffers.trim();
  t.equal(buffers.keptBytes, kept, 'they were needed since the last time');
  buffers.giveBack(buffers.take(MIB));
  buffers.trim();
  t.equal(buffers.keptBytes, kept / 2, 'only one was');
  buffers.trim();
  t.equal(buffers.keptBytes, 0);
  buffers.trim();
});
