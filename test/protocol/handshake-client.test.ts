/** The client against servers whose bytes are written by hand: good ones, old ones, and ones that break the rules. */
import { isDeepStrictEqual } from 'node:util';
import t, { type Test } from 'tap';
import {
  HandshakeClient,
  type HandshakeClientOptions,
  type HandshakeClientOutcome,
} from '../../protocol/handshake-client.ts';
import { MAX_OPTION_REPLIES_BYTES } from '../../protocol/limits.ts';
import { everyCut, hex, type Played, play } from '../fixtures/handshake.ts';
import { Random } from '../fixtures/random.ts';

const GREETING = "'NBDMAGIC' 'IHAVEOPT' 0003";
const NOTHING = { structuredReplies: false, extendedHeaders: false, contexts: [] };
const ALL = { structuredReplies: true, extendedHeaders: true, contexts: ['base:allocation'] };
const SIZE = '0000 0000000000100000 0005';

function option(number: number, data = ''): string {
  const bytes = hex(data);
  return `'IHAVEOPT' ${u32(number)} ${u32(bytes.length)} ${bytes.toString('hex')}`;
}

function reply(number: number, type: number, data = ''): string {
  const bytes = hex(data);
  return `0003e889045565a9 ${u32(number)} ${u32(type)} ${u32(bytes.length)} ${bytes.toString('hex')}`;
}

const u32 = (value: number): string => value.toString(16).padStart(8, '0');
const ack = (number: number): string => reply(number, 1);
const unsupported = (number: number): string => reply(number, 0x80000001);
const sized = (text: string): string => `${u32(Buffer.byteLength(text))} '${text}'`;

/** Plays a server's bytes to a client whole and at every split; expects what the client sends, returns the outcome. */
function conversation(
  test: Test,
  options: Partial<HandshakeClientOptions>,
  server: string,
  client: string,
): Played<HandshakeClientOutcome> {
  const whole = { exportName: 'vol', wants: NOTHING, mode: 'go' as const, ...options };
  const input = hex(server);
  const played = play(new HandshakeClient(whole), input);
  test.equal(played.output.toString('hex'), hex(client).toString('hex'), 'what the client sends');
  const different: string[] = [];
  for (const cuts of everyCut(input.length)) {
    const cut = play(new HandshakeClient(whole), input, cuts);
    if (!cut.output.equals(played.output) || !isDeepStrictEqual(cut.outcome, played.outcome)) {
      different.push(`cut at ${cuts}: ${cut.output.toString('hex')} ${JSON.stringify(cut.outcome)}`);
    }
  }
  test.strictSame(different, [], 'the same at every split');
  return played;
}

const FLAGS = '00000003';
const GO = option(7, `${sized('vol')} 0003 0001 0002 0003`);

t.test('GO with nothing else, up to the first reply of the transmission phase', async (t) => {
  const info =
    reply(7, 3, SIZE) +
    reply(7, 3, "0001 'g/vol'") +
    reply(7, 3, "0002 'a volume'") +
    reply(7, 3, '0003 00000200 00010000 ffffffff');
  const { outcome, leftOver } = conversation(
    t,
    {},
    `${GREETING} ${info} ${ack(7)} 67446698`,
    `${FLAGS} ${GO}`,
  );
  t.match(outcome, {
    kind: 'transmission',
    session: {
      export: {
        name: 'g/vol',
        description: 'a volume',
        sizeBytes: 1048576,
        minimumBlockBytes: 512,
        preferredBlockBytes: 65536,
        maximumPayloadBytes: 0xffffffff,
      },
      transmissionFlags: 5,
      structuredReplies: false,
      extendedHeaders: false,
    },
  });
  t.strictSame(leftOver, hex('67446698'));
});

t.test('all wishes fulfilled', async (t) => {
  const query = `${sized('vol')} 00000001 ${sized('base:allocation')}`;
  const { outcome } = conversation(
    t,
    { wants: ALL },
    `${GREETING} ${ack(11)} ${reply(10, 4, "0000002a 'base:allocation'")} ${ack(10)} ${reply(7, 3, '0000 0000000000100000 0085')} ${reply(7, 3, "0063 'from the future'")} ${ack(7)}`,
    `${FLAGS} ${option(11)} ${option(10, query)} ${GO}`,
  );
  t.match(outcome, {
    kind: 'transmission',
    session: {
      export: { name: 'vol', minimumBlockBytes: 1, preferredBlockBytes: 4096 },
      transmissionFlags: 0x85,
      structuredReplies: true,
      extendedHeaders: true,
      contexts: [{ id: 42, name: 'base:allocation' }],
    },
  });
});

t.test('wishes refused one by one: the next best thing is asked for', async (t) => {
  const query = `${sized('vol')} 00000001 ${sized('base:allocation')}`;
  const accepted = reply(7, 3, '0000 0000000000100000 0085') + ack(7);
  const structured = conversation(
    t,
    { wants: ALL },
    `${GREETING} ${unsupported(11)} ${ack(8)} ${reply(10, 4, "00000001 'base:allocation'")} ${reply(10, 0x80000009, "'too big'")} ${accepted}`,
    `${FLAGS} ${option(11)} ${option(8)} ${option(10, query)} ${GO}`,
  );
  t.match(structured.outcome, { session: { structuredReplies: true, extendedHeaders: false } });
  if (structured.outcome.kind === 'transmission')
    t.strictSame(structured.outcome.session.contexts, [], 'an error voids what came before it');

  const simple = conversation(
    t,
    { wants: ALL },
    `${GREETING} ${unsupported(11)} ${reply(8, 0x80000002, "'not today'")} ${accepted}`,
    `${FLAGS} ${option(11)} ${option(8)} ${GO}`,
  );
  t.match(
    simple.outcome,
    { session: { structuredReplies: false, transmissionFlags: 5 } },
    'SEND_DF means nothing now',
  );
});

t.test('servers that do not know GO, or no option at all, are used by EXPORT_NAME', async (t) => {
  const entered = {
    kind: 'transmission',
    session: { export: { name: 'vol', sizeBytes: 1048576 }, transmissionFlags: 5 },
  };
  const size = '0000000000100000 0005';
  const zeroes = '00'.repeat(124);
  const name = option(1, "'vol'");
  t.match(
    conversation(t, {}, `${GREETING} ${unsupported(7)} ${size}`, `${FLAGS} ${GO} ${name}`).outcome,
    entered,
  );
  t.match(
    conversation(t, { mode: 'export-name' }, `${GREETING} ${size}`, `${FLAGS} ${name}`).outcome,
    entered,
  );
  t.match(
    conversation(
      t,
      { mode: 'export-name', wants: ALL },
      `${GREETING} ${unsupported(8)} ${size}`,
      `${FLAGS} ${option(8)} ${name}`,
    ).outcome,
    entered,
  );
  t.match(
    conversation(
      t,
      {},
      `'NBDMAGIC' 'IHAVEOPT' 0001 ${unsupported(7)} ${size} ${zeroes}`,
      `00000001 ${GO} ${name}`,
    ).outcome,
    entered,
  );
  const ancient = conversation(
    t,
    { wants: ALL },
    `'NBDMAGIC' 'IHAVEOPT' 0000 ${size} ${zeroes} 67446698`,
    `00000000 ${name}`,
  );
  t.match(ancient.outcome, entered);
  t.strictSame(ancient.leftOver, hex('67446698'));
  t.match(
    conversation(t, {}, `'NBDMAGIC' 'IHAVEOPT' ff03 ${reply(7, 3, SIZE)} ${ack(7)}`, `${FLAGS} ${GO}`)
      .outcome,
    entered,
    'unknown handshake flags are ignored',
  );
});

t.test('INFO and LIST end with ABORT', async (t) => {
  const listQuery = `${sized('vol')} 00000001 ${sized('base:')}`;
  const info = conversation(
    t,
    { mode: 'info', wants: { ...NOTHING, contexts: ['base:'] } },
    `${GREETING} ${ack(8)} ${reply(9, 4, "00000000 'base:allocation'")} ${reply(9, 4, "00000000 'base:other'")} ${ack(9)} ${reply(6, 3, SIZE)} ${ack(6)}`,
    `${FLAGS} ${option(8)} ${option(9, listQuery)} ${option(6, `${sized('vol')} 0003 0001 0002 0003`)} ${option(2)}`,
  );
  t.match(info.outcome, {
    kind: 'info',
    export: { name: 'vol', sizeBytes: 1048576, contexts: ['base:allocation', 'base:other'] },
  });

  const list = conversation(
    t,
    { mode: 'list', wants: ALL },
    `${GREETING} ${reply(3, 2, `${sized('vol')} 'text' 1b0a 'x'`)} ${reply(3, 2, sized('g/ü'))} ${ack(3)}`,
    `${FLAGS} ${option(3)} ${option(2)}`,
  );
  t.strictSame(list.outcome, {
    kind: 'list',
    exports: [
      { name: 'vol', description: 'text x' },
      { name: 'g/ü', description: '' },
    ],
  });
});

t.test('a refusal is told with its text and code, and ends in good order', async (t) => {
  const unknown = conversation(
    t,
    {},
    `${GREETING} ${reply(7, 0x80000006, "'no such export' 0a")}`,
    `${FLAGS} ${GO} ${option(2)}`,
  );
  t.strictSame(unknown.outcome, {
    kind: 'failed',
    reason: 'the server refuses GO: no such export (NBD_REP_ERR_UNKNOWN)',
    code: 0x80000006,
  });
  const tls = conversation(
    t,
    { wants: ALL },
    `${GREETING} ${reply(11, 0x80000005)}`,
    `${FLAGS} ${option(11)} ${option(2)}`,
  );
  t.match(tls.outcome, {
    kind: 'failed',
    reason: 'the server refuses EXTENDED_HEADERS: (NBD_REP_ERR_TLS_REQD)',
  });
  const shutdown = conversation(
    t,
    { wants: ALL },
    `${GREETING} ${ack(11)} ${reply(10, 0x80000007)}`,
    `${FLAGS} ${option(11)} ${option(10, `${sized('vol')} 00000001 ${sized('base:allocation')}`)} ${option(2)}`,
  );
  t.match(shutdown.outcome, { kind: 'failed', code: 0x80000007 });
  const list = conversation(
    t,
    { mode: 'list' },
    `${GREETING} ${reply(3, 0x80000002, "'private'")}`,
    `${FLAGS} ${option(3)} ${option(2)}`,
  );
  t.match(list.outcome, { kind: 'failed', reason: /LIST: private \(NBD_REP_ERR_POLICY\)/ });
  const goGone = conversation(
    t,
    { wants: { ...NOTHING, extendedHeaders: true } },
    `${GREETING} ${ack(11)} ${unsupported(7)}`,
    `${FLAGS} ${option(11)} ${GO} ${option(2)}`,
  );
  t.match(goGone.outcome, { kind: 'failed' }, 'EXPORT_NAME is not allowed after extended headers');
});

t.test('servers that break the rules are left', async (t) => {
  const failures: [string, RegExp][] = [
    ["'SSH-2.0-OpenSSH_9.2'", /does not greet as an NBD server/],
    ["'NBDMAGIC' 00420281861253 0000000000000000", /older protocol/],
    [`${GREETING} 'IHAVEOPT' ${'00'.repeat(12)}`, /does not begin with the magic/],
    [`${GREETING} ${ack(6)}`, /replies to option 6 when asked for GO/],
    [`${GREETING} ${ack(7)}`, /without NBD_INFO_EXPORT/],
    [`${GREETING} ${reply(7, 3, SIZE)} ${reply(7, 1, '00')}`, /NBD_REP_ACK has data/],
    [`${GREETING} ${reply(7, 2, sized('vol'))}`, /type 2 does not belong there/],
    [`${GREETING} ${reply(7, 4, "00000000 'base:x'")}`, /type 4 does not belong there/],
    [`${GREETING} ${reply(7, 3, '00')}`, /less than two bytes/],
    [`${GREETING} ${reply(7, 3, '0000 00')}`, /NBD_INFO_EXPORT of 3 bytes/],
    [`${GREETING} ${reply(7, 3, '0000 0000000000100000 0004')}`, /NBD_FLAG_HAS_FLAGS/],
    [`${GREETING} ${reply(7, 3, '0000 0020000000000000 0001')}`, /9007199254740992 bytes/],
    [`${GREETING} ${reply(7, 3, '0001 ff')}`, /NBD_INFO_NAME/],
    [`${GREETING} ${reply(7, 3, '0003 00')}`, /NBD_INFO_BLOCK_SIZE of 3 bytes/],
    [`${GREETING} ${reply(7, 3, '0003 00000000 00001000 02000000')}`, /minimum block of 0/],
    [`${GREETING} ${reply(7, 3, '0003 00000003 00001000 02000000')}`, /minimum block of 3/],
    [`${GREETING} ${reply(7, 3, '0003 00020000 00020000 02000000')}`, /minimum block of 131072/],
    [`${GREETING} ${reply(7, 3, '0003 00000001 00000100 02000000')}`, /preferred block of 256/],
    [`${GREETING} ${reply(7, 3, '0003 00000200 00001000 00000201')}`, /maximum payload of 513/],
    [`${GREETING} 0003e889045565a9 00000007 00000003 00008001`, /has 32769 bytes/],
  ];
  for (const [server, reason] of failures) {
    const played = play(new HandshakeClient({ exportName: 'vol', wants: NOTHING, mode: 'go' }), hex(server));
    t.match(played.outcome, { kind: 'failed', reason });
    t.notMatch(played.outcome, { code: Number });
    t.notOk(played.output.includes(hex(option(2))), 'a hard disconnect');
  }
  const client = new HandshakeClient({ exportName: 'vol', wants: ALL, mode: 'go' });
  const twice = reply(10, 4, "00000001 'base:a'") + reply(10, 4, "00000001 'base:b'");
  t.match(play(client, hex(`${GREETING} ${ack(11)} ${twice}`)).outcome, {
    kind: 'failed',
    reason: /same id|have the id 1/,
  });
  const old = new HandshakeClient({ exportName: '', wants: NOTHING, mode: 'list' });
  t.match(play(old, hex("'NBDMAGIC' 'IHAVEOPT' 0000")).outcome, { kind: 'failed', reason: /fixed newstyle/ });
});

t.test('a list without end is cut off', async (t) => {
  const client = new HandshakeClient({ exportName: '', wants: NOTHING, mode: 'list' });
  client.receive(hex(GREETING));
  const entry = hex(reply(3, 2, `${sized('n'.repeat(4096))} '${'d'.repeat(20000)}'`));
  let receivedBytes = 0;
  let outcome: HandshakeClientOutcome = { kind: 'more' };
  while (outcome.kind === 'more' && receivedBytes < 2 * MAX_OPTION_REPLIES_BYTES) {
    outcome = client.receive(entry).outcome;
    receivedBytes += entry.length;
  }
  t.match(outcome, { kind: 'failed', reason: /do not end/ });
  t.ok(receivedBytes <= MAX_OPTION_REPLIES_BYTES + entry.length);
});

t.test('what a closed connection means depends on what was awaited', async (t) => {
  const closed = (mode: HandshakeClientOptions['mode'], server: string): string => {
    const client = new HandshakeClient({ exportName: 'vol', wants: NOTHING, mode });
    client.receive(hex(server));
    return client.serverClosed().reason;
  };
  t.equal(closed('go', ''), 'the server closed before it greeted');
  t.equal(closed('go', GREETING), 'the server closed when asked for GO');
  t.equal(closed('export-name', GREETING), 'the server refuses the export "vol"');
});

t.test('wrong use is our own mistake', async (t) => {
  t.throws(() => new HandshakeClient({ exportName: 'a\0', wants: NOTHING, mode: 'go' }), /bug/);
  const client = new HandshakeClient({ exportName: 'vol', wants: NOTHING, mode: 'go' });
  client.receive(Buffer.alloc(18));
  t.throws(() => client.receive(Buffer.alloc(1)), /bug/);
  t.throws(() => client.serverClosed(), /bug/);
});

t.test('noise: no exception, and the same at any split', async (t) => {
  const good = hex(
    `${GREETING} ${ack(11)} ${reply(10, 4, "00000001 'base:allocation'")} ${ack(10)} ${reply(7, 3, SIZE)} ${reply(7, 3, "0001 'vol'")} ${ack(7)}`,
  );
  const ends: Record<string, number> = {};
  for (let seed = 1; seed <= 400; seed += 1) {
    const random = new Random(seed);
    const input = Buffer.from(good.subarray(0, random.between(1, good.length)));
    for (let changes = random.below(3); changes > 0; changes -= 1)
      input[random.below(input.length)] = random.below(256);
    const options = {
      exportName: 'vol',
      wants: ALL,
      mode: random.pick(['go', 'go', 'info', 'list', 'export-name'] as const),
    };
    const cuts = Array.from({ length: random.below(9) }, () => random.below(input.length + 1)).sort(
      (a, b) => a - b,
    );
    const whole = play(new HandshakeClient(options), input);
    const cut = play(new HandshakeClient(options), input, cuts);
    if (!isDeepStrictEqual(cut.outcome, whole.outcome))
      t.fail(`seed ${seed}: other outcome when cut at ${cuts}`);
    if (!cut.output.equals(whole.output)) t.fail(`seed ${seed}: other output when cut at ${cuts}`);
    ends[whole.outcome.kind] = (ends[whole.outcome.kind] ?? 0) + 1;
  }
  t.ok((ends['failed'] ?? 0) > 40 && (ends['more'] ?? 0) > 40, JSON.stringify(ends));
});
