import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { run } from '../../scripts/lib/command.ts';
import { projectFolder, ServedNode } from '../../scripts/lib/served-node.ts';
import { NbdClient } from '../../server/nbd-client.ts';
import { temporaryFolder } from '../fixtures/local-node.ts';
import { serveForTest } from '../fixtures/served-node.ts';

t.test('serve says that it is ready, serves, and ends cleanly when it is told to', async (t) => {
  const folder = await temporaryFolder(t);
  const node = await serveForTest(t, { stateFolder: folder });
  t.equal(
    node.readyLine,
    `tidemark ready: nbd+unix:///?socket=${folder}/nbd.sock control ${folder}/control.sock`,
  );
  t.equal((await readFile(join(folder, 'lock'), 'utf8')).trim(), String(node.pid));
  await node.create('g', 'v:8M');
  const client = await NbdClient.connect(node.uri('g/v'));
  await client.write(Buffer.alloc(512, 9), 512);

  const second = await node.command('serve');
  t.match(second, {
    status: 1,
    stdout: '',
    stderr: `tidemark: ${folder} is being served by pid ${node.pid}: stop it first, or use another --state\n`,
  });

  t.equal(await node.stop(), 0, 'with a client connected');
  t.same((await readdir(folder)).sort(), ['groups', 'lock', 'node.json'], 'the sockets are gone');
  for (const line of node.log.trim().split('\n')) t.type(JSON.parse(line), 'object', 'the log is JSON lines');
  t.match(node.log, /session opened/);
  t.match(node.log, /session closed/);

  const again = await serveForTest(t, { stateFolder: folder });
  const reader = await NbdClient.connect(again.uri('g/v'));
  t.same(await reader.readBuffer(512, 512), Buffer.alloc(512, 9), 'what was written is there');
  await reader.disconnect();
});

t.test('after a kill, the sockets that it left are no hindrance', async (t) => {
  const folder = await temporaryFolder(t);
  const killed = await ServedNode.start({ stateFolder: folder });
  await killed.kill();
  t.ok((await readdir(folder)).includes('control.sock'), 'they are left');
  t.match(await killed.command('status'), { status: 1, stderr: /no node at/ });
  const node = await serveForTest(t, { stateFolder: folder });
  t.equal((await node.command('status')).status, 0);
});

t.test('an answer that cannot be written is a failure; a reader that has gone is none', async (t) => {
  const node = await serveForTest(t, {});
  const shell = (script: string) =>
    run('bash', [
      '-c',
      script,
      'bash',
      process.execPath,
      join(projectFolder(), 'dist/server/main.js'),
      node.stateFolder,
    ]);
  t.match(await shell('"$1" "$2" status --state "$3" > /dev/full'), {
    status: 1,
    stderr: /^tidemark: cannot write the answer to standard output: ENOSPC[^\n]*\n$/,
  });
  t.match(await shell('set -o pipefail; "$1" "$2" status --state "$3" | true'), { status: 0, stderr: '' });
});

t.test('status --watch on a pipe: JSON lines, until it is interrupted, which is no failure', async (t) => {
  const node = await serveForTest(t, {});
  const main = join(projectFolder(), 'dist/server/main.js');
  const command = [main, 'status', '--json', '--watch', '0.1', '--state', node.stateFolder];
  const child = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  child.stdout.setEncoding('utf8');
  const shown = new Promise<void>((resolve) => {
    child.stdout.on('data', (text: string) => {
      said += text;
      if (said.split('\n').length > 2) resolve();
    });
  });
  await shown;
  child.kill('SIGINT');
  t.same(await once(child, 'exit'), [0, null]);
  const lines = said.trimEnd().split('\n');
  t.ok(lines.length >= 2);
  for (const line of lines) t.match(JSON.parse(line), { node: { pid: node.pid }, groups: [] });
});

t.test('as installed, the thread pool has eight threads, unless told otherwise', async (t) => {
  const folder = await temporaryFolder(t);
  const threads = async (size: string | undefined): Promise<number> => {
    const environment: NodeJS.ProcessEnv = { ...process.env, UV_THREADPOOL_SIZE: size };
    if (size === undefined) delete environment['UV_THREADPOOL_SIZE'];
    const command = [
      process.execPath,
      join(projectFolder(), 'dist/server/launch.cjs'),
      'serve',
      '--state',
      folder,
    ];
    // The test runner hands its loader to every child by NODE_OPTIONS, and a loader starts the pool before any program.
    const child = spawn('env', ['-u', 'NODE_OPTIONS', ...command], {
      stdio: ['ignore', 'pipe', 'ignore'],
      env: environment,
    });
    await once(child.stdout, 'data');
    const count = (await readdir(`/proc/${child.pid}/task`)).length;
    child.kill('SIGTERM');
    await once(child, 'exit');
    return count;
  };
  const [byDefault, one] = [await threads(undefined), await threads('1')];
  t.equal(byDefault - one, 7);
});
