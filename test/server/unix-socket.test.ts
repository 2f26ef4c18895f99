import { lstat, mkdir, rename, stat, writeFile } from 'node:fs/promises';
import { connect, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { checkSocketPath, clearStaleSocket, listenPrivately } from '../../server/unix-socket.ts';
import { temporaryFolder } from '../fixtures/local-node.ts';

function closed(server: Server): Promise<void> {
  return new Promise((resolve) => server.close(() => resolve()));
}

/** A socket file that nobody listens on, as a killed process leaves it. */
async function staleSocket(path: string): Promise<void> {
  const server = createServer();
  // Closing removes the name that was bound; under another name the socket stays.
  await listenPrivately(server, `${path}.bound`);
  await rename(`${path}.bound`, path);
  await closed(server);
}

t.test('a path that Linux would cut is refused with the numbers', async (t) => {
  checkSocketPath(`/${'x'.repeat(106)}`);
  t.throws(() => checkSocketPath(`/${'x'.repeat(107)}`), {
    code: 'invalid',
    message: /108 bytes, Linux takes 107/,
  });
  t.throws(
    () => checkSocketPath(`/${'é'.repeat(60)}`),
    { message: /121 bytes/ },
    'bytes are counted, not characters',
  );
});

t.test('a socket is its owner’s from the first moment, and the umask is put back', async (t) => {
  const path = join(await temporaryFolder(t), 's');
  const umask = process.umask();
  const server = createServer();
  await listenPrivately(server, path);
  t.equal((await stat(path)).mode & 0o777, 0o600);
  t.equal(process.umask(), umask);
  await closed(server);
  await t.rejects(lstat(path), { code: 'ENOENT' }, 'and removed with its server');
});

t.test('a stale socket is cleared away, a living one is not, and nothing else is', async (t) => {
  const folder = await temporaryFolder(t);
  const path = join(folder, 's');
  await clearStaleSocket(path);
  await staleSocket(path);
  t.ok((await lstat(path)).isSocket(), 'it is there');
  const server = createServer((socket) => socket.destroy());
  await listenPrivately(server, path);

  await t.rejects(listenPrivately(createServer(), path), {
    code: 'in-use',
    message: /another process listens on/,
  });
  await new Promise<void>((resolve, reject) => {
    const client = connect({ path }, () => {
      client.destroy();
      resolve();
    });
    client.once('error', reject);
  });
  t.pass('the one that lives goes on');
  await closed(server);

  const file = join(folder, 'file');
  await writeFile(file, 'data');
  await t.rejects(clearStaleSocket(file), { code: 'exists', message: /is not a socket/ });
  t.equal((await stat(file)).size, 4);
  await mkdir(join(folder, 'folder'));
  await t.rejects(clearStaleSocket(join(folder, 'folder')), { code: 'exists' });
});

t.test('where no socket can be, one line says why', async (t) => {
  const folder = await temporaryFolder(t);
  await t.rejects(listenPrivately(createServer(), join(folder, 'none', 's')), {
    code: 'disk',
    message: /cannot listen on .*: its folder does not exist/,
  });
});
