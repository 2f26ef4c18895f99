/** `status --watch`: over and over, until somebody has seen enough, or there is nothing more to see. */
import t, { type Test } from 'tap';
import { runCli } from '../../server/cli/program.ts';
import { watch } from '../../server/cli/watch.ts';
import { ControlError } from '../../server/control/client.ts';
import { FakeGroup } from '../fixtures/fake-group.ts';
import { startFakeNode } from '../fixtures/fake-node.ts';

const GONE = new ControlError('no-node', 0, 'no node at /x; start one');

t.test('it shows until it is interrupted, and ends well', async (t) => {
  const interruption = new AbortController();
  let times = 0;
  await watch(
    async () => {
      if (++times === 3) interruption.abort();
    },
    1,
    interruption.signal,
  );
  t.equal(times, 3);
  const before = new AbortController();
  before.abort();
  await watch(
    async () => {
      times++;
    },
    1,
    before.signal,
  );
  t.equal(times, 3, 'it does not show');
});

t.test('a long pause ends at once when it is interrupted', async () => {
  const interruption = new AbortController();
  const show = async (): Promise<void> => {
    setImmediate(() => interruption.abort());
  };
  await watch(show, 2 ** 30, interruption.signal);
});

t.test('a node that goes ends it, and is told from one that never was', async (t) => {
  let times = 0;
  const failing = (from: number, error: Error) => async () => {
    if (++times >= from) throw error;
  };
  const { signal } = new AbortController();
  await t.rejects(watch(failing(3, GONE), 1, signal), {
    message: /^the node is gone: no node at/,
    code: 'no-node',
  });
  times = 0;
  await t.rejects(watch(failing(1, GONE), 1, signal), { message: /^no node at/ });
  times = 0;
  const refused = new ControlError('not-found', 404, 'there is no group g');
  await t.rejects(watch(failing(2, refused), 1, signal), { message: 'there is no group g' });
});

/** The command runs until the node ends, once it has shown something so often. */
async function watched(
  t: Test,
  args: readonly string[],
  times: number,
): Promise<{ blocks: string[]; complaint: string; status: number }> {
  const node = await startFakeNode(t, new FakeGroup('g', { v: 1 << 20 }));
  const blocks: string[] = [];
  let complaint = '';
  let enough = (): void => {};
  const seen = new Promise<void>((resolve) => {
    enough = resolve;
  });
  const running = runCli(['status', ...args, '--state', node.folder], {
    output: {
      line: (text) => {
        blocks.push(text);
        if (blocks.length === times) enough();
      },
      raw: (text) => blocks.push(text),
      isTerminal: false,
    },
    complain: (text) => {
      complaint += text;
    },
  });
  await seen;
  await node.stop();
  return { status: await running, blocks, complaint };
}

t.test('status on a pipe: a block each time', async (t) => {
  const { status, blocks, complaint } = await watched(t, ['g', '--watch', '0.1'], 3);
  t.match(blocks[0], /^node .*VOLUME +ROLE.*\n$/s, 'with an empty line behind it');
  t.equal(blocks[1], blocks[0]);
  t.equal(status, 1);
  t.match(complaint, /^tidemark: the node is gone: [^\n]+\n$/);
});

t.test('status --json: a document each line', async (t) => {
  const { status, blocks } = await watched(t, ['--json', '--watch', '0.1'], 2);
  for (const block of blocks) {
    t.notMatch(block, /\n/);
    t.match(JSON.parse(block), { groups: [{ name: 'g' }] });
  }
  t.equal(status, 1);
});

t.test('how often it cannot be', async (t) => {
  for (const period of ['0', '0.01', 'x', '1e9', '-1'])
    t.equal(
      await runCli(['status', '--watch', period], {
        output: { line: () => {}, raw: () => {}, isTerminal: false },
        complain: () => {},
      }),
      2,
      period,
    );
});
