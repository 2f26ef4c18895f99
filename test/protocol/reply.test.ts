import t from 'tap';
import * as nbd from '../../protocol/constants.ts';
import * as layouts from '../../protocol/layouts.ts';
import { MAX_ERROR_TEXT_BYTES, ReplyEncoder, type ReplyTo } from '../../protocol/reply.ts';

const to: ReplyTo = { cookieHigh: 0xdeadbeef, cookieLow: 0x01020304, offsetHigh: 0x7, offsetLow: 0xffffff00 };
const cookie = 0xdeadbeef01020304n;
const offsetBytes = 0x7ffffff00n;
const LEAD = 5;

function written(write: (out: Buffer, at: number) => number): Buffer {
  const out = Buffer.alloc(1024, 0xee);
  const end = write(out, LEAD);
  t.ok(
    out.subarray(0, LEAD).every((byte) => byte === 0xee),
    'nothing before it is touched',
  );
  t.ok(
    out.subarray(end).every((byte) => byte === 0xee),
    'nothing behind it is touched',
  );
  return out.subarray(LEAD, end);
}

t.test('simple replies', async (t) => {
  const encoder = new ReplyEncoder('simple');
  const read = written((out, at) => encoder.writeReadHeader(out, at, to, 100));
  t.equal(read.length, encoder.readHeaderBytes);
  const success = { magic: nbd.NBD_SIMPLE_REPLY_MAGIC, error: 0, cookie };
  t.strictSame(layouts.simpleReplyLayout.decode(read), success);
  const done = written((out, at) => encoder.writeDone(out, at, to));
  t.strictSame(layouts.simpleReplyLayout.decode(done), success);
  const failed = written((out, at) => encoder.writeError(out, at, to, nbd.NBD_ENOSPC, 'no text here'));
  t.equal(failed.length, layouts.simpleReplyLayout.span);
  t.strictSame(layouts.simpleReplyLayout.decode(failed), { ...success, error: nbd.NBD_ENOSPC });
});

for (const mode of ['structured', 'extended'] as const) {
  t.test(`${mode} replies`, async (t) => {
    const encoder = new ReplyEncoder(mode);
    const span = mode === 'extended' ? layouts.extendedReplyLayout.span : layouts.structuredReplyLayout.span;
    const header = (bytes: Buffer): Record<string, unknown> => {
      if (mode === 'extended') {
        const chunk = layouts.extendedReplyLayout.decode(bytes);
        t.equal(chunk.magic, nbd.NBD_EXTENDED_REPLY_MAGIC);
        t.equal(chunk.offsetBytes, offsetBytes, 'the offset of the request is repeated');
        return {
          flags: chunk.flags,
          type: chunk.type,
          cookie: chunk.cookie,
          length: Number(chunk.lengthBytes),
        };
      }
      const chunk = layouts.structuredReplyLayout.decode(bytes);
      t.equal(chunk.magic, nbd.NBD_STRUCTURED_REPLY_MAGIC);
      return { flags: chunk.flags, type: chunk.type, cookie: chunk.cookie, length: chunk.lengthBytes };
    };
    const flags = nbd.NBD_REPLY_FLAG_DONE;

    const read = written((out, at) => encoder.writeReadHeader(out, at, to, 100));
    t.equal(read.length, encoder.readHeaderBytes);
    t.strictSame(header(read), { flags, type: nbd.NBD_REPLY_TYPE_OFFSET_DATA, cookie, length: 108 });
    t.equal(layouts.chunkOffsetLayout.decode(read, span).offsetBytes, offsetBytes);

    const done = written((out, at) => encoder.writeDone(out, at, to));
    t.equal(done.length, span);
    t.strictSame(header(done), { flags, type: nbd.NBD_REPLY_TYPE_NONE, cookie, length: 0 });

    const failed = written((out, at) => encoder.writeError(out, at, to, nbd.NBD_EIO, 'it broke'));
    t.strictSame(header(failed), { flags, type: nbd.NBD_REPLY_TYPE_ERROR, cookie, length: 14 });
    t.strictSame(layouts.chunkErrorLayout.decode(failed, span), { error: nbd.NBD_EIO, messageBytes: 8 });
    t.equal(failed.toString('utf8', span + 6), 'it broke');

    const long = written((out, at) => encoder.writeError(out, at, to, nbd.NBD_EIO, 'ä'.repeat(4000)));
    t.ok(long.length <= encoder.maximumShortReplyBytes);
    t.equal(layouts.chunkErrorLayout.decode(long, span).messageBytes, MAX_ERROR_TEXT_BYTES);
    t.equal(long.toString('utf8', span + 6), 'ä'.repeat(MAX_ERROR_TEXT_BYTES / 2), 'cut between characters');
  });
}

t.test('block status, compact and extended', async (t) => {
  const extents = [
    { lengthBytes: 4096, flags: 0 },
    { lengthBytes: 1 << 20, flags: nbd.NBD_STATE_HOLE | nbd.NBD_STATE_ZERO },
  ];
  const compact = new ReplyEncoder('structured');
  const last = written((out, at) => compact.writeBlockStatus(out, at, to, 42, extents, true));
  t.equal(last.length, compact.blockStatusBytes(2));
  t.match(layouts.structuredReplyLayout.decode(last), {
    flags: nbd.NBD_REPLY_FLAG_DONE,
    type: nbd.NBD_REPLY_TYPE_BLOCK_STATUS,
    lengthBytes: 4 + 16,
  });
  t.equal(layouts.chunkStatusLayout.decode(last, 20).contextId, 42);
  t.strictSame(layouts.statusExtentLayout.decode(last, 24), { lengthBytes: 4096, status: 0 });
  t.strictSame(layouts.statusExtentLayout.decode(last, 32), { lengthBytes: 1 << 20, status: 3 });

  const extended = new ReplyEncoder('extended');
  const wide = [{ lengthBytes: 2 ** 45, flags: 3 }];
  const first = written((out, at) => extended.writeBlockStatus(out, at, to, 7, wide, false));
  t.equal(first.length, extended.blockStatusBytes(1));
  t.match(layouts.extendedReplyLayout.decode(first), {
    flags: 0,
    type: nbd.NBD_REPLY_TYPE_BLOCK_STATUS_EXT,
    lengthBytes: 24n,
  });
  t.strictSame(layouts.chunkExtendedStatusLayout.decode(first, 32), { contextId: 7, descriptors: 1 });
  t.strictSame(layouts.extendedStatusExtentLayout.decode(first, 40), { lengthBytes: 2n ** 45n, status: 3n });
});
