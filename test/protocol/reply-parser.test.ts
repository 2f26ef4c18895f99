import { isDeepStrictEqual } from 'node:util';
import t from 'tap';
import * as nbd from '../../protocol/constants.ts';
import type { ReplyMode } from '../../protocol/reply.ts';
import { ReplyEncoder } from '../../protocol/reply.ts';
import { MIN_DIRECT_BYTES } from '../../protocol/reply-parser.ts';
import { Random } from '../fixtures/random.ts';
import {
  Awaiting,
  dataPayload,
  errorPayload,
  extendedStatusPayload,
  feed,
  holePayload,
  Replier,
  statusPayload,
} from '../fixtures/replies.ts';

const {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_WRITE,
  NBD_REPLY_TYPE_BLOCK_STATUS,
  NBD_REPLY_TYPE_BLOCK_STATUS_EXT,
  NBD_REPLY_TYPE_ERROR,
  NBD_REPLY_TYPE_ERROR_OFFSET,
  NBD_REPLY_TYPE_NONE,
  NBD_REPLY_TYPE_OFFSET_DATA,
  NBD_REPLY_TYPE_OFFSET_HOLE,
} = nbd;

const CONTEXTS = [1, 7];

/** A conversation with every kind of reply that the mode has, two of them interleaved. */
interface Conversation {
  readonly send: () => Awaiting;
  readonly input: Buffer;
}

const READ = { type: NBD_CMD_READ, offset: 1000, length: 12 };

function simpleConversation(): Conversation {
  const send = (): Awaiting => {
    const awaiting = new Awaiting();
    awaiting.send(1n, READ);
    awaiting.send(0xffffffff00000002n, { type: NBD_CMD_WRITE, length: 4 });
    awaiting.send(3n, READ);
    awaiting.send(4n, { type: NBD_CMD_READ });
    awaiting.send(5n, { type: NBD_CMD_FLUSH });
    return awaiting;
  };
  const server = new Replier('simple');
  const input = Buffer.concat([
    server.simple(0xffffffff00000002n, nbd.NBD_ENOSPC),
    server.simple(1n, 0, Buffer.from('data of read')),
    server.simple(4n),
    server.simple(3n, nbd.NBD_EIO),
    server.simple(5n),
  ]);
  return { send, input };
}

function chunkConversation(mode: 'structured' | 'extended'): Conversation {
  const send = (): Awaiting => {
    const awaiting = new Awaiting();
    awaiting.send(1n, READ);
    awaiting.send(2n, { type: NBD_CMD_WRITE, length: 4 });
    awaiting.send(3n, READ);
    awaiting.send(4n, { type: NBD_CMD_BLOCK_STATUS, offset: 512, length: 4096 });
    awaiting.send(5n, { type: NBD_CMD_FLUSH });
    awaiting.send(6n, { type: NBD_CMD_READ });
    return awaiting;
  };
  const server = new Replier(mode);
  const status =
    mode === 'extended'
      ? {
          type: NBD_REPLY_TYPE_BLOCK_STATUS_EXT,
          one: extendedStatusPayload(1, [
            [1024n, 3n],
            [0x1_0000_0000_0000n, 0n],
          ]),
          two: extendedStatusPayload(7, [[4096n, 0x1_0000_0005n]]),
        }
      : {
          type: NBD_REPLY_TYPE_BLOCK_STATUS,
          one: statusPayload(1, [
            [1024, 3],
            [0xffff_fe00, 0],
          ]),
          two: statusPayload(7, [[4096, 5]]),
        };
  const input = Buffer.concat([
    server.chunk(1n, NBD_REPLY_TYPE_OFFSET_DATA, dataPayload(1004, Buffer.from('abcd')), { offset: 1000n }),
    server.chunk(4n, status.type, status.one, { offset: 512n }),
    server.chunk(2n, NBD_REPLY_TYPE_ERROR, errorPayload(nbd.NBD_ENOSPC, 'full: €'), { done: true }),
    server.chunk(3n, NBD_REPLY_TYPE_OFFSET_DATA, dataPayload(1000, Buffer.from('123456')), { offset: 1000n }),
    server.chunk(1n, NBD_REPLY_TYPE_OFFSET_HOLE, holePayload(1008, 4), { offset: 1000n }),
    server.chunk(3n, NBD_REPLY_TYPE_ERROR_OFFSET, errorPayload(nbd.NBD_EIO, 'bad sector', 1006), {
      offset: 1000n,
    }),
    server.chunk(1n, NBD_REPLY_TYPE_OFFSET_DATA, dataPayload(1000, Buffer.from('wxyz')), {
      done: true,
      offset: 1000n,
    }),
    server.chunk(3n, NBD_REPLY_TYPE_ERROR, errorPayload(nbd.NBD_ENOMEM, 'a second error'), { offset: 1000n }),
    server.chunk(6n, NBD_REPLY_TYPE_NONE, Buffer.alloc(0), { done: true }),
    server.chunk(4n, status.type, status.two, { offset: 512n, done: true }),
    server.chunk(3n, NBD_REPLY_TYPE_NONE, Buffer.alloc(0), { done: true, offset: 1000n }),
    mode === 'structured'
      ? server.simple(5n)
      : server.chunk(5n, NBD_REPLY_TYPE_NONE, Buffer.alloc(0), { done: true }),
  ]);
  return { send, input };
}

t.test('simple replies are understood', async (t) => {
  const { send, input } = simpleConversation();
  const { awaiting, violation } = feed('simple', send(), input);
  t.equal(violation, undefined);
  t.strictSame(awaiting.finishedCookies, [0xffffffff00000002n, 1n, 4n, 3n, 5n]);
  t.equal(awaiting.sent.get(1n)?.target?.toString(), 'data of read');
  t.equal(awaiting.sent.get(0xffffffff00000002n)?.error, nbd.NBD_ENOSPC);
  t.equal(awaiting.sent.get(3n)?.error, nbd.NBD_EIO);
  t.equal(awaiting.sent.get(5n)?.error, nbd.NBD_SUCCESS);
});

for (const mode of ['structured', 'extended'] as const) {
  t.test(`${mode} replies are understood, chunks of several interleaved`, async (t) => {
    const { send, input } = chunkConversation(mode);
    const { awaiting, violation } = feed(mode, send(), input, { contextIds: CONTEXTS });
    t.equal(violation, undefined);
    t.strictSame(awaiting.finishedCookies, [2n, 1n, 6n, 4n, 3n, 5n]);
    t.equal(awaiting.sent.get(1n)?.target?.toString(), 'wxyzabcd\0\0\0\0');
    t.match(awaiting.sent.get(2n), { error: nbd.NBD_ENOSPC, errorText: 'full: €' });
    t.match(awaiting.sent.get(3n), { error: nbd.NBD_EIO, errorText: 'bad sector' }, 'the first error counts');
    t.strictSame(
      awaiting.sent.get(4n)?.extents,
      new Map([
        // The server told of more than was asked; what is kept ends with the range.
        [
          1,
          [
            { lengthBytes: 1024, flags: 3 },
            { lengthBytes: 3072, flags: 0 },
          ],
        ],
        [7, [{ lengthBytes: 4096, flags: mode === 'extended' ? 0x1_0000_0005 : 5 }]],
      ]),
    );
  });
}

const CONVERSATIONS: readonly [ReplyMode, Conversation][] = [
  ['simple', simpleConversation()],
  ['structured', chunkConversation('structured')],
  ['extended', chunkConversation('extended')],
];

for (const [mode, { send, input }] of CONVERSATIONS) {
  t.test(`${mode} replies: cut at every position, the same comes out`, async (t) => {
    const whole = feed(mode, send(), input, { contextIds: CONTEXTS }).awaiting.outcome;
    const different: (number | string)[] = [];
    for (let cut = 0; cut <= input.length; cut += 1) {
      const { awaiting, violation } = feed(mode, send(), input, { cuts: [cut], contextIds: CONTEXTS });
      if (violation !== undefined || !isDeepStrictEqual(awaiting.outcome, whole)) different.push(cut);
    }
    const everyByte = Array.from({ length: input.length }, (_, at) => at);
    const single = feed(mode, send(), input, { cuts: everyByte, contextIds: CONTEXTS });
    if (!isDeepStrictEqual(single.awaiting.outcome, whole)) different.push('byte by byte');
    t.strictSame(different, []);
  });

  t.test(`${mode} replies: cut short, nothing is finished too early`, async (t) => {
    const whole = feed(mode, send(), input, { contextIds: CONTEXTS }).awaiting.finishedCookies;
    for (let length = 0; length < input.length; length += 1) {
      const { awaiting, violation } = feed(mode, send(), input.subarray(0, length), { contextIds: CONTEXTS });
      const { finishedCookies } = awaiting;
      if (
        violation !== undefined ||
        !isDeepStrictEqual(finishedCookies, whole.slice(0, finishedCookies.length))
      ) {
        t.fail(`after ${length} bytes`);
      }
      if (finishedCookies.length === whole.length) t.fail(`all is finished after ${length} bytes`);
    }
    t.ok(whole.length >= 5);
  });

  t.test(`${mode} replies: random damage never throws, nor writes beside a buffer`, async (t) => {
    const random = new Random(99);
    let violations = 0;
    for (let round = 0; round < 3000; round += 1) {
      const damaged = Buffer.from(input);
      for (let hits = random.between(1, 4); hits > 0; hits -= 1) {
        damaged[random.below(damaged.length)] = random.pick([0, 1, 0x7f, 0x80, 0xff, random.below(256)]);
      }
      const cuts = [random.below(damaged.length)];
      const { awaiting, violation } = feed(mode, send(), damaged, { cuts, contextIds: CONTEXTS });
      if (violation !== undefined) violations += 1;
      if (!awaiting.guardsStand) t.fail(`round ${round}: written beside the buffer of a read`);
    }
    t.ok(violations > 1000, `most damage is noticed: ${violations}`);
  });

  t.test(`${mode} replies: random bytes are refused at once`, async (t) => {
    const random = new Random(100);
    for (let round = 0; round < 200; round += 1) {
      const { awaiting, violation } = feed(mode, send(), random.bytes(64), { contextIds: CONTEXTS });
      if (violation?.kind !== 'bad-magic' || awaiting.finishedCookies.length > 0) t.fail(`round ${round}`);
    }
    t.pass();
  });
}

t.test('what the server half writes, the client half reads', async (t) => {
  for (const mode of ['simple', 'structured', 'extended'] as const) {
    const awaiting = new Awaiting();
    const offset = 0x1_2345_6000;
    awaiting.send(0x0000000a_0000000bn, { type: NBD_CMD_READ, offset, length: 5 });
    awaiting.send(0x0000000a_0000000cn, { type: NBD_CMD_WRITE, offset });
    awaiting.send(0x0000000a_0000000dn, { type: NBD_CMD_FLUSH, offset });
    awaiting.send(0x0000000a_0000000en, { type: NBD_CMD_BLOCK_STATUS, offset, length: 99 });
    const to = (cookieLow: number) => ({ cookieHigh: 10, cookieLow, offsetHigh: 1, offsetLow: 0x2345_6000 });
    const encoder = new ReplyEncoder(mode);
    const out = Buffer.alloc(4096);
    let end = encoder.writeReadHeader(out, 0, to(11), 5);
    end += out.write('hello', end);
    end = encoder.writeError(out, end, to(12), nbd.NBD_EPERM, 'read-only');
    end = encoder.writeDone(out, end, to(13));
    if (mode !== 'simple') {
      const extents = [
        { lengthBytes: 50, flags: 3 },
        { lengthBytes: 49, flags: 0 },
      ];
      end = encoder.writeBlockStatus(out, end, to(14), 4, extents, true);
    }
    const fed = feed(mode, awaiting, out.subarray(0, end), { contextIds: mode === 'simple' ? [] : [4] });
    t.equal(fed.violation, undefined, mode);
    t.equal(awaiting.finishedCookies.length, mode === 'simple' ? 3 : 4);
    t.equal(awaiting.sent.get(0x0000000a_0000000bn)?.target?.toString(), 'hello');
    t.equal(awaiting.sent.get(0x0000000a_0000000cn)?.error, nbd.NBD_EPERM);
    t.equal(awaiting.sent.get(0x0000000a_0000000cn)?.errorText, mode === 'simple' ? '' : 'read-only');
    if (mode !== 'simple') t.equal(awaiting.sent.get(0x0000000a_0000000en)?.extents.get(4)?.length, 2);
  }
});

t.test('large data land straight in the buffer of the request', async (t) => {
  const random = new Random(5);
  const data = random.bytes(8 * MIN_DIRECT_BYTES);
  const halves = [data.subarray(0, 40_000), data.subarray(40_000)] as const;
  const simple = new Replier('simple').simple(1n, 0, data);
  const server = new Replier('structured');
  const chunked = Buffer.concat([
    server.chunk(1n, NBD_REPLY_TYPE_OFFSET_DATA, dataPayload(40_000, halves[1])),
    server.chunk(1n, NBD_REPLY_TYPE_OFFSET_DATA, dataPayload(0, halves[0]), { done: true }),
  ]);
  for (const [mode, input] of [
    ['simple', simple],
    ['structured', chunked],
  ] as const) {
    const awaiting = new Awaiting();
    awaiting.send(1n, { type: NBD_CMD_READ, length: data.length });
    awaiting.send(2n, { type: NBD_CMD_FLUSH });
    const cuts = Array.from({ length: 40 }, () => random.below(input.length)).sort((a, b) => a - b);
    const all = Buffer.concat([input, new Replier(mode).simple(2n)]);
    const fed = feed(mode, awaiting, all, { cuts, direct: true });
    t.equal(fed.violation, undefined);
    t.ok(awaiting.sent.get(1n)?.target?.equals(data), `${mode}: the data are right`);
    // Of each of two chunks at most one receive buffer, and an end not worth it, go the ordinary way.
    const copiedBytes = data.length - fed.directBytes;
    t.ok(copiedBytes < 2 * (MIN_DIRECT_BYTES + 1000), `${mode}: ${copiedBytes} bytes were copied`);
    t.strictSame(awaiting.finishedCookies, [1n, 2n], 'the reply behind the data is read as one');
    t.ok(awaiting.guardsStand);
  }
});

t.test('what a reply may not be', async (t) => {
  const read = { type: NBD_CMD_READ, offset: 100, length: 10 };
  const readWhole = { ...read, flags: nbd.NBD_CMD_FLAG_DF };
  const status = { type: NBD_CMD_BLOCK_STATUS, offset: 100, length: 10 };
  const statusOne = { ...status, flags: nbd.NBD_CMD_FLAG_REQ_ONE };
  const write = { type: NBD_CMD_WRITE, offset: 100, length: 10 };
  const of = (count: number): Buffer => Buffer.alloc(count, 1);
  const data = (offset: number, count: number): [number, Buffer] => [
    NBD_REPLY_TYPE_OFFSET_DATA,
    dataPayload(offset, of(count)),
  ];
  const hole = (offset: number, count: number): [number, Buffer] => [
    NBD_REPLY_TYPE_OFFSET_HOLE,
    holePayload(offset, count),
  ];
  const none: [number, Buffer] = [NBD_REPLY_TYPE_NONE, Buffer.alloc(0)];
  const told = (contextId: number, ...extents: [number, number][]): [number, Buffer] => [
    NBD_REPLY_TYPE_BLOCK_STATUS,
    statusPayload(contextId, extents),
  ];
  const error = (payload: Buffer): [number, Buffer] => [NBD_REPLY_TYPE_ERROR, payload];
  const nothing = Buffer.alloc(0);

  const cases: [string, typeof read & { flags?: number }, [number, Buffer][], string][] = [
    ['data before the range', read, [data(99, 5)], 'bad-range'],
    ['data beyond the range', read, [data(106, 5)], 'bad-range'],
    ['more data than asked for', read, [data(100, 11)], 'bad-length'],
    ['a data chunk without data', read, [data(100, 0)], 'bad-length'],
    ['the same data twice', read, [data(100, 5), data(104, 3)], 'bad-range'],
    ['a hole over data', read, [data(105, 2), hole(100, 6)], 'bad-range'],
    ['data inside a hole', read, [hole(100, 10), data(103, 2)], 'bad-range'],
    ['a hole of no length', read, [hole(100, 0)], 'bad-range'],
    ['a hole beyond the range', read, [hole(105, 0xffff_ffff)], 'bad-range'],
    ['a hole with something in it', read, [[NBD_REPLY_TYPE_OFFSET_HOLE, of(13)]], 'bad-length'],
    ['too little data', read, [data(100, 9), none], 'incomplete'],
    ['a gap in the data', read, [data(100, 4), data(105, 5), none], 'incomplete'],
    ['no data', read, [none], 'incomplete'],
    ['two pieces of a read that is to be whole', readWhole, [data(100, 5), hole(105, 5)], 'wrong-reply'],
    ['data for a write', write, [data(100, 10)], 'wrong-reply'],
    ['a hole for a write', write, [hole(100, 10)], 'wrong-reply'],
    ['block status for a read', read, [told(1, [10, 0])], 'wrong-reply'],
    ['a chunk of unknown type', read, [[99, nothing]], 'wrong-reply'],
    ['an empty chunk with something in it', write, [[NBD_REPLY_TYPE_NONE, of(1)]], 'bad-length'],
    ['status of an unknown context', status, [told(2, [10, 0])], 'unknown-context'],
    ['status of a context twice', status, [told(1, [10, 0]), told(1, [10, 0])], 'unknown-context'],
    ['no status at all', status, [none], 'incomplete'],
    ['status of one context of two', status, [told(1, [10, 0]), none], 'incomplete'],
    ['status without an extent', status, [told(1)], 'bad-length'],
    ['half an extent', status, [[NBD_REPLY_TYPE_BLOCK_STATUS, of(14)]], 'bad-length'],
    ['an extent of no length', status, [told(1, [0, 0])], 'bad-length'],
    ['two extents where one was asked for', statusOne, [told(1, [5, 0], [5, 1])], 'bad-length'],
    [
      'status for extended headers',
      status,
      [[NBD_REPLY_TYPE_BLOCK_STATUS_EXT, extendedStatusPayload(1, [[10n, 0n]])]],
      'wrong-reply',
    ],
    ['an error without room for its value', write, [error(of(5))], 'bad-length'],
    ['an error with too long a text', write, [error(errorPayload(5, 'x'.repeat(5000)))], 'bad-length'],
    [
      'an error with less text than it says',
      write,
      [error(errorPayload(5, 'abc').subarray(0, 8))],
      'bad-length',
    ],
    [
      'an error with more text than it says',
      write,
      [error(Buffer.concat([errorPayload(5, 'abc'), of(1)]))],
      'bad-length',
    ],
    [
      'an error at an offset without one',
      write,
      [[NBD_REPLY_TYPE_ERROR_OFFSET, errorPayload(5, 'abc')]],
      'bad-length',
    ],
  ];
  const server = new Replier('structured');
  for (const [what, request, chunks, kind] of cases) {
    const awaiting = new Awaiting();
    awaiting.send(1n, request);
    const input = Buffer.concat(
      chunks.map(([type, payload], index) =>
        server.chunk(1n, type, payload, { done: index === chunks.length - 1 }),
      ),
    );
    const fed = feed('structured', awaiting, input, { contextIds: CONTEXTS });
    t.match(fed.violation, { kind }, what);
    t.strictSame(awaiting.finishedCookies, [], 'and nothing is finished');
    t.ok(awaiting.guardsStand);
  }
});

t.test('what a stream may not be', async (t) => {
  const read = { type: NBD_CMD_READ, offset: 100, length: 10 };
  const simple = new Replier('simple');
  const structured = new Replier('structured');
  const extended = new Replier('extended');
  const nothing = Buffer.alloc(0);
  const cases: [string, ReplyMode, Buffer, string][] = [
    ['a simple reply to a structured read', 'structured', simple.simple(1n, nbd.NBD_EIO), 'wrong-reply'],
    [
      'a structured reply, not agreed on',
      'simple',
      structured.chunk(1n, NBD_REPLY_TYPE_NONE, nothing, { done: true }),
      'bad-magic',
    ],
    [
      'a simple reply after extended headers',
      'extended',
      Buffer.concat([simple.simple(1n), Buffer.alloc(16)]),
      'bad-magic',
    ],
    [
      'an extended reply, not agreed on',
      'structured',
      extended.chunk(1n, NBD_REPLY_TYPE_NONE, nothing, { done: true }),
      'bad-magic',
    ],
    ['a reply to nothing', 'simple', simple.simple(2n), 'unknown-cookie'],
    [
      'the same reply twice',
      'simple',
      Buffer.concat([simple.simple(1n, 5), simple.simple(1n, 5)]),
      'unknown-cookie',
    ],
    [
      'an empty chunk, and more to come',
      'structured',
      structured.chunk(1n, NBD_REPLY_TYPE_NONE, nothing),
      'wrong-reply',
    ],
    [
      'an extended reply to another offset',
      'extended',
      extended.chunk(1n, NBD_REPLY_TYPE_NONE, nothing, { done: true, offset: 101n }),
      'bad-range',
    ],
    [
      'a payload of 2^63 bytes',
      'extended',
      extended.chunk(1n, NBD_REPLY_TYPE_OFFSET_DATA, nothing, { offset: 100n, lengthBytes: 2 ** 63 }),
      'bad-length',
    ],
    [
      'a payload of 4 GiB',
      'structured',
      structured.chunk(1n, NBD_REPLY_TYPE_ERROR, nothing, { lengthBytes: 0xffff_ffff }),
      'bad-length',
    ],
  ];
  for (const [what, mode, input, kind] of cases) {
    const awaiting = new Awaiting();
    awaiting.send(1n, read);
    t.match(feed(mode, awaiting, input).violation, { kind }, what);
  }
});

t.test('after a violation nothing more is taken', async (t) => {
  const awaiting = new Awaiting();
  awaiting.send(1n, { type: NBD_CMD_FLUSH });
  const server = new Replier('simple');
  const bad = server.simple(9n);
  const input = Buffer.concat([bad, server.simple(1n)]);
  t.match(feed('simple', awaiting, input).violation, { kind: 'unknown-cookie' });
  t.match(feed('simple', awaiting, input, { cuts: [bad.length] }).violation, { kind: 'unknown-cookie' });
  t.strictSame(awaiting.finishedCookies, []);
});

t.test('errors of a future protocol, and errors without a reason, are errors', async (t) => {
  const server = new Replier('structured');
  const awaiting = new Awaiting();
  const unknown = awaiting.send(1n, { type: NBD_CMD_WRITE });
  const nameless = awaiting.send(2n, { type: NBD_CMD_WRITE });
  const hostile = awaiting.send(3n, { type: NBD_CMD_WRITE });
  const more = Buffer.concat([errorPayload(77, 'odd'), Buffer.alloc(20)]);
  const input = Buffer.concat([
    server.chunk(1n, 0x8123, more, { done: true }),
    server.chunk(2n, NBD_REPLY_TYPE_ERROR, errorPayload(0, ''), { done: true }),
    server.chunk(3n, NBD_REPLY_TYPE_ERROR, errorPayload(5, `one\n\u001b[31mtwo ${'x'.repeat(3000)}`), {
      done: true,
    }),
  ]);
  t.equal(feed('structured', awaiting, input).violation, undefined);
  t.match(unknown, { error: 77, errorText: 'odd' });
  t.equal(nameless.error, nbd.NBD_EINVAL);
  t.notMatch(hostile.errorText, /\p{Cc}/u, 'a text for one line of a log');
  t.ok(Buffer.byteLength(hostile.errorText) <= 256);
});
