/** Our server and our client against each other, in memory, in every mode. */
import t from 'tap';
import {
  HandshakeClient,
  type HandshakeClientOptions,
  type HandshakeClientOutcome,
} from '../../protocol/handshake-client.ts';
import {
  type ExportDirectory,
  type HandshakeOutcome,
  HandshakeServer,
} from '../../protocol/handshake-server.ts';
import { directoryOf, exportInfo } from '../fixtures/handshake.ts';
import { Random } from '../fixtures/random.ts';

interface Ends {
  readonly client: HandshakeClientOutcome;
  readonly server: HandshakeOutcome;
}

/** Lets them talk in pieces of random length until both are done, or nothing is on its way any more. */
function talk(directory: ExportDirectory, options: HandshakeClientOptions, random: Random): Ends {
  const server = new HandshakeServer(directory);
  const client = new HandshakeClient(options);
  let toClient = server.greeting();
  let toServer = Buffer.alloc(0);
  let atClient: HandshakeClientOutcome = { kind: 'more' };
  let atServer: HandshakeOutcome = { kind: 'more' };
  while (
    (atClient.kind === 'more' && toClient.length > 0) ||
    (atServer.kind === 'more' && toServer.length > 0)
  ) {
    if (atClient.kind === 'more') {
      const taken = random.between(0, toClient.length);
      const { output, outcome } = client.receive(toClient.subarray(0, taken));
      toClient = toClient.subarray(taken);
      toServer = Buffer.concat([toServer, output]);
      atClient = outcome;
    }
    if (atServer.kind === 'more') {
      const taken = random.between(0, toServer.length);
      const { output, outcome } = server.receive(toServer.subarray(0, taken));
      toServer = toServer.subarray(taken);
      toClient = Buffer.concat([toClient, output]);
      atServer = outcome;
    }
  }
  return { client: atClient, server: atServer };
}

const VOLUME = exportInfo('shop/db', {
  description: 'the till',
  sizeBytes: 2 ** 40 + 1,
  preferredBlockBytes: 8192,
  contexts: ['base:allocation', 'tidemark:written'],
});
const DIRECTORY = directoryOf(exportInfo('shop/log'), VOLUME);
const SEEDS = 20;

t.test('GO and EXPORT_NAME: both sides agree, whatever was wished for', async (t) => {
  for (const mode of ['go', 'export-name'] as const) {
    for (const structuredReplies of [false, true]) {
      for (const extendedHeaders of [false, true]) {
        for (const contexts of [
          [],
          ['base:allocation'],
          ['tidemark:written', 'none:such', 'base:allocation'],
        ]) {
          const options = {
            exportName: 'shop/db',
            wants: { structuredReplies, extendedHeaders, contexts },
            mode,
          };
          for (let seed = 1; seed <= SEEDS; seed += 1) {
            const { client, server } = talk(DIRECTORY, options, new Random(seed));
            if (client.kind !== 'transmission' || server.kind !== 'transmission') {
              t.fail(`seed ${seed}: ${JSON.stringify({ options, client, server })}`);
              continue;
            }
            const { export: seen, ...agreed } = client.session;
            const { export: served, ...meant } = server.session;
            t.strictSame(agreed, meant);
            t.equal(
              agreed.extendedHeaders,
              extendedHeaders && mode === 'go',
              'EXPORT_NAME rules extended headers out',
            );
            t.equal(
              agreed.structuredReplies,
              structuredReplies || agreed.extendedHeaders || contexts.length > 0,
            );
            t.equal(agreed.contexts.length, contexts.filter((name) => name !== 'none:such').length);
            t.equal(seen.sizeBytes, served.sizeBytes);
            if (mode === 'go') {
              t.match(seen, {
                name: 'shop/db',
                description: 'the till',
                preferredBlockBytes: 8192,
                maximumPayloadBytes: 33554432,
              });
            }
          }
        }
      }
    }
  }
});

const NOTHING = { structuredReplies: false, extendedHeaders: false, contexts: [] };

t.test('the default export tells its name', async (t) => {
  const { client, server } = talk(DIRECTORY, { exportName: '', wants: NOTHING, mode: 'go' }, new Random(1));
  t.match(client, { kind: 'transmission', session: { export: { name: 'shop/log' } } });
  t.match(server, { kind: 'transmission', session: { export: { name: 'shop/log' } } });
});

t.test('INFO and LIST', async (t) => {
  for (let seed = 1; seed <= SEEDS; seed += 1) {
    const wants = {
      structuredReplies: true,
      extendedHeaders: seed % 2 === 0,
      contexts: ['base:', 'tidemark:'],
    };
    const info = talk(DIRECTORY, { exportName: 'shop/db', wants, mode: 'info' }, new Random(seed));
    t.strictSame(info.client, { kind: 'info', export: { ...VOLUME } });
    t.match(info.server, { kind: 'close', reason: /aborted/ });
    const list = talk(DIRECTORY, { exportName: '', wants, mode: 'list' }, new Random(seed));
    t.strictSame(list.client, {
      kind: 'list',
      exports: [
        { name: 'shop/log', description: '' },
        { name: 'shop/db', description: 'the till' },
      ],
    });
    t.match(list.server, { kind: 'close', reason: /aborted/ });
  }
});

t.test('an export that is not there', async (t) => {
  const wants = { structuredReplies: true, extendedHeaders: true, contexts: ['base:allocation'] };
  for (const mode of ['go', 'info'] as const) {
    const { client, server } = talk(DIRECTORY, { exportName: 'no', wants, mode }, new Random(3));
    t.match(client, {
      kind: 'failed',
      reason: /there is no export "no" here \(NBD_REP_ERR_UNKNOWN\)/,
      code: 0x80000006,
    });
    t.match(server, { kind: 'close', reason: /aborted/ });
  }
  const { client, server } = talk(DIRECTORY, { exportName: 'no', wants, mode: 'export-name' }, new Random(3));
  t.strictSame(client, { kind: 'more' }, 'the closed connection is the only answer');
  t.match(server, { kind: 'close', reason: /there is no export "no"/ });
});

t.test('an export that is opened by the answer to a challenge', async (t) => {
  const closed = exportInfo('shop/safe', {
    contexts: ['tidemark:challenge:abc', 'base:allocation'],
    refusal: 'say the word',
  });
  const open = exportInfo('shop/safe?abc', { sizeBytes: 512 });
  const directory = directoryOf(closed, open);
  const told: (readonly string[])[] = [];
  const challenge = {
    query: 'tidemark:challenge:',
    answer: (contexts: readonly string[]) => {
      told.push(contexts);
      return contexts[0]?.replace('tidemark:challenge:', 'shop/safe?');
    },
  };
  for (let seed = 0; seed < SEEDS; seed++) {
    const random = new Random(seed);
    const extendedHeaders = random.below(2) === 0;
    const wants = {
      structuredReplies: false,
      extendedHeaders,
      contexts: random.below(2) === 0 ? [] : ['base:allocation'],
    };
    const asked = { exportName: 'shop/safe', wants, mode: 'go', challenge } as const;
    const { client, server } = talk(directory, asked, random);
    t.match(client, { kind: 'transmission', session: { export: { name: 'shop/safe?abc', sizeBytes: 512 } } });
    t.equal(server.kind, 'transmission');
    t.strictSame(told.pop(), ['tidemark:challenge:abc'], 'nothing else is told');
    if (client.kind === 'transmission')
      t.strictSame(
        client.session.contexts.map(({ name }) => name),
        wants.contexts,
      );

    for (const mode of ['go', 'info'] as const) {
      const { client: refused } = talk(directory, { exportName: 'shop/safe', wants, mode }, random);
      t.match(refused, { kind: 'failed', reason: /say the word.*NBD_REP_ERR_POLICY/ }, mode);
    }
    t.match(talk(directory, { exportName: 'shop/safe', wants, mode: 'export-name' }, random), {
      client: { kind: 'more' },
      server: { kind: 'close', reason: /say the word/ },
    });
    const other = { ...asked, exportName: 'shop/safe?abc' };
    t.match(talk(directory, other, random).client, { kind: 'failed', reason: /does not answer/ });
    const none = { ...asked, exportName: 'shop/none' };
    t.match(talk(directory, none, random).client, { kind: 'failed', reason: /NBD_REP_ERR_UNKNOWN/ });
  }
});
