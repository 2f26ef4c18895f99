/** Peers that cannot be: each is refused by name, with what to do, over real NBD; and nothing changes on either side. */
import { writeFile } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Announcement } from '../../../engine/link/peer.ts';
import type { LinkStatus } from '../../../server/control/link-schemas.ts';
import { EventLog } from '../../../server/events.ts';
import { Exports } from '../../../server/exports.ts';
import { DEFAULT_LIMITS } from '../../../server/limits.ts';
import { silentLogger } from '../../../server/logger.ts';
import { NbdClient } from '../../../server/nbd-client.ts';
import { NbdServer } from '../../../server/nbd-server.ts';
import { NbdPeerConnector } from '../../../server/replication/nbd-peer-connector.ts';
import { ReplicationExports } from '../../../server/replication/replication-exports.ts';
import { FakeGroup } from '../../fixtures/fake-group.ts';
import { FakeReplica } from '../../fixtures/fake-replica.ts';
import { lettersOf, putLetters, REGION_BYTES } from '../../fixtures/letters.ts';
import { listing } from '../../fixtures/local-node.ts';
import { GROUP, LINK, ProcessPair, TestNode } from '../../fixtures/process-pair.ts';
import { needPrograms, shortFolder } from '../../fixtures/served-node.ts';
import { startThirdParty } from '../../fixtures/third-party.ts';

const MIB = 1024 * 1024;
/** Of nobody. */
const STRANGE_ID = '0a0b0c0d-0000-4000-8000-000000000000';
const VOLUME = `${GROUP}/v`;
const SHAPE = { logSize: 4 * MIB, volumes: [{ name: 'v', size: 4 * REGION_BYTES }] };

/** A primary whose links come to nothing; and a group and its replica, which have nothing to do with that. */
const node = await TestNode.start(t);
await node.control.createGroup({ name: GROUP, ...SHAPE });
await putLetters(node, VOLUME, { 1: 'A', 2: 'B' });
const pair = await (await ProcessPair.start(t)).create(SHAPE);
await putLetters(pair.primary, VOLUME, { 1: 'A', 2: 'B' });
await pair.link();

/** Whether its first try has ended. */
const hasTried = ({ reason }: LinkStatus): boolean =>
  reason !== null && reason !== 'it has not been connected yet';

/** A link to there comes to nothing, for that reason; the group goes on. */
async function refused(t: Test, uri: string, reason: RegExp, what: string): Promise<void> {
  await node.control.addLink(GROUP, { uri, name: 'bad' });
  await node.untilLink(hasTried);
  const link = await node.link();
  t.match(link.reason, reason, what);
  t.match(link, { state: /^(failed|connecting)$/, bytesShipped: 0, regionsResynced: 0 });
  await node.control.removeLink(GROUP, 'bad');
  t.equal(await lettersOf(node, VOLUME), 'AB..');
}

/**
 * What the secondary is: its files, and what it says of itself. Of its record that says what matters; the file is written anew with each checkpoint, whatever
 * there is to say.
 */
async function secondaryIs(): Promise<object> {
  const { role, generation, snapshots, log, replica } = await pair.secondary.group();
  const files = await listing(pair.secondary.folder);
  return {
    files: files.filter((line) => !line.includes('/group.record ')),
    said: { role, generation, snapshots, endLsn: log?.endLsn, appliedLsn: log?.appliedLsn },
    replica: { ...replica, connected: undefined },
  };
}

/** The same when it has nothing to do: it was started anew, so that nothing is left of what came before. */
async function idle(): Promise<object> {
  await pair.secondary.stop();
  await pair.secondary.start();
  // At once, and not with the next try.
  await pair.primary.control.resyncLink(GROUP, LINK, false);
  await pair.equal();
  return await secondaryIs();
}

async function lastEvent(): Promise<number> {
  return (await pair.primary.control.events()).lastId;
}

/** The link that is there has lost nothing by what came since. */
async function goesOn(t: Test, seen: number): Promise<void> {
  const letter = (await lettersOf(pair.primary, VOLUME)).endsWith('X') ? 'Y' : 'X';
  await putLetters(pair.primary, VOLUME, { 4: letter });
  await pair.equal();
  t.ok((await lettersOf(pair.secondary, VOLUME)).endsWith(letter));
  const { events } = await pair.primary.control.events(seen);
  const lost = events.filter(({ type }) => type === 'link.lost-connection' || type === 'link.failed');
  t.same(lost, [], 'the link was never lost');
}

async function listen(t: Test, answer: (socket: Socket) => void): Promise<string> {
  const path = join(await shortFolder(t), 'socket');
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    answer(socket);
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return `nbd+unix:///${GROUP}?socket=${path}`;
}

/** What every refusal of a server that is none of ours ends with. */
const ADVICE =
  /: the URI has to lead to the NBD socket of a node that has a group g, made with tidemark create --replica/;

function both(first: RegExp, second: RegExp): RegExp {
  return new RegExp(`${first.source}.*${second.source}`);
}

t.test('a peer that is no Tidemark', async (t) => {
  const nowhere = `nbd+unix:///${GROUP}?socket=${node.folder}/nobody.sock`;
  await node.control.addLink(GROUP, { uri: nowhere, name: 'bad' });
  await node.untilLink(hasTried);
  t.match(
    await node.tidemark('link', 'list', GROUP),
    /link bad: .*: start the node there/,
    'as people see it',
  );
  await node.control.removeLink(GROUP, 'bad');
  await refused(t, nowhere, /nobody\.sock: .*ENOENT.*: start the node there/, 'nobody there');
  const closes = await listen(t, (socket) => socket.end());
  await refused(t, closes, both(/closed before it greeted/, ADVICE), 'one that closes');
  const web = await listen(t, (socket) => socket.end(`HTTP/1.1 400 Bad Request\r\n\r\n${' '.repeat(64)}`));
  await refused(t, web, both(/the server breaks the protocol/, ADVICE), 'one that speaks HTTP');
  if (!(await needPrograms(t, 'nbdkit', 'qemu-nbd'))) return;
  const any = await startThirdParty(t, 'nbdkit', ['--foreground', '-U', 'SOCKET', 'memory', '4M']);
  await refused(t, any.uri, both(/that is no node of tidemark/, ADVICE), 'a disk by any name');
  const client = await NbdClient.connect(any.uri);
  t.ok(
    (await client.readBuffer(0, client.sizeBytes)).every((byte) => byte === 0),
    'nothing was written to it',
  );
  await client.disconnect();
  const image = join(await shortFolder(t), 'image');
  await writeFile(image, Buffer.alloc(MIB));
  const one = await startThirdParty(t, 'qemu-nbd', ['--persistent', '-f', 'raw', '-k', 'SOCKET', image]);
  await refused(t, one.uri, both(/NBD_REP_ERR_UNKNOWN/, ADVICE), 'one that has no such export');
});

t.test('a peer of another version', async (t) => {
  const group = new FakeGroup(GROUP, { v: 4 * REGION_BYTES });
  group.role = 'secondary';
  const replica = new FakeReplica();
  replica.told = { ...replica.told, protocol: 2 };
  const { regionBytes, volumes } = group;
  const server = new NbdServer({
    exports: new Exports(),
    replication: new ReplicationExports({
      group: (name) => (name === GROUP ? { name, regionBytes, volumes, replica } : undefined),
      secretOf: () => undefined,
    }),
    events: new EventLog(),
    limits: DEFAULT_LIMITS,
    logger: silentLogger(),
  });
  t.teardown(() => server.shutdown());
  const path = join(await shortFolder(t), 'socket');
  await server.listen({ scheme: 'nbd+unix', address: { kind: 'unix', path }, tls: false, exportName: '' });
  const reason =
    /speaks version 2 of the replication protocol, this one 1: run the same version of Tidemark on both/;
  await refused(t, `nbd+unix:///${GROUP}?socket=${path}`, reason, 'the secondary');
  t.same(replica.calls, [], 'it was asked for nothing');
});

t.test('a peer of other sizes, or other names, or too small a log', async (t) => {
  const { control, socketPath } = pair.secondary;
  const v = { name: 'v', size: 4 * REGION_BYTES };
  const shapes: [object, RegExp][] = [
    [
      { volumes: [{ name: 'v', size: 8 * REGION_BYTES }] },
      /volume v has 524288 bytes, and has to have 262144: create it there with the volumes of this group/,
    ],
    [{ volumes: [{ ...v, name: 'w' }] }, /volume 1 is w, and has to be v/],
    [{ volumes: [v, { ...v, name: 'w' }] }, /it has a volume w more/],
    [
      { regionSize: 4096 },
      /regions have 4096 bytes, and have to have 65536: create it there with --region-size 65536/,
    ],
    [{ logSize: 512 * 1024 }, /its log has 524288 bytes, .*: create it there with --log-size \d+ or more/],
    [
      { replica: undefined },
      /group h5 of this node is a primary, and takes nothing from another: lead the link to a replica/,
    ],
  ];
  for (const [index, [shape]] of shapes.entries())
    await control.createGroup({ name: `h${index}`, ...SHAPE, replica: {}, ...shape });
  const before = await idle();
  for (const [index, [shape, reason]] of shapes.entries())
    await refused(t, `nbd+unix:///h${index}?socket=${socketPath}`, reason, JSON.stringify(shape));
  await refused(
    t,
    `nbd+unix:///h9?socket=${socketPath}`,
    both(/NBD_REP_ERR_UNKNOWN/, /that has a group h9, made with tidemark create --replica/),
    'no such group',
  );
  t.same(await secondaryIs(), before, 'nothing changes there');
  for (const index of shapes.keys()) await control.deleteGroup(`h${index}`);
});

t.test('a replica of another group, and a second primary', async (t) => {
  const before = await idle();
  const seen = await lastEvent();
  const uri = `nbd+unix:///${GROUP}?socket=${pair.secondary.socketPath}`;
  const reason = /g there is a replica of another group: delete it there, and create it anew/;
  await refused(t, uri, reason, 'another group of that name');
  t.same(await secondaryIs(), before, 'nothing changes there');
  await goesOn(t, seen);
});

t.test('a link that leads back to its own group', async (t) => {
  const uri = `nbd+unix:///${GROUP}?socket=${node.socketPath}`;
  await refused(
    t,
    uri,
    /is a primary, .*: lead the link to a replica of its group, made on another node/,
    'itself',
  );
});

t.test('primaries that a secondary refuses by itself, whatever they make of it', async (t) => {
  const before = await idle();
  const seen = await lastEvent();
  const connector = new NbdPeerConnector(async () => undefined, { connectMs: 10_000, silenceMs: 60_000 });
  const session = await connector.connect(pair.uri, GROUP, 'id');
  t.teardown(() => session.close());
  const { origin, horizonLsn, memberId, regionBytes, volumes } = await session.state();
  if (origin === null) throw new Error('it has met its primary');
  const upstream = (await pair.secondary.group()).replica?.upstream;
  const fit: Announcement = {
    protocol: 1,
    origin,
    linkId: STRANGE_ID,
    linkName: 'l2',
    memberId: upstream?.memberId ?? '',
    regionBytes,
    volumes,
    durableLsn: horizonLsn,
    path: [],
    named: { lsn: 0, snapshots: [] },
  };
  const { generation } = origin;
  const rows: [Partial<Announcement>, string, RegExp][] = [
    [
      { protocol: 2 },
      'unsupported',
      /version 2 of replication, and this node 1: run versions of tidemark that go together/,
    ],
    [
      { memberId: STRANGE_ID },
      'in-use',
      /another primary, by its link l: remove that link first, and this replica/,
    ],
    [{ memberId }, 'invalid', /the primary's own: name another node/],
    [{ regionBytes: 4096 }, 'invalid', /another shape: its regions have 65536 bytes, the primary's 4096/],
    [{ volumes: [] }, 'invalid', /another shape: it has the volumes v:262144, the primary , in that order/],
    [{ origin: { ...origin, groupId: STRANGE_ID } }, 'invalid', /replica of another group of that name/],
    [
      { origin: { ...origin, generation: { ...generation, id: STRANGE_ID } } },
      'unavailable',
      /their histories differ/,
    ],
    [{ durableLsn: horizonLsn - 1 }, 'unavailable', /they have diverged/],
  ];
  for (const [changes, code, message] of rows)
    await t.rejects(session.begin({ ...fit, ...changes }), { code, message }, JSON.stringify(changes));
  t.same(await secondaryIs(), before, 'nothing changes there');
  await goesOn(t, seen);
});

t.test('a secondary with a longer log, or a divergent one', async (t) => {
  const { primary: first, secondary } = pair;
  await putLetters(first, VOLUME, { 3: 'B', 4: 'B' });
  await pair.equal();
  // The primary's disk, as somebody copied it; and what was written since.
  await first.stop();
  const folder = await shortFolder(t);
  await first.copyFolder(folder);
  await first.start();
  await putLetters(first, VOLUME, { 3: 'C' });
  const before = await idle();
  await first.stop();

  const copy = await TestNode.start(t, folder);
  const failed = async (reason: RegExp, what: string): Promise<void> => {
    await copy.control.resyncLink(GROUP, 'l', false);
    await copy.untilLink((link) => link.state === 'failed' && reason.test(link.reason ?? ''));
    t.pass(`${what}: ${(await copy.link()).reason}`);
    t.equal((await copy.link()).bytesShipped, 0);
  };
  const todo = /: delete the replica there and create it anew to have it follow this group; .*/;
  await failed(both(/diverged: it shows records up to LSN \d+, and this log ends at \d+/, todo), 'longer');
  t.equal(await lettersOf(copy, VOLUME), 'ABBB');
  for (const letter of 'XYZ') await putLetters(copy, VOLUME, { 3: letter, 4: letter });
  await failed(
    both(/diverged: its log and this one have different records before LSN \d+/, todo),
    'divergent',
  );
  t.equal(await lettersOf(copy, VOLUME), 'ABZZ');
  t.equal(await lettersOf(secondary, VOLUME), 'ABCB');
  await copy.control.steerLink(GROUP, 'l', 'detach');
  t.same(await secondaryIs(), before, 'nothing changes there');

  await first.start();
  await putLetters(first, VOLUME, { 4: 'D' });
  await pair.equal();
  t.equal(await lettersOf(secondary, VOLUME), 'ABCD', 'the one that it belongs to comes back');
});
