import t from 'tap';
import { NBD_CMD_BLOCK_STATUS, NBD_CMD_READ, NBD_REPLY_TYPE_BLOCK_STATUS } from '../../protocol/constants.ts';
import { ExpectedReply, MAX_KEPT_EXTENTS, MAX_READ_FRAGMENTS } from '../../protocol/expected-reply.ts';
import { Random } from '../fixtures/random.ts';
import { Awaiting, feed, Replier, statusPayload } from '../fixtures/replies.ts';

const readOf = (length: number): ExpectedReply =>
  new ExpectedReply({ type: NBD_CMD_READ, flags: 0, offset: 0, length, target: Buffer.alloc(length) });

t.test('what has come of a read is booked as an array of bytes would', async (t) => {
  const random = new Random(11);
  let whole = 0;
  let refused = 0;
  for (let round = 0; round < 2000; round += 1) {
    const length = random.between(1, 24);
    const reply = readOf(length);
    const model = new Array<boolean>(length).fill(false);
    for (let step = 0; step < 40; step += 1) {
      const start = random.below(length + 1);
      const end = start + random.below(5);
      const isInRange = start < end && end <= length;
      const isNew = model.slice(start, end).every((covered) => !covered);
      const expected = !isInRange ? 'out-of-range' : isNew ? null : 'overlap';
      const misfit = reply.book(start, end);
      if (misfit !== expected)
        t.fail(`round ${round}: ${start} to ${end} of ${length} is ${misfit}, not ${expected}`);
      // The connection would end here, so the books need not be right after it.
      if (misfit === 'overlap') {
        refused += 1;
        break;
      }
      if (misfit === null) model.fill(true, start, end);
      if (reply.isWhole !== model.every((covered) => covered))
        t.fail(`round ${round}: whole is ${reply.isWhole}`);
    }
    if (reply.isWhole) whole += 1;
  }
  t.ok(whole > 100 && refused > 100, `both ends are met: ${whole} whole, ${refused} refused`);
});

t.test('pieces in any order make a whole', async (t) => {
  const random = new Random(12);
  for (let round = 0; round < 100; round += 1) {
    const length = random.between(1, 60);
    const reply = readOf(length);
    const bytes = Array.from({ length }, (_, at) => at);
    while (bytes.length > 0) {
      if (reply.isWhole) t.fail('whole too early');
      const [at = 0] = bytes.splice(random.below(bytes.length), 1);
      if (reply.book(at, at + 1) !== null) t.fail(`byte ${at} does not fit`);
    }
    if (!reply.isWhole) t.fail(`round ${round} is not whole`);
  }
  t.pass();
});

t.test('a read in too many pieces is refused', async (t) => {
  const reply = readOf(4 * MAX_READ_FRAGMENTS);
  for (let piece = 0; piece < MAX_READ_FRAGMENTS; piece += 1) {
    if (reply.book(2 * piece, 2 * piece + 1) !== null) t.fail(`piece ${piece}`);
  }
  t.equal(reply.book(2 * MAX_READ_FRAGMENTS, 2 * MAX_READ_FRAGMENTS + 1), 'fragmented');
});

t.test('a zero-length read is whole from the start', async (t) => {
  t.ok(readOf(0).isWhole);
});

t.test('of a very long block status the start is kept', async (t) => {
  const count = MAX_KEPT_EXTENTS + 1000;
  const awaiting = new Awaiting();
  const reply = awaiting.send(1n, { type: NBD_CMD_BLOCK_STATUS, length: count });
  const extents = Array.from({ length: count }, (_, index): [number, number] => [1, index % 4]);
  const chunk = new Replier('structured').chunk(1n, NBD_REPLY_TYPE_BLOCK_STATUS, statusPayload(3, extents), {
    done: true,
  });
  t.equal(feed('structured', awaiting, chunk, { contextIds: [3] }).violation, undefined);
  const kept = reply.extents.get(3) ?? [];
  t.equal(kept.length, MAX_KEPT_EXTENTS);
  t.strictSame(kept.at(-1), { lengthBytes: 1, flags: (MAX_KEPT_EXTENTS - 1) % 4 });
});
