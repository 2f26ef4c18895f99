import t, { type Test } from 'tap';
import {
  EXTENDED_REPLY_HEADER_BYTES,
  EXTENDED_REQUEST_HEADER_BYTES,
  REQUEST_HEADER_BYTES,
  SIMPLE_REPLY_HEADER_BYTES,
  STRUCTURED_REPLY_HEADER_BYTES,
} from '../../protocol/constants.ts';
import * as layouts from '../../protocol/layouts.ts';
import { hex } from '../fixtures/handshake.ts';

/** Checks a value against bytes written by hand from the specification, in both directions and at an offset. */
function matches<T extends object>(
  test: Test,
  layout: layouts.FixedLayout<T>,
  value: T,
  bytes: string,
): void {
  const expected = hex(bytes);
  test.equal(layout.span, expected.length, 'length');
  test.equal(layouts.encoded(layout, value).toString('hex'), expected.toString('hex'), 'encoded');
  const padded = Buffer.concat([Buffer.alloc(3, 0xff), expected, Buffer.alloc(2, 0xff)]);
  test.strictSame(layout.decode(padded, 3), value, 'decoded at an offset');
  const target = Buffer.alloc(padded.length, 0xff);
  test.equal(layout.encode(value, target, 3), expected.length);
  test.equal(target.toString('hex'), padded.toString('hex'), 'encoding touches nothing else');
}

t.test('the handshake, as the specification writes it', async (t) => {
  matches(
    t,
    layouts.greetingLayout,
    { magic: 0x4e42444d41474943n, optionMagic: 0x49484156454f5054n, handshakeFlags: 3 },
    "'NBDMAGIC' 'IHAVEOPT' 0003",
  );
  matches(t, layouts.clientFlagsLayout, { clientFlags: 3 }, '00000003');
  matches(
    t,
    layouts.optionHeaderLayout,
    { magic: 0x49484156454f5054n, option: 7, lengthBytes: 6 },
    "'IHAVEOPT' 00000007 00000006",
  );
  matches(
    t,
    layouts.exportNameReplyLayout,
    { sizeBytes: 0x100000n, transmissionFlags: 0x8001 },
    '0000000000100000 8001',
  );
  matches(
    t,
    layouts.optionReplyHeaderLayout,
    { magic: 0x3e889045565a9n, option: 7, type: 0x80000006, lengthBytes: 0xffffffff },
    '0003e889045565a9 00000007 80000006 ffffffff',
  );
  matches(
    t,
    layouts.infoExportLayout,
    { infoType: 0, sizeBytes: 512n, transmissionFlags: 1 },
    '0000 0000000000000200 0001',
  );
  matches(
    t,
    layouts.infoBlockSizeLayout,
    { infoType: 3, minimumBlockBytes: 1, preferredBlockBytes: 4096, maximumPayloadBytes: 0x2000000 },
    '0003 00000001 00001000 02000000',
  );
  matches(t, layouts.infoTextLayout, { infoType: 2 }, '0002');
  matches(t, layouts.metaContextReplyLayout, { contextId: 0xfffffffe }, 'fffffffe');
});

t.test('the transmission phase, as the specification writes it', async (t) => {
  const cookie = 0x0123456789abcdefn;
  matches(
    t,
    layouts.requestLayout,
    { magic: 0x25609513, flags: 1, type: 1, cookie, offsetBytes: 0x1000n, lengthBytes: 512 },
    '25609513 0001 0001 0123456789abcdef 0000000000001000 00000200',
  );
  matches(
    t,
    layouts.extendedRequestLayout,
    { magic: 0x21e41c71, flags: 0x20, type: 1, cookie, offsetBytes: 1n, lengthBytes: 1n << 40n },
    '21e41c71 0020 0001 0123456789abcdef 0000000000000001 0000010000000000',
  );
  matches(t, layouts.blockStatusRequestLayout, { effectLengthBytes: 5n }, '0000000000000005');
  matches(
    t,
    layouts.simpleReplyLayout,
    { magic: 0x67446698, error: 22, cookie },
    '67446698 00000016 0123456789abcdef',
  );
  matches(
    t,
    layouts.structuredReplyLayout,
    { magic: 0x668e33ef, flags: 1, type: 0x8001, cookie, lengthBytes: 6 },
    '668e33ef 0001 8001 0123456789abcdef 00000006',
  );
  matches(
    t,
    layouts.extendedReplyLayout,
    { magic: 0x6e8a278c, flags: 1, type: 1, cookie, offsetBytes: 4096n, lengthBytes: 8n },
    '6e8a278c 0001 0001 0123456789abcdef 0000000000001000 0000000000000008',
  );
  matches(t, layouts.chunkOffsetLayout, { offsetBytes: 9n }, '0000000000000009');
  matches(t, layouts.chunkHoleLayout, { offsetBytes: 9n, holeBytes: 7 }, '0000000000000009 00000007');
  matches(t, layouts.chunkErrorLayout, { error: 5, messageBytes: 3 }, '00000005 0003');
  matches(t, layouts.chunkStatusLayout, { contextId: 1 }, '00000001');
  matches(t, layouts.statusExtentLayout, { lengthBytes: 512, status: 3 }, '00000200 00000003');
  matches(t, layouts.chunkExtendedStatusLayout, { contextId: 1, descriptors: 2 }, '00000001 00000002');
  matches(
    t,
    layouts.extendedStatusExtentLayout,
    { lengthBytes: 1n << 33n, status: 3n },
    '0000000200000000 0000000000000003',
  );
});

t.test('headers have the sizes that constants.ts names', async (t) => {
  t.equal(layouts.requestLayout.span, REQUEST_HEADER_BYTES);
  t.equal(layouts.extendedRequestLayout.span, EXTENDED_REQUEST_HEADER_BYTES);
  t.equal(layouts.simpleReplyLayout.span, SIMPLE_REPLY_HEADER_BYTES);
  t.equal(layouts.structuredReplyLayout.span, STRUCTURED_REPLY_HEADER_BYTES);
  t.equal(layouts.extendedReplyLayout.span, EXTENDED_REPLY_HEADER_BYTES);
});

t.test('64-bit fields are exact where doubles are not', async (t) => {
  const bytes = Buffer.alloc(8);
  for (const value of [0n, 1n, (1n << 53n) + 1n, (1n << 63n) - 1n, (1n << 64n) - 1n]) {
    layouts.u64be().encode(value, bytes);
    t.equal(layouts.u64be().decode(bytes), value);
    t.equal(bytes.readBigUInt64BE(), value);
    layouts.u64le().encode(value, bytes);
    t.equal(layouts.u64le().decode(bytes), value);
    t.equal(bytes.readBigUInt64LE(), value);
  }
});
