import t from 'tap';
import * as nbd from '../../protocol/constants.ts';
import { encoded, extendedRequestLayout, requestLayout } from '../../protocol/layouts.ts';
import { RequestParser } from '../../protocol/request-parser.ts';
import { Random } from '../fixtures/random.ts';

const cookieOf = (of: { cookieHigh: number; cookieLow: number }): bigint =>
  (BigInt(of.cookieHigh) << 32n) | BigInt(of.cookieLow);
const offsetOf = (of: { offsetHigh: number; offsetLow: number }): bigint =>
  (BigInt(of.offsetHigh) << 32n) | BigInt(of.offsetLow);

function random64(random: Random): bigint {
  return random.bytes(8).readBigUInt64BE(0) >> BigInt(random.below(64));
}

t.test('compact headers are read as their layout says', async (t) => {
  const random = new Random(1);
  const parser = new RequestParser(false);
  t.equal(parser.headerBytes, requestLayout.span);
  for (let round = 0; round < 500; round += 1) {
    const header = {
      magic: nbd.NBD_REQUEST_MAGIC,
      flags: random.below(0x10000),
      type: random.below(10),
      cookie: random64(random),
      offsetBytes: random64(random),
      lengthBytes: random.below(0x1_0000_0000),
    };
    const lead = random.below(40);
    const bytes = Buffer.concat([random.bytes(lead), encoded(requestLayout, header)]);
    t.ok(parser.read(bytes, lead));
    t.equal(parser.flags, header.flags);
    t.equal(parser.type, header.type);
    t.equal(cookieOf(parser), header.cookie);
    t.equal(offsetOf(parser), header.offsetBytes);
    t.equal(parser.offset, Number(header.offsetBytes));
    t.equal(parser.length, header.lengthBytes);
    t.equal(parser.payloadBytes, header.type === nbd.NBD_CMD_WRITE ? header.lengthBytes : 0);
    t.strictSame(parser.replyTo(), {
      cookieHigh: parser.cookieHigh,
      cookieLow: parser.cookieLow,
      offsetHigh: parser.offsetHigh,
      offsetLow: parser.offsetLow,
    });
  }
});

t.test('extended headers are read as their layout says', async (t) => {
  const random = new Random(2);
  const parser = new RequestParser(true);
  t.equal(parser.headerBytes, extendedRequestLayout.span);
  for (let round = 0; round < 500; round += 1) {
    const header = {
      magic: nbd.NBD_EXTENDED_REQUEST_MAGIC,
      flags: random.pick([0, nbd.NBD_CMD_FLAG_PAYLOAD_LEN, nbd.NBD_CMD_FLAG_FUA]),
      type: random.below(9),
      cookie: random64(random),
      offsetBytes: random64(random),
      lengthBytes: random64(random),
    };
    t.ok(parser.read(encoded(extendedRequestLayout, header), 0));
    t.equal(cookieOf(parser), header.cookie);
    t.equal(offsetOf(parser), header.offsetBytes);
    t.equal(parser.length, Number(header.lengthBytes));
    const carries = header.type === nbd.NBD_CMD_WRITE || header.flags === nbd.NBD_CMD_FLAG_PAYLOAD_LEN;
    t.equal(parser.payloadBytes, carries ? Number(header.lengthBytes) : 0);
  }
});

t.test('a wrong magic is seen, the other mode’s too', async (t) => {
  const compact = Buffer.alloc(32);
  compact.writeUInt32BE(nbd.NBD_REQUEST_MAGIC, 0);
  const extended = Buffer.alloc(32);
  extended.writeUInt32BE(nbd.NBD_EXTENDED_REQUEST_MAGIC, 0);
  t.notOk(new RequestParser(false).read(extended, 0));
  t.notOk(new RequestParser(true).read(compact, 0));
  t.notOk(new RequestParser(false).read(Buffer.alloc(32), 0));
});
