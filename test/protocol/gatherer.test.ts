import t from 'tap';
import { Gatherer } from '../../protocol/gatherer.ts';

t.test('a message is put together from any pieces, and kept when they are overwritten', async (t) => {
  const gatherer = new Gatherer();
  gatherer.expect(5);
  const piece = Buffer.from('__he');
  t.equal(gatherer.take(piece, 2), 4);
  piece.fill(0);
  t.equal(gatherer.missingBytes, 3);
  t.throws(() => gatherer.message, /bug/);
  t.equal(gatherer.take(Buffer.alloc(0), 0), 0);
  t.equal(gatherer.take(Buffer.from('llo, world'), 0), 3, 'takes no more than the message');
  t.equal(gatherer.message.toString(), 'hello');
  t.equal(gatherer.take(Buffer.from('more'), 1), 1, 'a whole message takes nothing');
  t.throws(() => gatherer.take(Buffer.alloc(1), 2), /bug/);
});

t.test('a message that came in one piece is a copy as well', async (t) => {
  const gatherer = new Gatherer();
  gatherer.expect(3);
  const piece = Buffer.from('abc');
  gatherer.take(piece, 0);
  piece.fill(0);
  t.equal(gatherer.message.toString(), 'abc');
});

t.test('an empty message is whole at once', async (t) => {
  const gatherer = new Gatherer();
  gatherer.expect(0);
  t.equal(gatherer.missingBytes, 0);
  t.equal(gatherer.message.length, 0);
});

t.test('dropped messages are counted, not kept', async (t) => {
  const gatherer = new Gatherer();
  gatherer.discard(3);
  t.equal(gatherer.take(Buffer.from('ab'), 0), 2);
  t.equal(gatherer.missingBytes, 1);
  t.equal(gatherer.take(Buffer.from('cde'), 0), 1);
  t.equal(gatherer.message.length, 0);
  gatherer.expect(2);
  t.equal(gatherer.take(Buffer.from('xyz'), 0), 2);
  t.equal(gatherer.message.toString(), 'xy');
  gatherer.discard(0);
  t.equal(gatherer.missingBytes, 0);
});
