/** No acknowledgement leaves before `settle`: what a client was told survives the process. */
import t from 'tap';
import { EngineError } from '../../engine/errors.ts';
import * as nbd from '../../protocol/constants.ts';
import { FakeGroup } from '../fixtures/fake-group.ts';
import { RawSession, requestBytes } from '../fixtures/raw-session.ts';
import { serveGroup, until } from '../fixtures/test-server.ts';

const write = (cookie: bigint, flags = 0): Buffer =>
  requestBytes({ type: nbd.NBD_CMD_WRITE, cookie, flags }, Buffer.alloc(512, 1));

async function serveFake(t: Parameters<typeof serveGroup>[0]) {
  const group = new FakeGroup('g', { v: 1 << 20 });
  const device = group.volumes.get('v');
  if (device === undefined) throw new Error('the volume is not there');
  return { device, server: await serveGroup(t, group) };
}

t.test('one settle for all that one receive event brought, before the first acknowledgement', async (t) => {
  const { device, server } = await serveFake(t);
  const session = await RawSession.open(server);
  session.socket.on('data', () => device.steps.push('received'));
  session.send(Buffer.concat([write(1n), write(2n), write(3n)]));
  for (const cookie of [1n, 2n, 3n]) t.strictSame(await session.reply(), { error: 0, cookie });
  t.strictSame(device.steps, ['tryWrite', 'tryWrite', 'tryWrite', 'settle', 'received']);
  device.steps.length = 0;
  session.send(requestBytes({ type: nbd.NBD_CMD_READ, cookie: 4n, length: 1 }));
  await session.reply();
  await session.take(1);
  t.strictSame(device.steps, ['received'], 'a read asks for nothing');
});

t.test('a write that was waited for needs no settle; FUA settles before it flushes', async (t) => {
  const { device, server } = await serveFake(t);
  const session = await RawSession.open(server);
  session.send(write(1n, nbd.NBD_CMD_FLAG_FUA));
  await session.reply();
  t.strictSame(device.steps, ['tryWrite', 'settle', 'flush']);
  device.steps.length = 0;
  device.takesAtOnce = false;
  session.send(write(2n));
  await session.reply();
  t.strictSame(device.steps, ['write']);
});

t.test('what cannot be settled is not acknowledged: the connection ends with the reason', async (t) => {
  const { device, server } = await serveFake(t);
  device.settleError = new EngineError('unavailable', 'group g takes no more writes: EIO', { errno: 'EIO' });
  const other = await RawSession.open(server);
  const session = await RawSession.open(server);
  let received = 0;
  session.socket.on('data', (bytes: Buffer) => {
    received += bytes.length;
  });
  session.send(Buffer.concat([requestBytes({ type: nbd.NBD_CMD_READ, length: 512 }), write(1n), write(2n)]));
  await session.closed();
  t.equal(received, 0, 'nothing of the batch was sent');
  await until(() => server.server.connectionCount === 1);
  t.match(server.events.since(0).at(-1), {
    type: 'session.closed',
    data: { reason: 'group g takes no more writes: EIO' },
  });
  other.send(requestBytes({ type: nbd.NBD_CMD_READ, cookie: 9n, length: 1 }));
  t.strictSame(await other.reply(), { error: 0, cookie: 9n }, 'readers go on');
});

/** A device whose acknowledgements wait until the returned function is called. */
async function serveHolding(t: Parameters<typeof serveGroup>[0]) {
  const { device, server } = await serveFake(t);
  let release = () => {};
  device.hold = new Promise((resolve) => {
    release = resolve;
  });
  return { device, server, release };
}

t.test(
  'what links hold is answered when they let it; reads, and other requests, are taken meanwhile',
  async (t) => {
    const { device, server, release } = await serveHolding(t);
    const session = await RawSession.open(server);
    session.send(
      Buffer.concat([
        write(1n),
        write(2n, nbd.NBD_CMD_FLAG_FUA),
        requestBytes({ type: nbd.NBD_CMD_FLUSH, cookie: 3n }),
        requestBytes({ type: nbd.NBD_CMD_TRIM, cookie: 4n, length: 512 }),
        requestBytes({ type: nbd.NBD_CMD_READ, cookie: 9n, length: 1 }),
      ]),
    );
    t.strictSame(await session.reply(), { error: 0, cookie: 9n }, 'the read alone');
    t.strictSame(await session.take(1), Buffer.of(0));
    t.equal(device.steps.filter((step) => step === 'tryWrite').length, 2);
    t.equal(server.server.sessions()[0]?.inFlight, 4);
    release();
    const answered = [];
    for (let count = 0; count < 4; count++) answered.push((await session.reply()).cookie);
    t.strictSame(answered.sort(), [1n, 2n, 3n, 4n]);
  },
);

t.test('a large write gives its memory back before it is acknowledged', async (t) => {
  const { server, release } = await serveHolding(t);
  const session = await RawSession.open(server);
  const payload = Buffer.alloc(512 * 1024, 1);
  session.send(requestBytes({ type: nbd.NBD_CMD_WRITE, cookie: 1n }, payload));
  await until(() => server.server.sessions()[0]?.bytesWritten === payload.length);
  await until(() => server.server.permits.freeBytes === server.server.permits.totalBytes);
  t.equal(server.server.sessions()[0]?.inFlight, 1);
  release();
  t.strictSame(await session.reply(), { error: 0, cookie: 1n });
});

t.test('who goes while he is held leaves no place taken', async (t) => {
  const { server, release } = await serveHolding(t);
  const session = await RawSession.open(server);
  session.send(Buffer.concat([write(1n), write(2n), requestBytes({ type: nbd.NBD_CMD_FLUSH, cookie: 3n })]));
  await until(() => server.server.sessions()[0]?.inFlight === 3);
  session.socket.destroy();
  await until(() => server.server.connectionCount === 0);
  release();
  t.equal(server.server.connectionCount, 0);
});
