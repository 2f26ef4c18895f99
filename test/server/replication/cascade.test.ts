/** Three nodes, and NBD between them: a group, its replica, and a replica of that, as clients and operators meet them. */
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { ControlClient } from '../../../server/control/client.ts';
import { NbdClient } from '../../../server/nbd-client.ts';
import { startLocal, temporaryFolder } from '../../fixtures/local-node.ts';

const REGION = 64 * 1024;
const REGIONS = 5;

interface Node {
  readonly folder: string;
  readonly control: ControlClient;
}

async function start(t: Test): Promise<Node> {
  const folder = await temporaryFolder(t);
  const { node } = await startLocal(t, folder);
  const control = new ControlClient(node.controlPath);
  t.teardown(() => control.close());
  return { folder, control };
}

const uriOf = (node: Node): string => `nbd+unix:///g?socket=${join(node.folder, 'nbd.sock')}`;

async function withVolume<T>(node: Node, work: (client: NbdClient) => Promise<T>): Promise<T> {
  const client = await NbdClient.connect(uriOf(node).replace('///g?', '///g/v?'));
  try {
    return await work(client);
  } finally {
    await client.disconnect();
  }
}

/** The letter that each region is filled with; a dash for what is no letter. */
async function letters(node: Node): Promise<string> {
  const bytes = await withVolume(node, (client) => client.readBuffer(0, REGIONS * REGION));
  return Array.from({ length: REGIONS }, (_, region) => {
    const one = bytes.subarray(region * REGION, (region + 1) * REGION);
    const [first = 0] = one;
    return first > 0 && one.every((byte) => byte === first) ? String.fromCharCode(first) : '-';
  }).join('');
}

async function put(node: Node, text: string): Promise<void> {
  await withVolume(node, async (client) => {
    for (const [region, letter] of [...text].entries())
      if (letter !== '-') await client.write(Buffer.alloc(REGION, letter), region * REGION);
    await client.flush();
  });
}

/** Until every node has applied everything that the first has logged, and lacks nothing. */
async function untilEqual(nodes: readonly Node[]): Promise<void> {
  for (;;) {
    const groups = await Promise.all(nodes.map((node) => node.control.group('g')));
    const endLsn = groups[0]?.log?.endLsn ?? Number.POSITIVE_INFINITY;
    const isEqual = groups.every(({ log, replica, links }, number) => {
      const isWhole = replica === null ? number === 0 : !replica.resyncing && !replica.needsRegions;
      const isFed = links.every(({ state, dcmRegions }) => state === 'streaming' && dcmRegions === 0);
      return isWhole && isFed && (log?.appliedLsn ?? -1) >= endLsn;
    });
    if (isEqual) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

async function movedTo(feeder: Node): Promise<number> {
  const [link] = await feeder.control.links('g');
  return link?.regionsResynced ?? 0;
}

/** What a link says before its first try has ended. */
const NOT_YET = 'it has not been connected yet';

/** ABCDE on all three. */
async function three(t: Test): Promise<[Node, Node, Node]> {
  const [first, middle, last] = [await start(t), await start(t), await start(t)];
  const group = { name: 'g', logSize: 4 * 1024 * 1024, volumes: [{ name: 'v', size: REGIONS * REGION }] };
  await first.control.createGroup(group);
  await middle.control.createGroup({ ...group, replica: {} });
  await last.control.createGroup({ ...group, replica: {} });
  await put(first, 'ABCDE');
  await middle.control.addLink('g', { uri: uriOf(last), name: 'down' });
  await first.control.addLink('g', { uri: uriOf(middle), name: 'down' });
  await untilEqual([first, middle, last]);
  return [first, middle, last];
}

t.test('a cascade: writes, snapshots, restores and resyncs reach the last node', async (t) => {
  const nodes = await three(t);
  const [first, middle, last] = nodes;
  t.equal(await letters(last), 'ABCDE', 'the first synchronisation');
  await first.control.createSnapshot('g', { name: 's' });
  await put(first, 'x-x--');
  await untilEqual(nodes);
  t.equal(await letters(last), 'xBxDE');
  const before = [await movedTo(first), await movedTo(middle)];
  await first.control.restore('g', 's', {});
  await untilEqual(nodes);
  t.equal(await letters(last), 'ABCDE');
  t.same([await movedTo(first), await movedTo(middle)], before, 'its record and no region');

  await first.control.createSnapshot('g', { name: 'own', local: true });
  await put(first, '-yy--');
  await untilEqual(nodes);
  await first.control.restore('g', 'own', {});
  await untilEqual(nodes);
  t.equal(await letters(last), 'ABCDE');
  t.same(
    [await movedTo(first), await movedTo(middle)],
    before.map((count) => count + 2),
    'two regions',
  );

  await first.control.steerLink('g', 'down', 'detach');
  await put(first, '---zz');
  await first.control.steerLink('g', 'down', 'resume');
  await untilEqual(nodes);
  t.equal(await letters(last), 'ABCzz');
  t.same(
    [await movedTo(first), await movedTo(middle)],
    before.map((count) => count + 4),
    'two regions, through the middle',
  );
});

t.test('every node of a cascade says what is above and below; loops are refused', async (t) => {
  const [first, middle, last] = await three(t);
  const [one, two, three_] = [
    await first.control.group('g'),
    await middle.control.group('g'),
    await last.control.group('g'),
  ];
  t.equal(one.replica, null);
  t.match(two.replica, { upstream: { link: 'down', memberId: String, path: [] } });
  t.equal(one.links[0]?.peerId, two.replica?.memberId);
  t.equal(two.links[0]?.peerId, three_.replica?.memberId);
  t.same(three_.replica?.upstream, {
    link: 'down',
    memberId: two.replica?.memberId,
    path: [two.replica?.upstream?.memberId],
  });
  const refusal = async (from: Node, to: Node): Promise<string> => {
    await from.control.addLink('g', { uri: uriOf(to), name: 'wrong' });
    for (;;) {
      const link = (await from.control.links('g')).find(({ name }) => name === 'wrong');
      const reason = link?.reason ?? NOT_YET;
      if (reason !== NOT_YET) {
        await from.control.removeLink('g', 'wrong');
        return reason;
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  };
  t.match(await refusal(last, middle), /feeds this one.*in a loop/);
  t.match(await refusal(last, last), /leads back to this node/);
  t.match(await refusal(middle, first), /is a primary, .*: lead the link to a replica of its group/);
  t.match(await refusal(first, last), /takes the writes of another primary, by its link down/);
  await put(first, 'q----');
  await untilEqual([first, middle, last]);
  t.equal(await letters(last), 'qBCDE', 'and all goes on');
});
