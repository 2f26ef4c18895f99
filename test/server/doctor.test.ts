import { readdir } from 'node:fs/promises';
import { release } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { runDoctor } from '../../server/kernel/doctor.ts';
import { findModule } from '../../server/kernel/kernel-module.ts';
import { machineWith } from '../fixtures/machine-files.ts';

t.test('a machine with all that is needed', async (t) => {
  const { root, paths } = await machineWith(t, {
    'sys/module/nbd/parameters/max_part': '8\n',
    'sys/block/nbd0/size': '0\n',
    'sys/block/nbd1/size': '8\n',
    'sys/block/nbd1/pid': '5\n',
    'dev/nbd0': '',
    'dev/nbd1': '',
    'proc/self/status': 'CapEff:\t00000000ffffffff\n',
    'state/keep': '',
  });
  const findings = await runDoctor(join(root, 'state'), paths);
  t.same(
    findings.filter(({ ok, neededFor }) => !ok && neededFor !== 'nothing'),
    [],
  );
  t.match(
    findings.find(({ check }) => check === 'nbd devices'),
    { detail: '2, of which 1 free' },
  );
  t.same(await readdir(join(root, 'state')), ['keep'], 'nothing is left behind');
});

t.test('what is missing is named, with what to do', async (t) => {
  const { root, paths } = await machineWith(t, { 'proc/self/status': 'CapEff:\t0\n', 'file/is-a-file': '' });
  const findings = await runDoctor(join(root, 'file/is-a-file/state'), paths);
  const of = (check: string) => findings.find((finding) => finding.check === check);
  t.match(of('state folder'), { ok: false, neededFor: 'serve', remedy: /--state/ });
  t.match(of('nbd devices'), { ok: false, neededFor: 'attach', remedy: /load the nbd module/ });
  t.match(of('rights'), { ok: false, neededFor: 'attach', remedy: /root/ });
  t.match(of('nbd module'), { ok: false, neededFor: 'attach' });
  for (const finding of findings)
    t.notMatch(finding.detail + (finding.remedy ?? ''), /\n/, `${finding.check}: one line`);
});

t.test('a state folder that is still to be made is looked for above', async (t) => {
  const { root, paths } = await machineWith(t, { 'state/keep': '' });
  const findings = await runDoctor(join(root, 'state/a/b'), paths);
  t.match(
    findings.find(({ check }) => check === 'state folder'),
    { ok: true, detail: /to be made in/ },
  );
});

t.test('devices that a container does not show', async (t) => {
  const { root, paths } = await machineWith(t, { 'sys/block/nbd0/size': '0\n', 'dev/null': '' });
  const findings = await runDoctor(root, paths);
  t.match(
    findings.find(({ check }) => check === 'nbd devices'),
    { ok: false, remedy: /container/ },
  );
});

t.test('a module is loaded, built in, there to load, or absent', async (t) => {
  const dep = `kernel/drivers/block/nbd.ko.xz: kernel/lib/x.ko\nkernel/fs/notnbd.ko:\n`;
  const cases = [
    { files: { 'sys/module/nbd/x': '', [`m/${release()}/modules.dep`]: dep }, kind: 'loaded' },
    { files: { [`m/${release()}/modules.dep`]: dep }, kind: 'loadable' },
    {
      files: { 'sys/module/nbd/x': '', [`m/${release()}/modules.builtin`]: 'kernel/drivers/block/nbd.ko\n' },
      kind: 'built-in',
    },
    {
      files: {
        [`m/${release()}/modules.dep`]: 'kernel/fs/notnbd.ko:\nkernel/nbdx.ko: kernel/drivers/nbdy.ko\n',
      },
      kind: 'absent',
    },
  ];
  for (const { files, kind } of cases) {
    const { root, paths } = await machineWith(t, files);
    t.match(await findModule(paths, 'nbd', join(root, 'm')), { kind });
  }
});
