/** Documents and names between nodes: whatever comes, it is read whole or refused. */
import t from 'tap';
import { EngineError } from '../../../engine/errors.ts';
import {
  AnswerDocument,
  CommandDocument,
  DOCUMENT_ROOM_BYTES,
  decodeDocument,
  encodeDocument,
  StateDocument,
} from '../../../server/replication/documents.ts';
import {
  formatTarget,
  parseReplicationName,
  type ReplicationTarget,
  withProof,
} from '../../../server/replication/names.ts';
import { announcement, FakeReplica } from '../../fixtures/fake-replica.ts';
import { Random } from '../../fixtures/random.ts';

const told = new FakeReplica().told;
const begin: CommandDocument = {
  protocol: 1,
  call: 'begin',
  announcement: {
    ...announcement(),
    path: [announcement().linkId],
    volumes: [{ name: 'v', sizeBytes: 512 }],
    named: {
      lsn: 64,
      snapshots: [{ id: told.memberId, imageId: announcement().linkId, name: 'monday', detached: true }],
    },
  },
};
const state: StateDocument = { state: { ...told, volumes: [...told.volumes], snapshots: [] } };

/** Of any value, as it would come over the wire. */
function encoded(value: unknown): Buffer {
  const text = Buffer.from(JSON.stringify(value));
  const bytes = Buffer.alloc(4 + text.length);
  bytes.writeUInt32LE(text.length);
  text.copy(bytes, 4);
  return bytes;
}

t.test('a document comes back as it went', async (t) => {
  const commands: CommandDocument[] = [
    begin,
    { protocol: 1, call: 'restart', restart: { lsn: 2 ** 53 - 2 ** 25, chain: 0, snapshots: [] } },
    { protocol: 1, call: 'hold', roundId: 'r', lsn: 0 },
    { protocol: 1, call: 'release', roundId: 'r', complete: false },
  ];
  for (const command of commands) {
    const bytes = Buffer.concat([encodeDocument(command), Buffer.alloc(7)]);
    t.strictSame(decodeDocument('it', CommandDocument, bytes), command);
  }
  t.strictSame(decodeDocument('it', StateDocument, encodeDocument(state)), state);
  const answer: AnswerDocument = { ok: false, code: 'in-use', message: 'später', errno: 'ENOSPC' };
  t.strictSame(decodeDocument('it', AnswerDocument, encodeDocument(answer)), answer);
});

t.test('what is no document is refused', async (t) => {
  const sized = (text: string, length = Buffer.byteLength(text)): Buffer => {
    const bytes = Buffer.alloc(4 + Buffer.byteLength(text));
    bytes.writeUInt32LE(length);
    bytes.write(text, 4);
    return bytes;
  };
  const refused = (bytes: Buffer, message: RegExp) =>
    t.throws(() => decodeDocument('it', CommandDocument, bytes), { message }, String(message));
  refused(Buffer.alloc(0), /length/);
  refused(Buffer.alloc(3), /length/);
  refused(sized('{}', DOCUMENT_ROOM_BYTES), /length/);
  refused(sized('{}', 3), /cut off/);
  refused(sized('{'), /no JSON/);
  refused(sized('[]'), /^it/);
  refused(sized('null'), /^it/);
  refused(sized(JSON.stringify({ ...begin, call: 'end' })), /^it/);
  refused(sized(JSON.stringify({ ...begin, protocol: 2, call: 'new' })), /speaks version 2.* this one 1/);
  refused(sized(JSON.stringify({ protocol: 1, call: 'hold', roundId: 'r', lsn: 2 ** 53 })), /^it/);
  refused(sized(JSON.stringify({ protocol: 1, call: 'hold', roundId: 'r', lsn: 0.5 })), /^it/);
  refused(sized(JSON.stringify({ protocol: 1, call: 'hold', roundId: 'x'.repeat(65), lsn: 1 })), /^it/);
});

t.test('values that a group could not keep are refused', async (t) => {
  const { announcement: announced } = begin;
  const { origin } = announced;
  const { generation } = origin;
  const uuid = announced.linkId;
  const restart = { lsn: 1, chain: 0, snapshots: [{ id: uuid, imageId: uuid, name: 's', detached: false }] };
  const begins = (changes: object) => ({ ...begin, announcement: { ...announced, ...changes } });
  const restarts = (changes: object) => ({ ...begin, call: 'restart', restart: { ...restart, ...changes } });
  const tells = (changes: object) => ({ state: { ...state.state, ...changes } });
  for (const [shape, good] of [
    [CommandDocument, begins({})],
    [CommandDocument, restarts({})],
    [StateDocument, tells({})],
  ] as const)
    t.doesNotThrow(() => decodeDocument('it', shape, encoded(good)));
  for (const [shape, document, message] of [
    [CommandDocument, begins({ linkId: 'link-1' }), 'it/announcement/linkId must match'],
    [
      CommandDocument,
      begins({ memberId: uuid.toUpperCase().replace('3', 'A') }),
      'it/announcement/memberId must',
    ],
    [CommandDocument, begins({ origin: { ...origin, groupId: 'x' } }), 'it/announcement/origin/groupId must'],
    [
      CommandDocument,
      begins({ origin: { ...origin, generation: { ...generation, number: 2 ** 32 } } }),
      'it/announcement/origin/generation/number must be <=',
    ],
    [CommandDocument, begins({ linkName: 'a\nb' }), 'it/announcement/linkName must'],
    [CommandDocument, restarts({ lsn: Number.MAX_SAFE_INTEGER }), 'it/restart/lsn must be <='],
    [CommandDocument, restarts({ snapshots: [{ id: 's', name: 's' }] }), 'it/restart/snapshots/0/id must'],
    [StateDocument, tells({ memberId: 'node-b' }), 'it/state/memberId must match'],
    [StateDocument, tells({ endLsn: 2 ** 53 - 2 }), 'it/state/endLsn must be <='],
  ] as const)
    t.throws(
      () => decodeDocument('it', shape, encoded(document)),
      { code: 'invalid', message: new RegExp(`^${message}`) },
      message,
    );
});

t.test('what is wrong is said by what it was meant to be, at the first fault', async (t) => {
  const many = Array.from({ length: 100_000 }, () => 0);
  const volumes = many.slice(0, 64);
  for (const [document, message] of [
    [{ protocol: 1, call: 'restart' }, 'it lacks the field restart'],
    [
      { protocol: 1, call: 'restart', restart: { lsn: 1, chain: 1, snapshots: many } },
      'it/restart/snapshots has more than 1024 items',
    ],
    [
      { ...begin, announcement: { ...begin.announcement, volumes } },
      'it/announcement/volumes/0 must be object',
    ],
    [{ protocol: 1, call: 'stop' }, 'it/call must be one of "begin", "restart", "hold", "release"'],
    [{ protocol: 1, call: 'hold', roundId: 7, lsn: -1 }, 'it/roundId must be string'],
    [many, 'it must be object'],
  ] as const)
    t.throws(() => decodeDocument('it', CommandDocument, encoded(document)), { message }, message);
  t.throws(() => decodeDocument('it', AnswerDocument, encoded({})), {
    message: 'it/ok must be one of true, false',
  });
});

t.test('damaged documents are refused, or are documents', async (t) => {
  const random = new Random(20_261_125);
  const whole = [encodeDocument(begin), encodeDocument(state)];
  for (let run = 0; run < 3000; run++) {
    const bytes = Buffer.from(random.pick(whole));
    for (let change = random.below(4); change >= 0; change--)
      bytes[random.below(bytes.length)] = random.below(256);
    const cut = random.below(3) === 0 ? bytes.subarray(0, random.below(bytes.length)) : bytes;
    for (const shape of [CommandDocument, StateDocument, AnswerDocument]) {
      try {
        decodeDocument('it', shape, cut);
      } catch (error) {
        if (!(error instanceof EngineError)) t.fail(`run ${run}`, { error });
      }
    }
  }
  t.pass('nothing else was thrown');
});

t.test('names of exports', async (t) => {
  const proof = 'ab'.repeat(32);
  const targets: ReplicationTarget[] = [
    { kind: 'state', group: 'g', nonce: undefined },
    { kind: 'state', group: 'g', nonce: proof },
    { kind: 'log', group: 'db-1.x', session: 999_999_999_999_999 },
    { kind: 'regions', group: 'g', volume: 'v_1', session: 1, round: undefined },
    { kind: 'regions', group: 'g', volume: 'v', session: 1, round: '00000000-0000-4000-8000-000000000000' },
    {
      kind: 'checksums',
      group: 'g',
      volume: 'v_1',
      session: 12,
      verify: '00000000-0000-4000-8000-000000000000',
    },
  ];
  for (const target of targets) {
    const canonical = formatTarget(target);
    t.strictSame(parseReplicationName(canonical), { target, canonical, proof: undefined }, canonical);
    t.strictSame(parseReplicationName(withProof(canonical, proof)), { target, canonical, proof });
  }
  for (const text of [
    'g/v',
    '.replication',
    '.replication/g/state?proof=12',
    '.replication/g/state?nonce=12',
    '.replication/g/log?session=01',
    '.replication/g/log?session=1&session=2',
    '.replication/g/log?session=9999999999999999',
    '.replication/g/regions/v?round=r',
    '.replication/g/regions/v?session=1&round=',
    '.replication/g/regions/?session=1',
    '.replication/g/checksums/v?session=1',
    '.replication/g/checksums/v?session=1&verify=',
    '.replication/g/checksums/v?session=1&verify=x&verify=y',
    '.replication/g/checksums/?session=1&verify=x',
    `.replication/g/checksums/v?session=1&verify=${'x'.repeat(65)}`,
    '.replication/../state',
    `.replication/g/state?proof=${proof}&proof=${proof}`,
  ])
    t.equal(parseReplicationName(text), undefined, text);
});
