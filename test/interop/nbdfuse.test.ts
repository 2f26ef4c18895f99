import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { access, open, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { mustRun, run } from '../../scripts/lib/command.ts';
import { needPrograms, serveForTest, type TestContext } from '../fixtures/served-node.ts';

const MEBIBYTE = 1024 * 1024;

/** Mounts an export as a file for the length of a test, as any user may; resolves when the file is there. */
async function mountAsFile(t: TestContext, uri: string, folder: string): Promise<string> {
  const file = join(folder, 'mnt', 'disk');
  const pidFile = join(folder, 'nbdfuse.pid');
  const child = spawn('nbdfuse', ['--pidfile', pidFile, file, uri], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const ended = once(child, 'exit');
  t.teardown(async () => {
    await run('fusermount3', ['-u', join(folder, 'mnt')]);
    await ended;
  });
  // The file appears once the filesystem is mounted; tap's own time limit ends a wait in vain.
  while ((await readFile(pidFile, 'utf8').catch(() => '')) === '') {
    if (child.exitCode !== null) throw new Error(`nbdfuse ended with status ${child.exitCode}`);
    await sleep(20);
  }
  return file;
}

async function haveFuse(t: TestContext): Promise<boolean> {
  if (!(await needPrograms(t, 'nbdfuse', 'fusermount3'))) return false;
  const present = await access('/dev/fuse').then(
    () => true,
    () => false,
  );
  if (present) return true;
  if (process.env['TIDEMARK_TEST_WITHOUT_TOOLS'] === '1') t.comment('no /dev/fuse; left out');
  else t.fail('no /dev/fuse; load the fuse module, or set TIDEMARK_TEST_WITHOUT_TOOLS=1');
  return false;
}

t.test('nbdfuse: a volume as a file', async (t) => {
  if (!(await haveFuse(t))) return;
  const node = await serveForTest(t);
  await node.create('g', 'v:64M');
  const file = await mountAsFile(t, node.uri('g/v'), t.testdir({ mnt: {} }));
  t.equal((await stat(file)).size, 64 * MEBIBYTE);
  const bytes = randomBytes(3 * MEBIBYTE + 17);
  const handle = await open(file, 'r+');
  await handle.write(bytes, 0, bytes.length, 5 * MEBIBYTE + 3);
  await handle.sync();
  await handle.close();
  const copy = (await readFile(file)).subarray(5 * MEBIBYTE + 3, 5 * MEBIBYTE + 3 + bytes.length);
  t.ok(copy.equals(bytes), 'read back through the file');

  await t.test('with a filesystem in it', async (t) => {
    if (!(await needPrograms(t, 'mkfs.ext4', 'e2fsck'))) return;
    await mustRun('mkfs.ext4', ['-q', '-F', file]);
    const check = await run('e2fsck', ['-fn', file]);
    t.equal(check.status, 0, check.stdout + check.stderr);
  });
});
