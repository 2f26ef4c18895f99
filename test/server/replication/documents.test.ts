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

const begin: CommandDocument = {
  protocol: 1,
  call: 'begin',
  announcement: { ...announcement(), path: ['above'], volumes: [{ name: 'v', sizeBytes: 512 }] },
};
const told = new FakeReplica().told;
const state: StateDocument = { state: { ...told, volumes: [...told.volumes], snapshots: [] } };

t.test('a document comes back as it went', async (t) => {
  const commands: CommandDocument[] = [
    begin,
    { protocol: 1, call: 'restart', restart: { lsn: Number.MAX_SAFE_INTEGER, chain: 0, snapshots: [] } },
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
    '.replication/../state',
    `.replication/g/state?proof=${proof}&proof=${proof}`,
  ])
    t.equal(parseReplicationName(text), undefined, text);
});
