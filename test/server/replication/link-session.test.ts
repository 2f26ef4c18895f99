/** A link over NBD: the connector against a real server whose secondary only notes what it is asked. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createConnection, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { EngineError } from '../../../engine/errors.ts';
import {
  CHECKSUM_BYTES,
  MAX_CHECKSUMS,
  type PeerSession,
  type RegionContent,
} from '../../../engine/link/peer.ts';
import { NBD_CMD_READ, NBD_CMD_WRITE, NBD_EINVAL, NBD_ENOSPC } from '../../../protocol/constants.ts';
import { formatNbdUri, type NbdUri } from '../../../protocol/uri.ts';
import { EventLog } from '../../../server/events.ts';
import { Exports } from '../../../server/exports.ts';
import { DEFAULT_LIMITS, type ServerLimits } from '../../../server/limits.ts';
import { silentLogger } from '../../../server/logger.ts';
import { NbdClient } from '../../../server/nbd-client.ts';
import { listExports } from '../../../server/nbd-client-connect.ts';
import { NbdServer } from '../../../server/nbd-server.ts';
import { NbdPeerConnector } from '../../../server/replication/nbd-peer-connector.ts';
import { ReplicationExport, ReplicationExports } from '../../../server/replication/replication-exports.ts';
import { FakeGroup } from '../../fixtures/fake-group.ts';
import { announcement, FakeReplica } from '../../fixtures/fake-replica.ts';
import { RawSession, requestBytes } from '../../fixtures/raw-session.ts';
import { until } from '../../fixtures/test-server.ts';

const SECRET = randomBytes(32);
const REGION = 4096;

interface ServeOptions {
  readonly secret?: Buffer;
  readonly volumeBytes?: number;
  readonly limits?: Partial<ServerLimits>;
}

async function serve(t: Test, options: ServeOptions = {}) {
  const group = new FakeGroup('g', { v: options.volumeBytes ?? 1 << 20 });
  group.role = 'secondary';
  const replica = new FakeReplica();
  const primary = new FakeGroup('p', { v: 1 << 20 });
  const exports = new Exports();
  exports.add(group);
  exports.add(primary);
  const { regionBytes, volumes } = group;
  const replication = new ReplicationExports({
    group: (name) => {
      if (name === 'p') return { name, regionBytes, volumes, replica: undefined };
      return name === 'g' ? { name, regionBytes, volumes, replica } : undefined;
    },
    secretOf: () => options.secret ?? SECRET,
  });
  const events = new EventLog();
  const server = new NbdServer({
    exports,
    replication,
    events,
    limits: { ...DEFAULT_LIMITS, ...options.limits },
    logger: silentLogger(),
  });
  const directory = await mkdtemp(join(tmpdir(), 'tidemark-'));
  const base = { tls: false, exportName: '' } as const;
  const unix = await server.listen({
    ...base,
    scheme: 'nbd+unix',
    address: { kind: 'unix', path: join(directory, 's') },
  });
  const tcp = await server.listen({
    ...base,
    scheme: 'nbd',
    address: { kind: 'tcp', host: '127.0.0.1', port: 0 },
  });
  t.teardown(async () => {
    await server.shutdown();
    await rm(directory, { recursive: true });
  });
  const connect = async (uri: NbdUri = unix, secret?: Buffer): Promise<PeerSession> => {
    const connector = new NbdPeerConnector(async () => secret, { connectMs: 5000, silenceMs: 60_000 });
    const session = await connector.connect(formatNbdUri(uri), 'g', 'link-id');
    t.teardown(() => session.close());
    return session;
  };
  const client = async (exportName: string, options = {}): Promise<NbdClient> => {
    const opened = await NbdClient.connect({ ...unix, exportName }, { contexts: [], ...options });
    t.teardown(() => opened.close());
    return opened;
  };
  const rawSocket = async (): Promise<Socket> => {
    const socket = createConnection({ path: join(directory, 's') });
    socket.on('error', () => undefined);
    t.teardown(() => void socket.destroy());
    await once(socket, 'connect');
    return socket;
  };
  return { server, events, rawSocket, replica, replication, unix, tcp, connect, client };
}

const unavailable = { name: 'EngineError', code: 'unavailable' };

t.test('the hand-over, the log and a round', async (t) => {
  const { replica, connect, server } = await serve(t);
  const session = await connect();
  t.strictSame(await session.state(), replica.told);
  t.match(await session.begin(announcement()), { endLsn: 64, endChain: 7 });
  t.match(
    server.sessions().map(({ exportName, link }) => `${exportName} ${link}`),
    ['.replication/g/state there', '.replication/g/log?session=1 there'],
  );
  const batch = randomBytes(3 * 512);
  const large = randomBytes(8 << 20);
  await Promise.all([session.append(64, batch), session.append(67, large), session.sync()]);
  t.strictSame(
    replica.appended.map(({ lsn, bytes }) => [lsn, bytes.equals(lsn === 64 ? batch : large)]),
    [
      [64, true],
      [67, true],
    ],
  );
  await session.restart({
    lsn: 900,
    chain: 0xffff_ffff,
    snapshots: [
      { id: replica.told.memberId, imageId: replica.told.memberId, name: 'monday', detached: false },
    ],
  });
  await session.hold('round-1', 900);
  const content = (region: number): RegionContent => ({ region, bytes: randomBytes(REGION) });
  const written = [content(3), content(4), { region: 5, bytes: undefined }, content(7), content(255)];
  await Promise.all([session.writeRegions('round-1', 'v', written), session.syncRegions('round-1')]);
  t.strictSame(
    replica.regions,
    written.map((each) => ({ volume: 'v', ...each })),
  );
  await session.release('round-1', true);
  t.strictSame(
    replica.calls,
    [
      'begin there 64',
      'append 64 3',
      'append 67 16384',
      'sync after 2',
      'restart 900 4294967295 monday',
      'hold round-1 900',
      'writeRegions round-1 v 3,4',
      'writeRegions round-1 v 5z',
      'writeRegions round-1 v 7',
      'writeRegions round-1 v 255',
      'syncRegions round-1 after 5',
      'release round-1 true',
    ].map((call) =>
      call.replace('append 64 3', `append 64 ${3 * 512}`).replace('append 67 16384', `append 67 ${8 << 20}`),
    ),
  );
  await until(() => server.sessions().length === 2);
  session.close();
  t.match(await session.closed, /closed the connection/);
  await until(() => replica.calls.includes('ended 1'));
  await until(() => server.sessions().length === 0);
  await t.rejects(session.state(), unavailable);
  await t.rejects(session.append(1, batch), unavailable);
});

t.test('LSNs up to the last one are told exactly', async (t) => {
  const { replica, connect } = await serve(t);
  const session = await connect();
  await session.begin(announcement());
  const lsns = [2 ** 44 - 1, 2 ** 44 + 1, 2 ** 52 + 1, Number.MAX_SAFE_INTEGER - 1];
  for (const lsn of lsns) await session.append(lsn, Buffer.alloc(512));
  t.strictSame(
    replica.appended.map(({ lsn }) => lsn),
    lsns,
  );
});

t.test('what the secondary refuses comes through as what it is', async (t) => {
  const { replica, connect } = await serve(t);
  const session = await connect();
  const long = `volume v has another size there${', and so on'.repeat(60)}`;
  replica.refusals.set('begin', new EngineError('exists', long, { errno: 'EBUSY' }));
  await t.rejects(session.begin(announcement()), { code: 'exists', message: long, errno: 'EBUSY' });
  replica.refusals.delete('begin');
  await session.begin(announcement());
  await t.rejects(session.begin(announcement()), { code: 'invalid', message: /has begun already/ });

  const bytes = Buffer.alloc(512);
  replica.refusals.set('append', new EngineError('in-use', 'the ring is full', { errno: 'ENOSPC' }));
  await t.rejects(session.append(64, bytes), {
    code: 'in-use',
    errno: 'ENOSPC',
    message: /the ring is full/,
  });
  replica.refusals.set('append', new EngineError('invalid', 'the log ends at 70'));
  await t.rejects(session.append(64, bytes), { code: 'invalid', message: /the log ends at 70/ });
  replica.refusals.set('append', new EngineError('disk', 'broken', { errno: 'EIO' }));
  await t.rejects(session.append(64, bytes), { code: 'disk', errno: 'EIO' });
  replica.refusals.set('hold', new EngineError('in-use', 'the horizon is beyond'));
  await t.rejects(session.hold('r', 1), { code: 'in-use', message: 'the horizon is beyond' });
  replica.refusals.set('writeRegions', new EngineError('unavailable', 'it does not hold'));
  const region = { region: 0, bytes: Buffer.alloc(REGION) };
  await t.rejects(session.writeRegions('r', 'v', [region]), {
    code: 'unavailable',
    message: /does not hold/,
  });
  replica.refusals.set('syncRegions', new EngineError('disk', 'a sync failed', { errno: 'EIO' }));
  await t.rejects(session.syncRegions('r'), { code: 'disk', message: /a sync failed/ });
  replica.refusals.set('state', new EngineError('unavailable', 'closing'));
  await t.rejects(session.state(), { code: 'unavailable', message: /closing/ });
  t.equal(await Promise.race([session.closed, Promise.resolve('open')]), 'open', 'refusals end nothing');
});

t.test('K8: a newer session ends the older one', async (t) => {
  const { replica, connect, server } = await serve(t);
  const older = await connect();
  await older.begin(announcement());
  await older.writeRegions('r', 'v', [{ region: 0, bytes: undefined }]);
  const newer = await connect();
  await newer.begin(announcement());
  t.match(await older.closed, /closed/);
  await t.rejects(older.append(64, Buffer.alloc(512)), unavailable);
  await newer.append(64, Buffer.alloc(512));
  await until(() => server.sessions().length === 2);
  t.same(
    replica.calls.filter((call) => call.startsWith('ended')),
    ['ended 1'],
  );
});

t.test('any connection that breaks ends the session', async (t) => {
  for (const broken of ['state', 'log', 'regions', 'checksums']) {
    const { replica, connect, server } = await serve(t);
    const session = await connect();
    await session.begin(announcement());
    await session.writeRegions('r', 'v', [{ region: 0, bytes: undefined }]);
    await session.checksums('x', 'v', 0, 1);
    await server.closeSessions(({ exportName }) => exportName.startsWith(`.replication/g/${broken}`));
    t.match(await session.closed, /./, broken);
    await until(() => server.sessions().length === 0 && replica.calls.includes('ended 1'));
  }
});

t.test('a hand-over whose client goes away is over as soon as it is made', async (t) => {
  const { replica, connect, events } = await serve(t);
  let open: () => void = () => undefined;
  replica.gates.set(
    'begin',
    new Promise<void>((resolve) => {
      open = resolve;
    }),
  );
  const session = await connect();
  const begun = session.begin(announcement());
  await until(() => replica.calls.length === 1);
  session.close();
  await t.rejects(begun, unavailable);
  await until(() => events.since(0).some(({ type }) => type === 'session.closed'));
  open();
  await until(() => replica.calls.includes('ended 1'));
});

t.test('a secondary that says nothing is gone', async (t) => {
  const { unix, server, replication } = await serve(t);
  const honest = replication.directory.bind(replication);
  let speak: () => void = () => undefined;
  const silence = new Promise<void>((resolve) => {
    speak = resolve;
  });
  replication.directory = (...args) => {
    const found = honest(...args);
    return {
      list: () => found.list(),
      find: (name) => {
        const state = found.find(name);
        if (state instanceof ReplicationExport)
          Object.assign(state.device, { tryRead: () => false, read: () => silence });
        return state;
      },
    };
  };
  const connector = new NbdPeerConnector(async () => undefined, { connectMs: 5000, silenceMs: 5 });
  await t.rejects(connector.connect(formatNbdUri(unix), 'g', 'l'), {
    code: 'unavailable',
    message: /has not told its state within 5 ms/,
  });
  speak();
  await until(() => server.connectionCount === 0);
});

t.test('regions that are needed', async (t) => {
  const { replica, connect, server } = await serve(t, { volumeBytes: 64 << 20 });
  const session = await connect();
  await session.begin(announcement({ volumes: [{ name: 'v', sizeBytes: 64 << 20 }] }));
  t.strictSame(await session.needs('v'), []);
  // More runs than one answer has extents.
  for (let first = 1; first < 9000; first += 3) replica.needed.push({ first, end: first + 2 });
  replica.needed.push({ first: 9001, end: 16_384 });
  t.strictSame(await session.needs('v'), [
    ...replica.needed.slice(0, -2),
    { first: 8998, end: 9000 },
    { first: 9001, end: 16_384 },
  ]);
  await until(() => server.sessions().length === 2);
  await t.rejects(session.needs('w'), { code: 'unavailable', message: /no volume w/ });
});

t.test('needs that make no sense end the session, or are bounded', async (t) => {
  const { connect, replication, replica } = await serve(t, { volumeBytes: 200_000 * REGION });
  const begun = async (sizeBytes: number) => {
    const session = await connect();
    await session.begin(announcement({ volumes: [{ name: 'v', sizeBytes }] }));
    return session;
  };
  await t.rejects((await begun(1 << 20)).needs('v'), {
    code: 'unavailable',
    message: `volume v has ${200_000 * REGION} bytes there, not ${1 << 20}`,
  });
  for (let first = 0; first < 200_000; first += 2) replica.needed.push({ first, end: first + 1 });
  const runs = await (await begun(200_000 * REGION)).needs('v');
  t.equal(runs.length, 65_536, 'what lies between the rest counts as needed');
  t.strictSame(runs.slice(-2), [
    { first: 131_068, end: 131_069 },
    { first: 131_070, end: 199_999 },
  ]);
  const honest = replication.directory.bind(replication);
  replication.directory = (...args) => {
    const found = honest(...args);
    return {
      list: () => found.list(),
      find: (name) => {
        const regions = found.find(name);
        if (regions instanceof ReplicationExport && name.includes('/regions/'))
          Object.assign(regions.device, { needed: () => [{ lengthBytes: 1, flags: 1 }] });
        return regions;
      },
    };
  };
  await t.rejects((await begun(200_000 * REGION)).needs('v'), {
    code: 'unavailable',
    message: /tells of 1 bytes, less than a region/,
  });
});

t.test('K13: links and clients have connections of their own', async (t) => {
  const { client, connect, server, events } = await serve(t, { limits: { maxConnections: 2 } });
  const session = await connect();
  await session.begin(announcement());
  t.equal(server.connectionCount, 2);
  await client('p/v');
  await client('p/v');
  await t.rejects(client('p/v').then((third) => third.readBuffer(0, 10)));
  t.ok(events.since(0).some(({ type }) => type === 'connection.refused'));
  await session.writeRegions('r', 'v', [{ region: 0, bytes: undefined }]);
  const newer = await connect();
  await newer.begin(announcement());
  t.equal(server.sessions().filter(({ link }) => link === null).length, 2);
});

t.test('what a secondary says is shown in a line, and a lost one by its URI', async (t) => {
  const { connect, replica, tcp, server } = await serve(t);
  const session = await connect();
  replica.told = { ...replica.told, heldBack: 'full\n\u001b[2Jof it' };
  t.equal((await session.state()).heldBack, 'full [2Jof it');
  await session.begin(announcement());
  replica.refusals.set('hold', new EngineError('in-use', 'one\r\ntwo\u0007'));
  await t.rejects(session.hold('r', 1), { message: 'one two' });
  const where = formatNbdUri(tcp);
  const reasons: string[] = [];
  for (const secret of [randomBytes(32), randomBytes(32)])
    await connect(tcp, secret).catch((error: Error) => reasons.push(error.message));
  t.ok(reasons[0]?.startsWith(`${where}: `), 'by its URI');
  t.equal(reasons[1], reasons[0], 'the same each time');
  const far = await connect(tcp, SECRET);
  await server.shutdown();
  t.notMatch(await far.closed, /nonce|proof|\.replication/);
});

t.test('proofs over TCP', async (t) => {
  const { replica, connect, tcp, server } = await serve(t);
  const session = await connect(tcp, SECRET);
  await session.begin(announcement());
  await session.append(64, Buffer.alloc(512));
  await session.writeRegions('r', 'v', [{ region: 0, bytes: undefined }]);
  t.equal(replica.calls.length, 3);
  t.notMatch(JSON.stringify(server.sessions()), /proof/);
  const why = { code: 'unavailable', message: /NBD_REP_ERR_POLICY/ };
  await t.rejects(connect(tcp, randomBytes(32)), { ...why, message: /not that of group g.*--secret-file/ });
  await t.rejects(connect(tcp), { code: 'unavailable', message: /--secret-file/ });
  for (const name of ['state', 'log?session=1', 'regions/v?session=1&round=r'])
    for (const proof of ['', `${name === 'state' ? '?' : '&'}proof=${'0'.repeat(64)}`])
      await t.rejects(
        NbdClient.connect({ ...tcp, exportName: `.replication/g/${name}${proof}` }, { contexts: [] }),
        { code: 'refused', message: /--secret-file.*NBD_REP_ERR_POLICY/ },
        name + proof,
      );
});

t.test('a server that cannot prove the secret is left', async (t) => {
  // It lets everybody in, and proves another secret.
  const right = await serve(t);
  const wrong = await serve(t, { secret: randomBytes(32) });
  await t.rejects(wrong.connect(wrong.tcp, SECRET), unavailable);
  const { NbdPeerSession } = await import('../../../server/replication/nbd-peer-session.ts');
  const address = { uri: right.unix, group: 'g', secret: randomBytes(32) };
  await t.rejects(NbdPeerSession.open(address, { connectMs: 5000, silenceMs: 60_000 }), {
    code: 'unavailable',
    message: /cannot prove/,
  });
  await until(() => right.server.sessions().length === 0);
});

t.test('a proof is good for one connection and one name', async (t) => {
  const { tcp } = await serve(t);
  const names: string[] = [];
  const { openPeer } = await import('../../../server/replication/peer-connection.ts');
  const { clientProof, nonceOf } = await import('../../../server/replication/proof.ts');
  const name = '.replication/g/state';
  const first = await NbdClient.connect(
    { ...tcp, exportName: name },
    {
      contexts: [],
      challenge: {
        query: 'tidemark:challenge:',
        answer: (contexts) => {
          names.push(`${name}?proof=${clientProof(SECRET, nonceOf(contexts) ?? '', name)}`);
          return names[0];
        },
      },
    },
  );
  await first.close();
  await t.rejects(
    NbdClient.connect({ ...tcp, exportName: names[0] ?? '' }, { contexts: [] }),
    { code: 'refused' },
    'a proof that was overheard',
  );
  await t.rejects(
    NbdClient.connect(
      { ...tcp, exportName: name },
      {
        contexts: [],
        challenge: {
          query: 'tidemark:challenge:',
          answer: (contexts) =>
            `.replication/g/log?session=1&proof=${clientProof(SECRET, nonceOf(contexts) ?? '', name)}`,
        },
      },
    ),
    { code: 'refused', message: /not that of group/ },
    'a proof for another name',
  );
  const opened = await openPeer(
    { uri: tcp, group: 'g', secret: SECRET },
    { kind: 'state', group: 'g', nonce: undefined },
    {},
  );
  t.match(opened.serverNonce, /^[0-9a-f]{64}$/);
  await opened.client.close();
});

t.test('replication exports are found by name only', async (t) => {
  const { unix, client } = await serve(t);
  t.strictSame(
    (await listExports(unix)).map(({ name }) => name),
    ['g/v', 'p/v'],
  );
  const refused = async (name: string, message: RegExp) =>
    t.rejects(client(name), { code: 'refused', message }, name);
  await refused('.replication/h/state', /no export/);
  await refused('.replication/g', /no export/);
  await refused('.replication/g/state/', /no export/);
  await refused('.replication/.g/state', /no export/);
  await refused('.replication/g/log', /no export/);
  await refused('.replication/g/log?session=0', /no export/);
  await refused('.replication/g/log?session=5', /session 5 of group g is over/);
  await refused('.replication/p/state', /create --replica/);
});

t.test('what is no log, no region and no command is refused, and changes nothing', async (t) => {
  const { replica, connect, client, server } = await serve(t);
  const state = await client('.replication/g/state');
  t.equal(state.sizeBytes, 3 << 20);
  await t.rejects(state.write(Buffer.alloc(8), 0), { message: /NBD_EINVAL|EINVAL/ });
  await t.rejects(state.write(Buffer.alloc(8), (1 << 20) + 1), /EINVAL/);
  await t.rejects(state.flush(), /EINVAL/);
  await state.close();
  const session = await connect();
  await session.begin(announcement());
  await t.rejects(client('.replication/g/log?session=1'), { code: 'refused', message: /open already/ });
  const regions = await client('.replication/g/regions/v?session=1&round=r');
  for (const [offset, length] of [
    [512, REGION],
    [0, 512],
    [REGION, REGION + 512],
  ] as const) {
    await t.rejects(regions.write(Buffer.alloc(length), offset), /whole regions of 4096/);
    await t.rejects(regions.trim(offset, length), /whole regions of 4096/);
  }
  await t.rejects(regions.readBuffer(0, REGION), /cannot be read/);
  await regions.trim(0, 1 << 20);
  t.equal(replica.regions.length, 256);
  const look = await client('.replication/g/regions/v?session=1');
  await t.rejects(look.write(Buffer.alloc(REGION), 0), /without a round/);
  await t.rejects(look.flush(), /without a round/);
  t.strictSame(
    replica.calls.filter((call) => !call.startsWith('writeRegions')),
    ['begin there 64'],
  );
  await until(() => server.sessions().length === 4);
});

t.test('bytes as they come: split anywhere, and offsets between two sectors', async (t) => {
  const { replica, connect, replication, rawSocket } = await serve(t);
  const session = await connect();
  await session.begin(announcement());
  const known = replication.sessions.find('g', 1) as { hasLog: boolean };
  known.hasLog = false;
  const raw = await RawSession.open({ rawSocket }, '.replication/g/log?session=1');
  const payload = randomBytes(1024);
  const errors: number[] = [];
  // 2^60 + 1 rounds to 2^60 as a double; 2^60 + 256 does not.
  for (const offset of [2n ** 60n + 1n, 2n ** 60n + 256n, 2n ** 62n, 2n ** 63n, 2n ** 60n]) {
    for (const byte of requestBytes({ type: NBD_CMD_WRITE, offset }, payload)) raw.send(Buffer.of(byte));
    errors.push((await raw.take(16)).readUInt32BE(4));
  }
  t.strictSame(errors, [NBD_EINVAL, NBD_EINVAL, NBD_ENOSPC, NBD_ENOSPC, 0]);
  t.strictSame(replica.appended, [{ lsn: 2 ** 51, bytes: payload }]);
  raw.send(requestBytes({ type: NBD_CMD_READ, length: 512 }));
  t.equal((await raw.take(16)).readUInt32BE(4), NBD_EINVAL);
});

t.test('K13: a link never waits for what clients hold', async (t) => {
  const { replica, connect, server, rawSocket } = await serve(t, { limits: { sharedBytes: 33 << 20 } });
  const clients = await RawSession.open({ rawSocket }, 'p/v');
  // It has announced a large write and does not go on: what it may take of the shared bytes is taken.
  clients.send(requestBytes({ type: NBD_CMD_WRITE, offset: 0, length: 1 << 20 }, Buffer.alloc(4096)));
  const before = server.permits.totalBytes;
  await until(() => server.permits.freeBytes < before);
  const held = server.permits.freeBytes;
  const session = await connect();
  await session.begin(announcement());
  await session.append(64, randomBytes(32 << 20));
  t.equal(replica.appended[0]?.bytes.length, 32 << 20, 'more than was left');
  t.equal(server.permits.freeBytes, held);
});

t.test('checksums of a verification', async (t) => {
  const { replica, connect, server } = await serve(t, { volumeBytes: 64 << 20 });
  const session = await connect();
  await session.begin(announcement());
  for (const [region, sum] of [
    [3, 0xa0],
    [4, 0xa1],
    [9, 0xa2],
    [16_383, 0xa3],
  ] as const)
    replica.contents.set(region, sum);
  await session.beginVerify('v-1');
  t.strictSame(await session.content('v-1', 'v', 0, 16_384), [
    { first: 3, end: 5 },
    { first: 9, end: 10 },
    { first: 16_383, end: 16_384 },
  ]);
  t.strictSame(await session.content('v-1', 'v', 4, 10), [
    { first: 4, end: 5 },
    { first: 9, end: 10 },
  ]);
  const sums = await session.checksums('v-1', 'v', 3, 10);
  t.strictSame(
    [...sums],
    [0xa0, 0xa1, 0, 0, 0, 0, 0xa2].flatMap((sum) => Array(CHECKSUM_BYTES).fill(sum)),
  );
  t.equal((await session.checksums('v-1', 'v', 0, MAX_CHECKSUMS)).length, MAX_CHECKSUMS * CHECKSUM_BYTES);
  t.match(
    server.sessions().map(({ exportName, link }) => `${exportName} ${link}`),
    [/state there/, /log/, '.replication/g/checksums/v?session=1&verify=v-1 there'],
  );
  // More runs than one answer has extents.
  replica.contents.clear();
  for (let region = 0; region < 16_384; region += 3) replica.contents.set(region, 1);
  t.equal((await session.content('v-1', 'v', 0, 16_384)).length, Math.ceil(16_384 / 3));
  await session.endVerify('v-1');
  await until(() => server.sessions().length === 2);
  t.strictSame(
    replica.calls.filter((call) => /Verify/.test(call)),
    ['beginVerify v-1', 'endVerify v-1'],
  );
  replica.refusals.set('beginVerify', new EngineError('unavailable', 'it is frozen'));
  await t.rejects(session.beginVerify('v-2'), { code: 'unavailable', message: 'it is frozen' });
  replica.refusals.set('checksums', new EngineError('unavailable', 'no image of that'));
  await t.rejects(session.checksums('v-2', 'v', 0, 1), { code: 'unavailable', message: /no image of that/ });
  replica.refusals.set('content', new EngineError('disk', 'a bad sector', { errno: 'EIO' }));
  await t.rejects(session.content('v-2', 'v', 0, 1), { code: 'disk', message: /bad sector/ });
  await t.rejects(session.content('v-2', 'w', 0, 1), { code: 'unavailable', message: /no volume w/ });
  t.match(await session.state(), replica.told);
  replica.told = { ...replica.told, verifying: { id: 'v-2', lsn: null, refused: 'why' } };
  t.strictSame(await session.state(), replica.told);
});

t.test('what is no checksum is refused, and changes nothing', async (t) => {
  const { replica, connect, client, tcp } = await serve(t);
  const name = (rest: string) => `.replication/g/checksums/${rest}`;
  const refused = async (rest: string, message: RegExp) =>
    t.rejects(client(name(rest)), { code: 'refused', message }, rest);
  await refused('v?session=1&verify=x', /session 1 of group g is over/);
  const session = await connect();
  await session.begin(announcement());
  for (const rest of [
    'v',
    'v?session=1',
    'v?verify=x&session=1',
    'v?session=1&verify=',
    'v?session=1&verify=a/b',
  ])
    await refused(rest, /no export/);
  await refused('v?session=2&verify=x', /session 2 of group g is over/);
  await refused('w?session=1&verify=x', /no volume w/);
  await t.rejects(NbdClient.connect({ ...tcp, exportName: name('v?session=1&verify=x') }, { contexts: [] }), {
    code: 'refused',
    message: /--secret-file.*NBD_REP_ERR_POLICY/,
  });
  const opened = await client(name('v?session=1&verify=x'), { contexts: ['base:allocation'] });
  // 256 regions.
  t.equal(opened.sizeBytes, 256 * CHECKSUM_BYTES);
  const before = replica.calls.length;
  for (const [offset, length] of [
    [0, 8],
    [8, CHECKSUM_BYTES],
    [0, 257 * CHECKSUM_BYTES],
    [256 * CHECKSUM_BYTES, CHECKSUM_BYTES],
    [0, (MAX_CHECKSUMS + 1) * CHECKSUM_BYTES],
    [2 ** 52, CHECKSUM_BYTES],
  ] as const) {
    await t.rejects(opened.readBuffer(offset, length), /EINVAL/, `${length} at ${offset}`);
    await t.rejects(opened.blockStatus(offset, length), /EINVAL/, `${length} at ${offset}`);
  }
  await t.rejects(opened.write(Buffer.alloc(CHECKSUM_BYTES), 0), /EPERM/);
  await t.rejects(opened.trim(0, CHECKSUM_BYTES), /EPERM/);
  await t.rejects(opened.writeZeroes(0, CHECKSUM_BYTES), /EPERM/);
  await t.rejects(opened.flush(), /EINVAL/);
  await t.rejects(opened.cache(0, CHECKSUM_BYTES), /EINVAL/);
  t.equal(replica.calls.length, before);
  t.strictSame([...(await opened.readBuffer(0, CHECKSUM_BYTES))], Array(CHECKSUM_BYTES).fill(0));
  // Its end is no end of the session.
  await opened.disconnect();
  await session.append(64, Buffer.alloc(512));
  session.close();
  await until(() => replica.calls.includes('ended 1'));
  await refused('v?session=1&verify=x', /session 1 of group g is over/);
});
