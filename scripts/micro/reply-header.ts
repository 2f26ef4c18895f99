/** Reply headers: written by hand against their layouts, and read back by the client's parser. */
import { bench, do_not_optimize, group, summary } from 'mitata';
import {
  NBD_CMD_READ,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_OFFSET_DATA,
  NBD_STRUCTURED_REPLY_MAGIC,
} from '../../protocol/constants.ts';
import { ExpectedReply } from '../../protocol/expected-reply.ts';
import { chunkOffsetLayout, structuredReplyLayout } from '../../protocol/layouts.ts';
import { ReplyEncoder, type ReplyMode } from '../../protocol/reply.ts';
import { ReplyParser } from '../../protocol/reply-parser.ts';

/** Replies in one batch: those of one receive event at queue depth 32. */
const REPLIES = 32;
const DATA_BYTES = 4096;
const TO = { cookieHigh: 1, cookieLow: 2, offsetHigh: 3, offsetLow: 4096 };

export function benchReplyHeader(): void {
  const out = Buffer.alloc(REPLIES * 64);
  group(`structured header of a read: ${REPLIES} of them`, () => {
    summary(() => {
      const encoder = new ReplyEncoder('structured');
      bench('written by hand', () => {
        let at = 0;
        for (let index = 0; index < REPLIES; index += 1)
          at = encoder.writeReadHeader(out, at, TO, DATA_BYTES);
        return do_not_optimize(at);
      }).baseline(true);
      bench('written by its layouts', () => {
        let at = 0;
        for (let index = 0; index < REPLIES; index += 1) {
          const chunk = {
            magic: NBD_STRUCTURED_REPLY_MAGIC,
            flags: NBD_REPLY_FLAG_DONE,
            type: NBD_REPLY_TYPE_OFFSET_DATA,
            cookie: 0x1_0000_0002n,
            lengthBytes: 8 + DATA_BYTES,
          };
          at += structuredReplyLayout.encode(chunk, out, at);
          at += chunkOffsetLayout.encode({ offsetBytes: 0x3_0000_1000n }, out, at);
        }
        return do_not_optimize(at);
      });
    });
  });
  group(`replies of 4 KiB reads: ${REPLIES} of them, read by the client`, () => {
    summary(() => {
      benchParser('simple');
      benchParser('structured');
      benchParser('extended');
    });
  });
}

function benchParser(mode: ReplyMode): void {
  const encoder = new ReplyEncoder(mode);
  const bytes = Buffer.alloc(REPLIES * (encoder.readHeaderBytes + DATA_BYTES));
  for (let at = 0; at < bytes.length; at += DATA_BYTES)
    at = encoder.writeReadHeader(bytes, at, TO, DATA_BYTES);
  const target = Buffer.alloc(DATA_BYTES);
  const request = { type: NBD_CMD_READ, flags: 0, offset: 3 * 2 ** 32 + 4096, length: DATA_BYTES, target };
  let finished = 0;
  const awaited = {
    find: () => new ExpectedReply(request),
    finished: () => {
      finished += 1;
    },
  };
  const parser = new ReplyParser(mode, awaited, []);
  if (parser.receive(bytes) !== undefined || finished !== REPLIES)
    throw new Error(`the ${mode} replies are malformed`);
  bench(`${mode} replies`, () => do_not_optimize(parser.receive(bytes)));
}
