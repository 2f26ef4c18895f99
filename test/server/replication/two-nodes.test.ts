/** Two nodes, and NBD between them: a group and its replica, as clients and operators meet them. */
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { runCli } from '../../../server/cli/program.ts';
import { ControlClient } from '../../../server/control/client.ts';
import type { LinkStatus } from '../../../server/control/link-schemas.ts';
import { NbdClient } from '../../../server/nbd-client.ts';
import { startLocal, temporaryFolder } from '../../fixtures/local-node.ts';

const REGION = 64 * 1024;
const LETTERS = ['A', 'B', 'C', 'D', 'E'];

interface Node {
  readonly folder: string;
  readonly control: ControlClient;
}

async function start(t: Test, folder: string): Promise<Node> {
  const { node } = await startLocal(t, folder);
  const control = new ControlClient(node.controlPath);
  t.teardown(() => control.close());
  return { folder, control };
}

async function withExport<T>(node: Node, name: string, work: (client: NbdClient) => Promise<T>): Promise<T> {
  const client = await NbdClient.connect(`nbd+unix:///${name}?socket=${join(node.folder, 'nbd.sock')}`);
  try {
    return await work(client);
  } finally {
    await client.disconnect();
  }
}

/** The letter that each of the five regions is filled with; a dash for what is no letter. */
async function letters(node: Node, name: string): Promise<string> {
  return await withExport(node, name, async (client) => {
    const bytes = await client.readBuffer(0, LETTERS.length * REGION);
    return LETTERS.map((_, region) => {
      const one = bytes.subarray(region * REGION, (region + 1) * REGION);
      const [first = 0] = one;
      return first > 0 && one.every((byte) => byte === first) ? String.fromCharCode(first) : '-';
    }).join('');
  });
}

async function put(node: Node, name: string, regions: Readonly<Record<number, string>>): Promise<void> {
  await withExport(node, name, async (client) => {
    for (const [region, letter] of Object.entries(regions))
      await client.write(Buffer.alloc(REGION, letter), (Number(region) - 1) * REGION);
    await client.flush();
  });
}

async function linkOf(node: Node): Promise<LinkStatus> {
  const [link] = await node.control.links('g');
  if (link === undefined) throw new Error('there is no link');
  return link;
}

/** Until the secondary has applied everything that the primary has logged, and lacks nothing. */
async function untilEqual(primary: Node, secondary: Node): Promise<LinkStatus> {
  for (;;) {
    const link = await linkOf(primary);
    const [here, there] = [await primary.control.group('g'), await secondary.control.group('g')];
    const isApplied = there.log !== null && here.log !== null && there.log.appliedLsn >= here.log.endLsn;
    const isWhole = there.replica?.resyncing === false && !there.replica.needsRegions;
    if (link.state === 'streaming' && link.dcmRegions === 0 && isApplied && isWhole) return link;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Fig. 2A: a primary whose five regions are A to E, and its replica. */
async function pair(t: Test): Promise<{ primary: Node; secondary: Node }> {
  const primary = await start(t, await temporaryFolder(t));
  const secondary = await start(t, await temporaryFolder(t));
  const group = {
    name: 'g',
    logSize: 4 * 1024 * 1024,
    volumes: [{ name: 'v', size: LETTERS.length * REGION }],
  };
  await primary.control.createGroup(group);
  await secondary.control.createGroup({ ...group, replica: {} });
  await put(primary, 'g/v', { 1: 'A', 2: 'B', 3: 'C', 4: 'D', 5: 'E' });
  const uri = `nbd+unix:///g?socket=${join(secondary.folder, 'nbd.sock')}`;
  await primary.control.addLink('g', { uri, name: 'l' });
  await untilEqual(primary, secondary);
  return { primary, secondary };
}

/** Fig. 2B and 2C: a snapshot, then A becomes a, and through the snapshot C and E become c and e. */
async function diverge(primary: Node, secondary: Node, local: boolean): Promise<void> {
  await primary.control.createSnapshot('g', { name: 's', local });
  await put(primary, 'g/v', { 1: 'a' });
  await put(primary, 'g/v@s', { 3: 'c', 5: 'e' });
  await untilEqual(primary, secondary);
}

for (const local of [true, false]) {
  const who = local ? 'that only the primary has' : 'that both have';
  t.test(`Fig. 2: a restore from a snapshot ${who} reaches the replica by what differs`, async (t) => {
    const { primary, secondary } = await pair(t);
    t.equal(await letters(secondary, 'g/v'), 'ABCDE', 'the first synchronisation');
    await diverge(primary, secondary, local);
    t.equal(await letters(primary, 'g/v'), 'aBCDE');
    t.equal(await letters(primary, 'g/v@s'), 'ABcDe');
    t.equal(await letters(secondary, 'g/v'), 'aBCDE', 'the write came in the log');
    const before = await untilEqual(primary, secondary);
    // Fig. 2D: regions 1, 3 and 5 are what a restore moves; and what travels of it.
    const plan = await primary.control.planRestore('g', 's', undefined);
    t.equal(plan.regions, 3);
    t.match(plan.links, [{ link: 'l', path: 'by regions', bytes: (local ? 3 : 2) * REGION }]);
    await primary.control.restore('g', 's', {});
    t.equal(await letters(primary, 'g/v'), 'ABcDe', 'Fig. 2E: at once');
    const after = await untilEqual(primary, secondary);
    t.equal(await letters(secondary, 'g/v'), 'ABcDe', 'Fig. 2H');
    const moved = after.regionsResynced - before.regionsResynced;
    t.equal(moved, local ? 3 : 2, local ? 'regions 1, 3 and 5' : 'the record, and regions 3 and 5');
    t.equal(after.lastRestore?.path, 'by regions');
  });
}

t.test('a restore from a snapshot that both have moves nothing but its record', async (t) => {
  const { primary, secondary } = await pair(t);
  await primary.control.createSnapshot('g', { name: 's' });
  await put(primary, 'g/v', { 1: 'x', 2: 'x', 4: 'x' });
  const before = await untilEqual(primary, secondary);
  t.equal(await letters(secondary, 'g/v'), 'xxCxE');
  t.match((await primary.control.planRestore('g', 's', undefined)).links, [
    { path: 'by reference', bytes: 0 },
  ]);
  await primary.control.restore('g', 's', {});
  const after = await untilEqual(primary, secondary);
  t.equal(await letters(secondary, 'g/v'), 'ABCDE');
  t.equal(after.regionsResynced, before.regionsResynced, 'no region');
  t.ok(
    after.bytesShipped - before.bytesShipped < 8192,
    `${after.bytesShipped - before.bytesShipped} bytes of log`,
  );
  t.equal(await letters(secondary, 'g/v@undo'), 'xxCxE', 'and the undo snapshot is there, too');
});

t.test('what was written while a link was paused past its limit follows by regions', async (t) => {
  const { primary, secondary } = await pair(t);
  await primary.control.steerLink('g', 'l', 'detach');
  await put(primary, 'g/v', { 2: 'y', 3: 'y' });
  t.equal(await letters(secondary, 'g/v'), 'ABCDE');
  await t.rejects(put(secondary, 'g/v', { 1: 'z' }), 'a secondary takes writes from its primary only');
  const before = (await linkOf(primary)).regionsResynced;
  await t.rejects(primary.control.resyncLink('g', 'l', false), {
    code: 'in-use',
    message: /resume it first/,
  });
  await primary.control.steerLink('g', 'l', 'resume');
  const after = await untilEqual(primary, secondary);
  t.equal(await letters(secondary, 'g/v'), 'AyyDE');
  t.equal(after.regionsResynced - before, 2, 'those and no others');
  await primary.control.resyncLink('g', 'l', true);
  const full = await untilEqual(primary, secondary);
  t.equal(full.regionsResynced - after.regionsResynced, 5, 'all, when that is asked for');
});

t.test('a frozen secondary shows what it showed, and catches up', async (t) => {
  const { primary, secondary } = await pair(t);
  await secondary.control.freeze('g');
  await put(primary, 'g/v', { 1: 'f' });
  let link = await linkOf(primary);
  while (link.lagBytes > 0) link = await linkOf(primary);
  t.equal(await letters(secondary, 'g/v'), 'ABCDE');
  await secondary.control.thaw('g');
  await untilEqual(primary, secondary);
  t.equal(await letters(secondary, 'g/v'), 'fBCDE');
});

t.test(
  'verify: what differs underneath is found by checksums, mended when asked, and then not there',
  async (t) => {
    const { primary, secondary } = await pair(t);
    const said: string[] = [];
    const complaints: string[] = [];
    const tidemark = (...args: string[]): Promise<number> =>
      runCli([...args, '--state', primary.folder], {
        output: { line: (text) => said.push(text), raw: (text) => said.push(text), isTerminal: false },
        complain: (text) => complaints.push(text),
      });
    t.equal(await tidemark('verify', 'g'), 0);
    t.match(said.splice(0), [/^link l: no difference; 5 regions compared at LSN \d+, 80 B of checksums$/]);
    const image = await open(join(secondary.folder, 'groups', 'g', 'volumes', 'v.img'), 'r+');
    t.teardown(() => image.close());
    await image.write(Buffer.from('x'), 0, 1, 2 * REGION + 1234);
    t.equal(await tidemark('verify', 'g', '--link', 'l'), 1);
    t.match(said.splice(0), [
      /^link l: 1 regions differ; 5 regions compared/,
      'volume v: 1 regions differ: 2',
    ]);
    t.match(complaints, [/tidemark: what link l leads to differs: verify --mark/]);
    const before = (await linkOf(primary)).regionsResynced;
    t.equal(await tidemark('verify', 'g', '--mark', '--rate', '10M', '--json'), 0);
    t.match(JSON.parse(said.splice(0).join('\n')), {
      verifications: [
        {
          link: 'l',
          state: 'done',
          regionsDiffering: 1,
          marked: true,
          volumes: [{ name: 'v', regionsCompared: 5, runs: [{ region: 2, count: 1 }] }],
          error: null,
        },
      ],
    });
    const after = await untilEqual(primary, secondary);
    t.equal(after.regionsResynced - before, 1, 'that region and no other');
    t.equal(await tidemark('verify', 'g'), 0);
    t.equal(await letters(secondary, 'g/v'), 'ABCDE');
    // While clients write: nothing of that is a difference.
    const { signal, stop } = stopper();
    const writing = writeOn(primary, signal);
    for (let times = 0; times < 3; times++) t.equal(await tidemark('verify', 'g'), 0, `${complaints}`);
    stop();
    await writing;
    await untilEqual(primary, secondary);
    t.equal((await primary.control.group('g')).operations.length, 0);
  },
);

function stopper(): { readonly signal: { stopped: boolean }; readonly stop: () => void } {
  const signal = { stopped: false };
  return {
    signal,
    stop: () => {
      signal.stopped = true;
    },
  };
}

/** No faster than the link takes it: one that overflows ends what is under way. */
async function writeOn(node: Node, signal: { readonly stopped: boolean }): Promise<void> {
  await withExport(node, 'g/v', async (client) => {
    for (let count = 0; !signal.stopped; count++) {
      await client.write(Buffer.alloc(4096, count), ((count * 7) % 80) * 4096);
      if (count % 16 === 0) while ((await linkOf(node)).lagBytes > 0 && !signal.stopped);
    }
  });
}
