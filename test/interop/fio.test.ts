import { join } from 'node:path';
import t from 'tap';
import { mustRun, run } from '../../scripts/lib/command.ts';
import { ServedNode } from '../../scripts/lib/served-node.ts';
import { needPrograms, serveForTest, shortFolder } from '../fixtures/served-node.ts';

/** What both fio runs below have in common: where, how large, and how it is verified. */
function verified(uri: string): string[] {
  return [
    '--name=verified',
    '--ioengine=nbd',
    `--uri=${uri}`,
    '--rw=randwrite',
    '--bsrange=4k-64k',
    '--size=48m',
    '--iodepth=32',
    '--fsync=64',
    '--randseed=7',
    '--verify=crc32c',
    '--verify_fatal=1',
  ];
}

t.test('fio writes at depth 32 and verifies every block', async (t) => {
  if (!(await needPrograms(t, 'fio'))) return;
  const node = await serveForTest(t);
  await node.create('g', 'v:64M');
  await mustRun('fio', [...verified(node.uri('g/v')), '--do_verify=1'], { cwd: t.testdir() });

  await t.test('and would have found a byte that changed', async (t) => {
    if (!(await needPrograms(t, 'qemu-io'))) return;
    await mustRun('qemu-io', ['-f', 'raw', '-c', 'write -P 0x77 20M 64k', node.uri('g/v')]);
    const found = await run('fio', [...verified(node.uri('g/v')), '--verify_only'], { cwd: t.testdir() });
    t.not(found.status, 0);
    t.match(found.stderr + found.stdout, /verify/i);
  });
});

t.test('what fio wrote is there after a stop and a start', async (t) => {
  if (!(await needPrograms(t, 'fio'))) return;
  const stateFolder = join(await shortFolder(t), 'state');
  const cwd = t.testdir();
  const first = await ServedNode.start({ stateFolder });
  await first.create('g', 'v:64M');
  await mustRun('fio', [...verified(first.uri('g/v')), '--do_verify=0'], { cwd });
  t.equal(await first.stop(), 0, 'a clean stop has status 0');
  const second = await serveForTest(t, { stateFolder });
  await mustRun('fio', [...verified(second.uri('g/v')), '--verify_only'], { cwd });
});
