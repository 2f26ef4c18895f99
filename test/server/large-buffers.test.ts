import t from 'tap';
import { LargeBuffers } from '../../server/large-buffers.ts';

const MIB = 1024 * 1024;

t.test('a buffer that was given back is lent again, also for another length of its size', async (t) => {
  const buffers = new LargeBuffers(64 * MIB);
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
  const buffers = new LargeBuffers(64 * MIB);
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

t.test('kept and lent together stay within the limit, whatever sizes come', async (t) => {
  const limit = 16 * MIB;
  const buffers = new LargeBuffers(limit);
  for (let round = 0; round < 200; round += 1) {
    const size = MIB + (round % 7) * MIB;
    const lent = [buffers.take(size), buffers.take(size)];
    const lentBytes = lent.reduce((sum, buffer) => sum + buffer.buffer.byteLength, 0);
    if (buffers.keptBytes + lentBytes > limit) t.fail(`round ${round}: ${buffers.keptBytes} kept`);
    for (const buffer of lent) buffers.giveBack(buffer);
    if (buffers.keptBytes > limit) t.fail(`round ${round}: ${buffers.keptBytes} kept`);
  }
  t.ok(buffers.keptBytes > 0);
});
