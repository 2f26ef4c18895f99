/** Clients that break the rules: every limit, then seeded noise. */
import t from 'tap';
import { type HandshakeOutcome, HandshakeServer } from '../../protocol/handshake-server.ts';
import {
  MAX_HANDSHAKE_OUTPUT_BYTES,
  MAX_LIST_REPLY_BYTES,
  MAX_OPTIONS_PER_HANDSHAKE,
  MAX_SKIPPED_OPTION_BYTES,
} from '../../protocol/limits.ts';
import { encodeMetaContextRequest } from '../../protocol/meta-context.ts';
import { encodeInfoRequest, encodeOption } from '../../protocol/options.ts';
import { directoryOf, exportInfo, hex, playServer } from '../fixtures/handshake.ts';
import { Random } from '../fixtures/random.ts';

const DIRECTORY = directoryOf(exportInfo('vol'), exportInfo('other', { description: 'x' }));
const FIXED = hex('00000003');

function reasonOf(outcome: HandshakeOutcome): string {
  return outcome.kind === 'close' ? outcome.reason : `not closed but ${outcome.kind}`;
}

t.test('unknown client flags close', async (t) => {
  for (const flags of ['00000004', '80000003', 'ffffffff', '00010000']) {
    const { output, outcome } = playServer(DIRECTORY, hex(flags));
    t.equal(output.length, 0);
    t.match(reasonOf(outcome), /unknown client flags/);
  }
});

t.test('a client without fixed newstyle gets EXPORT_NAME and nothing else', async (t) => {
  for (const option of [2, 3, 5, 6, 7, 8, 9, 10, 11, 99]) {
    const { output, outcome } = playServer(DIRECTORY, Buffer.concat([hex('00000002'), encodeOption(option)]));
    t.equal(output.length, 0);
    t.match(reasonOf(outcome), /does not speak fixed newstyle/, `option ${option}`);
  }
});

t.test('what is no option closes at once', async (t) => {
  const { output, outcome } = playServer(
    DIRECTORY,
    Buffer.concat([FIXED, Buffer.from('GET / HTTP/1.1\r\n\r\n')]),
  );
  t.equal(output.length, 0);
  t.match(reasonOf(outcome), /magic/);
});

t.test('data beyond what is skipped closes before it comes', async (t) => {
  const header = encodeOption(42);
  header.writeUInt32BE(MAX_SKIPPED_OPTION_BYTES + 1, 12);
  t.match(reasonOf(playServer(DIRECTORY, Buffer.concat([FIXED, header])).outcome), /announces 1048577 bytes/);
  header.writeUInt32BE(0xffffffff, 12);
  t.match(reasonOf(playServer(DIRECTORY, Buffer.concat([FIXED, header])).outcome), /4294967295/);
});

t.test('skipped data counts over the whole handshake', async (t) => {
  const server = new HandshakeServer(DIRECTORY);
  server.receive(FIXED);
  const half = Buffer.concat([encodeOption(42), Buffer.alloc(MAX_SKIPPED_OPTION_BYTES / 2)]);
  half.writeUInt32BE(MAX_SKIPPED_OPTION_BYTES / 2, 12);
  t.equal(server.receive(half).outcome.kind, 'more');
  t.equal(server.receive(half).outcome.kind, 'more');
  t.equal(server.receive(encodeOption(42)).outcome.kind, 'more', 'an option without data is no burden');
  t.equal(server.receive(encodeOption(42, Buffer.alloc(1))).outcome.kind, 'close');
});

t.test('options are counted', async (t) => {
  const server = new HandshakeServer(DIRECTORY);
  server.receive(FIXED);
  for (let count = 0; count < MAX_OPTIONS_PER_HANDSHAKE; count += 1) {
    if (server.receive(encodeOption(8)).outcome.kind !== 'more') t.fail(`closed at option ${count + 1}`);
  }
  t.match(reasonOf(server.receive(encodeOption(8)).outcome), /more than 4096 options/);
});

t.test('a list that is too long is refused, and cannot be multiplied by not waiting for it', async (t) => {
  const description = 'd'.repeat(4000);
  const entryBytes = 20 + 4 + 5 + 4000;
  const fitting = Math.floor(MAX_LIST_REPLY_BYTES / entryBytes);
  const exportsOf = (count: number) =>
    directoryOf(
      ...Array.from({ length: count }, (_, index) => exportInfo(`e${1000 + index}`, { description })),
    );
  const list = Buffer.concat([FIXED, encodeOption(3)]);

  const whole = playServer(exportsOf(fitting), list);
  t.equal(whole.output.length, fitting * entryBytes + 20);
  const refused = playServer(exportsOf(fitting + 1), list);
  t.equal(refused.output.readUInt32BE(12), 0x80000009, 'TOO_BIG, and no entries before it');
  t.equal(refused.outcome.kind, 'more');

  const flood = Buffer.concat([FIXED, ...Array.from({ length: 1000 }, () => encodeOption(3))]);
  const { output, outcome } = playServer(exportsOf(fitting), flood);
  t.match(reasonOf(outcome), /without waiting/);
  t.ok(output.length <= MAX_HANDSHAKE_OUTPUT_BYTES + MAX_LIST_REPLY_BYTES + 20);

  const patient = new HandshakeServer(exportsOf(fitting));
  patient.receive(FIXED);
  for (let sentBytes = 0; sentBytes <= 2 * MAX_HANDSHAKE_OUTPUT_BYTES; sentBytes += fitting * entryBytes)
    t.equal(patient.receive(encodeOption(3)).outcome.kind, 'more', 'who waits for each may ask again');
});

t.test('a handshake that is over takes no more: that would be our own mistake', async (t) => {
  const server = new HandshakeServer(DIRECTORY);
  server.receive(Buffer.concat([FIXED, encodeOption(2)]));
  t.throws(() => server.receive(FIXED), /bug/);
});

const SEEDS = 400;

/** Valid handshakes of random options, as raw material for mutation. */
function validHandshake(random: Random): Buffer {
  const names = ['', 'vol', 'other', 'none', 'n'.repeat(300)];
  const queries = ['base:allocation', 'base:', 'x:', 'qemu:dirty-bitmap:a'];
  const options = Array.from({ length: random.between(1, 8) }, () => {
    const exportName = random.pick(names);
    switch (random.below(6)) {
      case 0:
        return encodeOption(random.pick([3, 5, 8, 11]));
      case 1:
        return encodeOption(
          random.pick([6, 6, 6, 7]),
          encodeInfoRequest({ exportName, infoTypes: [3, 1, 2].slice(random.below(4)) }),
        );
      case 2:
        return encodeOption(
          random.pick([9, 10]),
          encodeMetaContextRequest({ exportName, queries: queries.slice(random.below(5)) }),
        );
      case 3:
        return encodeOption(random.below(20), random.bytes(random.below(40)));
      case 4:
        return encodeOption(random.pick([1, 2, 8, 8, 8, 8]));
      default:
        return encodeOption(8);
    }
  });
  return Buffer.concat([hex(random.pick(['00000003', '00000003', '00000001', '00000000'])), ...options]);
}

function mutated(random: Random, bytes: Buffer): Buffer {
  let result = Buffer.from(bytes);
  for (let changes = random.below(4); changes > 0; changes -= 1) {
    const at = random.below(result.length);
    switch (random.below(4)) {
      case 0:
        result[at] = random.below(256);
        break;
      case 1:
        result = Buffer.concat([result.subarray(0, at), random.bytes(random.below(8)), result.subarray(at)]);
        break;
      case 2:
        result = Buffer.concat([result.subarray(0, at), result.subarray(at + random.below(8))]);
        break;
      default:
        // Lengths are what decoders trust, so extreme ones come often.
        if (at + 4 <= result.length)
          result.writeUInt32BE(random.pick([0, 1, 0x7fffffff, 0xffffffff, 32768, 32769]), at);
    }
    if (result.length === 0) return result;
  }
  return random.chance(0.2) ? result.subarray(0, random.below(result.length)) : result;
}

t.test('noise and broken handshakes: no exception, bounded output, the same at any split', async (t) => {
  const ends = { more: 0, transmission: 0, close: 0 };
  for (let seed = 1; seed <= SEEDS; seed += 1) {
    const random = new Random(seed);
    const input = random.chance(0.1)
      ? random.bytes(random.below(200))
      : mutated(random, validHandshake(random));
    const cuts = Array.from({ length: random.below(10) }, () => random.below(input.length + 1)).sort(
      (a, b) => a - b,
    );
    const whole = playServer(DIRECTORY, input);
    const cut = playServer(DIRECTORY, input, cuts);
    ends[whole.outcome.kind] += 1;
    if (!cut.output.equals(whole.output)) t.fail(`seed ${seed}: other output when cut at ${cuts}`);
    if (JSON.stringify(cut.outcome) !== JSON.stringify(whole.outcome))
      t.fail(`seed ${seed}: other outcome when cut at ${cuts}`);
    // An option takes at least its header of 16 bytes, and no answer here is longer than 400.
    if (whole.output.length > 400 * (1 + input.length / 16))
      t.fail(`seed ${seed}: ${whole.output.length} bytes of output`);
  }
  for (const [kind, count] of Object.entries(ends)) t.ok(count > SEEDS / 20, `${count} ended in ${kind}`);
});

t.test('whatever was refused before it, a well-formed option that follows is answered', async (t) => {
  for (let seed = 1; seed <= 100; seed += 1) {
    const random = new Random(seed);
    // Any option but those that end the handshake, with any data at all.
    const odd = Array.from({ length: 5 }, () =>
      encodeOption(random.pick([3, 5, 6, 8, 9, 10, 11, 77]), random.bytes(random.below(60))),
    );
    const { output, outcome } = playServer(DIRECTORY, Buffer.concat([FIXED, ...odd, encodeOption(2)]));
    const lastReply = output.subarray(-20).toString('hex');
    if (lastReply !== hex('0003e889045565a9 00000002 00000001 00000000').toString('hex'))
      t.fail(`seed ${seed}: ${lastReply}`);
    if (outcome.kind !== 'close') t.fail(`seed ${seed}: ${outcome.kind}`);
  }
  t.pass('100 seeds');
});
