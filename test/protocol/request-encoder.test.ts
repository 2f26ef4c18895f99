import t from 'tap';
import * as nbd from '../../protocol/constants.ts';
import { extendedRequestLayout, requestLayout } from '../../protocol/layouts.ts';
import { MAX_COMPACT_LENGTH_BYTES, RequestEncoder } from '../../protocol/request-encoder.ts';
import { RequestParser } from '../../protocol/request-parser.ts';
import { hex } from '../fixtures/handshake.ts';
import { Random } from '../fixtures/random.ts';

/** A safe integer of any magnitude. */
function anySize(random: Random): number {
  return Math.floor(random.next() * 2 ** random.between(0, 53));
}

t.test('a request by hand from the specification', async (t) => {
  const out = Buffer.alloc(28);
  const end = new RequestEncoder(false).write(
    out,
    0,
    nbd.NBD_CMD_WRITE,
    nbd.NBD_CMD_FLAG_FUA,
    0x01020304,
    0xfffefdfc,
    0x1_2345_6789,
    4096,
  );
  t.equal(end, 28);
  t.same(out, hex('25609513 0001 0001 01020304 fffefdfc 0000000123456789 00001000'));
});

for (const extended of [false, true]) {
  t.test(`${extended ? 'extended' : 'compact'} headers are written as their layout says`, async (t) => {
    const random = new Random(extended ? 4 : 3);
    const encoder = new RequestEncoder(extended);
    const parser = new RequestParser(extended);
    t.equal(encoder.headerBytes, extended ? extendedRequestLayout.span : requestLayout.span);
    for (let round = 0; round < 500; round += 1) {
      const type = random.below(8);
      const flags = random.below(0x20);
      const [high, low] = [random.below(2 ** 32), random.below(2 ** 32)];
      const offset = anySize(random);
      const length = extended ? anySize(random) : random.below(2 ** 32);
      const lead = random.below(9);
      const out = Buffer.alloc(64, 0xee);
      const end = encoder.write(out, lead, type, flags, high, low, offset, length);
      t.equal(end, lead + encoder.headerBytes);
      t.ok(
        out.subarray(0, lead).every((byte) => byte === 0xee) &&
          out.subarray(end).every((byte) => byte === 0xee),
      );
      const decoded = (extended ? extendedRequestLayout : requestLayout).decode(out, lead);
      // With extended headers a write has to tell that it has a payload.
      const carries = extended && type === nbd.NBD_CMD_WRITE ? nbd.NBD_CMD_FLAG_PAYLOAD_LEN : 0;
      t.same(
        { ...decoded, lengthBytes: BigInt(decoded.lengthBytes) },
        {
          magic: extended ? nbd.NBD_EXTENDED_REQUEST_MAGIC : nbd.NBD_REQUEST_MAGIC,
          flags: flags | carries,
          type,
          cookie: (BigInt(high) << 32n) | BigInt(low),
          offsetBytes: BigInt(offset),
          lengthBytes: BigInt(length),
        },
      );
      t.ok(parser.read(out, lead), 'the server reads it');
      t.strictSame(
        [parser.type, parser.cookieHigh, parser.cookieLow, parser.offset, parser.length],
        [type, high, low, offset, length],
      );
    }
  });
}

t.test('what does not fit into a header is a bug of the caller', async (t) => {
  const out = Buffer.alloc(32);
  const write = (extended: boolean, offset: number, length: number) => () =>
    new RequestEncoder(extended).write(out, 0, nbd.NBD_CMD_TRIM, 0, 0, 0, offset, length);
  t.doesNotThrow(write(false, Number.MAX_SAFE_INTEGER, MAX_COMPACT_LENGTH_BYTES));
  t.doesNotThrow(write(true, 0, MAX_COMPACT_LENGTH_BYTES + 1));
  t.throws(write(false, 0, MAX_COMPACT_LENGTH_BYTES + 1), /bug/);
  for (const wrong of [-1, 0.5, Number.NaN, 2 ** 53, Number.POSITIVE_INFINITY]) {
    t.throws(write(true, wrong, 0), /bug/, `offset ${wrong}`);
    t.throws(write(true, 0, wrong), /bug/, `length ${wrong}`);
  }
});
