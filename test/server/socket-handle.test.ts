import { fstatSync } from 'node:fs';
import { connect, Socket } from 'node:net';
import t from 'tap';
import { descriptorOf, SocketHandleError } from '../../server/socket-handle.ts';
import { startScripted } from '../fixtures/scripted-server.ts';

t.test('a connected socket has a descriptor, which is a socket', async (t) => {
  const { uri } = await startScripted(t, { connected: () => undefined });
  const socket = connect(new URL(uri).searchParams.get('socket') ?? '');
  await new Promise((resolve) => socket.once('connect', resolve));
  t.ok(fstatSync(descriptorOf(socket)).isSocket());
  socket.destroy();
  t.throws(() => descriptorOf(socket), SocketHandleError, 'once destroyed it has none');
});

t.test('no descriptor is a clear error', async (t) => {
  t.throws(() => descriptorOf(new Socket()), { code: 'no-descriptor', message: /descriptor of a socket/ });
  const strange = new Socket();
  for (const fd of [-1, undefined, '3', 1.5]) {
    t.throws(() => descriptorOf(Object.assign(strange, { _handle: { fd } })), SocketHandleError, `${fd}`);
  }
});
