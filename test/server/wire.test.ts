/** What clients may do to us on the wire, and what the others see of it. */
import t from 'tap';
import * as nbd from '../../protocol/constants.ts';
import { MAX_OPTIONS_PER_HANDSHAKE, MAX_PAYLOAD_BYTES } from '../../protocol/limits.ts';
import type { ExportedGroup } from '../../server/group-control.ts';
import { LARGE_REQUEST_BYTES } from '../../server/limits.ts';
import { exportNameHandshake, RawSession, requestBytes } from '../fixtures/raw-session.ts';
import { startTestServer, until } from '../fixtures/test-server.ts';

const MIB = 1024 * 1024;

/** The group by another name. */
function named(group: ExportedGroup, name: string): ExportedGroup {
  const { role, volumes, snapshots } = group;
  return { name, role, volumes, snapshots, snapshotVolume: () => undefined, changedRuns: () => [] };
}

t.test('a session, byte by byte and all at once', async (t) => {
  const server = await startTestServer(t);
  const data = Buffer.alloc(5000, 7);
  const written = requestBytes({ type: nbd.NBD_CMD_WRITE, cookie: 1n, offset: 3 }, data);
  const read = requestBytes({ type: nbd.NBD_CMD_READ, cookie: 2n, offset: 4, length: 10 });
  const ending = Buffer.concat([
    requestBytes({ type: nbd.NBD_CMD_FLUSH, cookie: 3n, length: 0 }),
    requestBytes({ type: nbd.NBD_CMD_DISC, length: 0 }),
  ]);
  for (const piece of [1, 3, 27, 28, 29, 1000, written.length]) {
    const session = await RawSession.open(server);
    const send = async (bytes: Buffer): Promise<void> => {
      for (let at = 0; at < bytes.length; at += piece) {
        await new Promise((resolve) => session.socket.write(bytes.subarray(at, at + piece), resolve));
      }
    };
    await send(written);
    t.strictSame(await session.reply(), { error: 0, cookie: 1n });
    await send(read);
    t.strictSame(await session.reply(), { error: 0, cookie: 2n });
    t.ok((await session.take(10)).equals(data.subarray(0, 10)));
    await send(ending);
    t.strictSame(await session.reply(), { error: 0, cookie: 3n }, 'answered before the goodbye is heard');
    await session.closed();
  }
});

t.test('the payload of a refused write is taken from the stream, and nowhere else', async (t) => {
  const server = await startTestServer(t, { sizeBytes: MIB });
  const session = await RawSession.open(server);
  for (const length of [1, 4096, 300_000, MAX_PAYLOAD_BYTES + 1]) {
    session.send(requestBytes({ type: nbd.NBD_CMD_WRITE, cookie: 1n, offset: MIB }, Buffer.alloc(length, 1)));
    t.equal((await session.reply()).error, length > MAX_PAYLOAD_BYTES ? nbd.NBD_EINVAL : nbd.NBD_ENOSPC);
    session.send(requestBytes({ type: nbd.NBD_CMD_READ, cookie: 2n, length: 16 }));
    t.strictSame(await session.reply(), { error: 0, cookie: 2n });
    t.ok((await session.take(16)).equals(Buffer.alloc(16)));
  }
  t.equal(server.volume.written.count, 0);
});

t.test('a stream that makes no sense is closed', async (t) => {
  const server = await startTestServer(t);
  const closing = {
    'a wrong magic': requestBytes({ type: nbd.NBD_CMD_READ, magic: 0x25609514, length: 1 }),
    'a payload of 4 GiB': requestBytes({ type: nbd.NBD_CMD_WRITE, length: 0xffffffff }),
    'an extended header that was not negotiated': requestBytes({
      type: nbd.NBD_CMD_READ,
      magic: nbd.NBD_EXTENDED_REQUEST_MAGIC,
    }),
  };
  for (const [what, bytes] of Object.entries(closing)) {
    const session = await RawSession.open(server);
    session.send(bytes);
    await session.closed();
    t.pass(what);
  }
  for (const bytes of [Buffer.alloc(64, 0xff), exportNameHandshake('no/such')]) {
    const socket = await server.rawSocket();
    socket.resume();
    socket.write(bytes);
    await new Promise((resolve) => socket.once('close', resolve));
  }
  t.equal(server.server.sessions().length, 0);
});

t.test('a connection lost in the middle of a payload writes nothing', async (t) => {
  const server = await startTestServer(t);
  for (const length of [4096, 200_000, 2 * LARGE_REQUEST_BYTES]) {
    const session = await RawSession.open(server);
    const whole = requestBytes({ type: nbd.NBD_CMD_WRITE, cookie: 1n }, Buffer.alloc(length, 0xaa));
    await new Promise((resolve) => session.socket.write(whole.subarray(0, whole.length - 1), resolve));
    session.socket.destroy();
    await until(() => server.server.connectionCount === 0);
  }
  const client = await server.client();
  t.ok((await client.readBuffer(0, MIB)).equals(Buffer.alloc(MIB)));
  t.equal(server.server.permits.freeBytes, server.server.permits.totalBytes);
  await client.disconnect();
});

t.test('a handshake that does not end is ended', async (t) => {
  const server = await startTestServer(t, { limits: { handshakeTimeoutMs: 20 } });
  const socket = await server.rawSocket();
  socket.write(exportNameHandshake().subarray(0, 10));
  socket.resume();
  await new Promise((resolve) => socket.once('close', resolve));
  await until(() => server.server.connectionCount === 0);
});

t.test('connections above the limit are refused, and heard of', async (t) => {
  const server = await startTestServer(t, { limits: { maxConnections: 2 } });
  const first = await server.client();
  const second = await server.client();
  await t.rejects(server.client());
  t.match(server.events.since(0).at(-1), { type: 'connection.refused' });
  await first.disconnect();
  await until(() => server.server.connectionCount === 1);
  const third = await server.client();
  t.ok((await third.readBuffer(0, 10)).equals(Buffer.alloc(10)));
  await Promise.all([second.disconnect(), third.disconnect()]);
});

t.test('a client that does not take its replies stops itself, and nobody else', async (t) => {
  const server = await startTestServer(t, { limits: { privateBytesPerConnection: 256 * 1024 } });
  const stuck = await RawSession.open(server);
  stuck.socket.pause();
  const reads = 1000;
  const read = requestBytes({ type: nbd.NBD_CMD_READ, length: 65536 });
  stuck.send(Buffer.concat(Array.from({ length: reads }, () => read)));
  const [session] = server.server.sessions();
  await until(() => (server.server.sessions()[0]?.requests ?? 0) > 0);
  const client = await server.client();
  for (let round = 0; round < 50; round += 1) await client.readBuffer(0, 4096);
  const served = server.server.sessions().find(({ id }) => id === session?.id)?.requests ?? 0;
  // What the limit lets it owe, and what the two ends of a unix socket hold.
  t.ok(served < 100, `${served} of its ${reads} reads were served`);
  await client.disconnect();
  stuck.socket.resume();
  await stuck.take(reads * (16 + 65536));
  t.pass('and it gets all of them when it takes them');
});

t.test('memory for large requests: who sits on it is closed when another waits for it', async (t) => {
  const limits = { sharedBytes: MAX_PAYLOAD_BYTES, stallTimeoutMs: 40 };
  const server = await startTestServer(t, { sizeBytes: 2 * MAX_PAYLOAD_BYTES, limits });
  const sitter = await RawSession.open(server);
  const write = requestBytes({ type: nbd.NBD_CMD_WRITE }, Buffer.alloc(MAX_PAYLOAD_BYTES, 1));
  sitter.send(write.subarray(0, 1000));
  await until(() => server.server.permits.freeBytes === 0);
  const client = await server.client();
  t.ok((await client.readBuffer(0, 65536)).equals(Buffer.alloc(65536)), 'small requests need none of it');
  await client.write(Buffer.alloc(MAX_PAYLOAD_BYTES, 2), MAX_PAYLOAD_BYTES);
  await sitter.closed();
  t.ok(server.events.since(0).some((event) => event.type === 'session.evicted'));
  t.ok((await client.readBuffer(0, MIB)).equals(Buffer.alloc(MIB)), 'nothing of the half write was written');
  await client.disconnect();
});

t.test('memory for large requests: dripping is no progress', async (t) => {
  const limits = { sharedBytes: MAX_PAYLOAD_BYTES, stallTimeoutMs: 40 };
  const server = await startTestServer(t, { sizeBytes: 2 * MAX_PAYLOAD_BYTES, limits });
  const dripper = await RawSession.open(server);
  dripper.send(requestBytes({ type: nbd.NBD_CMD_WRITE, length: MAX_PAYLOAD_BYTES }));
  const drip = setInterval(() => dripper.send(Buffer.alloc(1)), 2);
  t.teardown(() => clearInterval(drip));
  await until(() => server.server.permits.freeBytes === 0);
  const client = await server.client();
  t.equal((await client.readBuffer(0, MAX_PAYLOAD_BYTES)).length, MAX_PAYLOAD_BYTES);
  await dripper.closed();
  await client.disconnect();
});

t.test('memory for large requests: one connection does not get all of it', async (t) => {
  const limits = { sharedBytes: 5 * MAX_PAYLOAD_BYTES };
  const server = await startTestServer(t, { sizeBytes: MAX_PAYLOAD_BYTES, limits });
  const greedy = await RawSession.open(server);
  greedy.socket.pause();
  const read = requestBytes({ type: nbd.NBD_CMD_READ, length: MAX_PAYLOAD_BYTES });
  greedy.send(Buffer.concat(Array.from({ length: 20 }, () => read)));
  await until(() => (server.server.sessions()[0]?.requests ?? 0) > 0);
  const client = await server.client();
  t.equal((await client.readBuffer(0, MAX_PAYLOAD_BYTES)).length, MAX_PAYLOAD_BYTES);
  t.ok((server.server.sessions()[0]?.requests ?? 0) <= 2);
  await client.disconnect();
  greedy.socket.destroy();
  await until(() => server.server.permits.freeBytes === server.server.permits.totalBytes);
});

t.test('a client that asks in its handshake and takes no answer is closed', async (t) => {
  const server = await startTestServer(t, { limits: { handshakeTimeoutMs: 600_000 } });
  for (let number = 0; number < 40; number += 1) {
    const name = `${'n'.repeat(60)}${number}`;
    server.exports.add(named(server.group, name));
  }
  const socket = await server.rawSocket();
  socket.pause();
  const list = Buffer.alloc(16);
  list.writeBigUInt64BE(nbd.IHAVEOPT_MAGIC, 0);
  list.writeUInt32BE(nbd.NBD_OPT_LIST, 8);
  const lists = Buffer.concat(Array.from({ length: 20 }, () => list));
  socket.write(exportNameHandshake().subarray(0, 4));
  let asked = 0;
  const asking = setInterval(() => {
    if (socket.destroyed) return;
    socket.write(lists);
    asked += 20;
  }, 1);
  t.teardown(() => clearInterval(asking));
  await until(() => asked > 0 && server.server.connectionCount === 0);
  t.ok(asked < MAX_OPTIONS_PER_HANDSHAKE, `closed after ${asked} options`);
});

t.test(
  'shutdown: what is in flight is answered, late requests are refused, then the connection closes',
  async (t) => {
    const server = await startTestServer(t);
    const client = await server.client();
    const idle = await server.client();
    await client.write(Buffer.alloc(4096, 3), 0);
    let release: () => void = () => undefined;
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const flush = server.volume.flush.bind(server.volume);
    server.volume.flush = () => held.then(flush);
    const inFlight = client.flush();
    await until(() => server.server.sessions().some((session) => session.inFlight === 1));
    const stopped = server.server.shutdown();
    t.match((await idle.closed)?.message, /closed the connection/, 'who waits for nothing is closed at once');
    await t.rejects(client.write(Buffer.alloc(512), 0), { code: nbd.NBD_ESHUTDOWN });
    await t.rejects(server.client(), 'nobody new is let in');
    release();
    await inFlight;
    await stopped;
    await client.closed;
    t.equal(server.server.connectionCount, 0);
  },
);

t.test('the default export is the only one, or none', async (t) => {
  const server = await startTestServer(t);
  t.equal(server.exports.find('')?.name, 'g/v');
  const other = await startTestServer(t);
  server.exports.add(named(other.group, 'h'));
  t.equal(server.exports.find(''), undefined);
  server.exports.remove('h');
  t.equal(server.exports.find('')?.name, 'g/v');
});
