import { mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { claimIdentity, machineDigest, makeStateFolder, readIdentity } from '../../server/state-folder.ts';
import { StateLock } from '../../server/state-lock.ts';
import { defaultStateFolder, statePaths } from '../../server/state-paths.ts';
import { listing, THIS_MACHINE, temporaryFolder } from '../fixtures/local-node.ts';

const OTHER_MACHINE = 'b'.repeat(64);
const here = { machine: THIS_MACHINE, adopt: false, nowMs: 0 };

t.test('where the state is when nobody says', async (t) => {
  const cases: [Record<string, string>, number, string][] = [
    [{ TIDEMARK_STATE: '/a', XDG_STATE_HOME: '/x', HOME: '/h' }, 0, '/a'],
    [{ TIDEMARK_STATE: '', HOME: '/h' }, 0, '/var/lib/tidemark'],
    [{ XDG_STATE_HOME: '/x', HOME: '/h' }, 1000, '/x/tidemark'],
    [{ XDG_STATE_HOME: 'relative', HOME: '/h' }, 1000, '/h/.local/state/tidemark'],
    [{ HOME: '/h' }, 1000, '/h/.local/state/tidemark'],
  ];
  for (const [environment, user, expected] of cases) t.equal(defaultStateFolder(environment, user), expected);
});

t.test('a machine is known by a digest, not by its id', async (t) => {
  const folder = await temporaryFolder(t);
  const file = join(folder, 'machine-id');
  t.equal(await machineDigest(file), null, 'no file');
  await writeFile(file, '\n');
  t.equal(await machineDigest(file), null, 'an image that was never booted');
  await writeFile(file, '0123456789abcdef0123456789abcdef\n');
  const digest = await machineDigest(file);
  t.match(digest, /^[0-9a-f]{64}$/);
  t.notMatch(digest, /0123456789abcdef/);
});

t.test('a new folder is made for its owner only, claimed once, and known again', async (t) => {
  const paths = statePaths(join(await temporaryFolder(t), 'deep', 'state'));
  t.equal(await readIdentity(paths, here), undefined);
  await makeStateFolder(paths);
  t.equal((await stat(paths.folder)).mode & 0o777, 0o700);
  const first = await claimIdentity(paths, here);
  const again = await claimIdentity(paths, { ...here, nowMs: 99 });
  t.same(again, first);
  t.equal((await stat(paths.nodeFile)).mode & 0o777, 0o600);
});

t.test('the state of another machine is refused, and can be adopted', async (t) => {
  const paths = statePaths(await temporaryFolder(t));
  const { identity } = await claimIdentity(paths, { ...here, machine: OTHER_MACHINE });
  const before = await listing(paths.folder);
  await t.rejects(readIdentity(paths, here), { code: 'in-use', message: /another machine.*--adopt/ });
  await t.rejects(claimIdentity(paths, here), { code: 'in-use' });
  t.same(await listing(paths.folder), before, 'nothing changed');

  const adopted = await claimIdentity(paths, { ...here, adopt: true });
  t.equal(adopted.adopted, true);
  t.not(adopted.identity.id, identity.id, 'two machines never share an id');
  t.equal(adopted.identity.machine, THIS_MACHINE);
  t.equal((await claimIdentity(paths, here)).adopted, false, 'once');
});

t.test('where a machine cannot be told, nobody is locked out', async (t) => {
  const paths = statePaths(await temporaryFolder(t));
  const { identity } = await claimIdentity(paths, { ...here, machine: null });
  t.same((await claimIdentity(paths, here)).identity, identity);
  t.same((await claimIdentity(paths, { ...here, machine: null })).identity, identity);
});

t.test('node.json that is not what was written there', async (t) => {
  const paths = statePaths(await temporaryFolder(t));
  const { identity } = await claimIdentity(paths, here);
  const good = await readFile(paths.nodeFile, 'utf8');
  const cases: [string, string, string, RegExp][] = [
    ['empty', '', 'corrupt', /not JSON/],
    ['cut', good.slice(0, -5), 'corrupt', /not JSON/],
    ['not an object', 'null', 'corrupt', /corrupt/],
    ['no id', JSON.stringify({ ...identity, id: undefined }), 'corrupt', /corrupt/],
    ['a wrong id', JSON.stringify({ ...identity, id: 7 }), 'corrupt', /\/id/],
    ['a wrong machine', JSON.stringify({ ...identity, machine: 'x' }), 'corrupt', /\/machine/],
    ['format 0', JSON.stringify({ ...identity, format: 0 }), 'corrupt', /\/format/],
    [
      'a newer format',
      JSON.stringify({ ...identity, format: 2, more: 1 }),
      'unsupported',
      /format 2.*knows 1/,
    ],
  ];
  for (const [what, text, code, message] of cases) {
    await writeFile(paths.nodeFile, text);
    const before = await listing(paths.folder);
    await t.rejects(readIdentity(paths, here), { code, message }, what);
    await t.rejects(
      claimIdentity(paths, { ...here, adopt: true }),
      { code },
      `${what}: --adopt is no repair`,
    );
    t.same(await listing(paths.folder), before, `${what}: nothing changed`);
  }
  await rm(paths.nodeFile);
  await mkdir(join(paths.groups, 'g'));
  await t.rejects(readIdentity(paths, here), { code: 'corrupt', message: /missing though there are groups/ });
});

t.test('a folder that cannot be used, in one line', async (t) => {
  const folder = await temporaryFolder(t);
  await writeFile(join(folder, 'file'), '');
  const inFile = statePaths(join(folder, 'file', 'state'));
  await t.rejects(readIdentity(inFile, here), {
    code: 'disk',
    message: /not a folder; name another with --state/,
  });
  await t.rejects(makeStateFolder(inFile), { code: 'disk', message: /not a folder/ });
  await t.rejects(makeStateFolder(statePaths(join(folder, 'file'))), {
    code: 'disk',
    message: /not a folder/,
  });
});

t.test('the lock is one holder’s, who is named to the next', async (t) => {
  const paths = statePaths(await temporaryFolder(t));
  const lock = await StateLock.take(paths);
  await t.rejects(StateLock.take(paths), {
    code: 'in-use',
    message: new RegExp(`served by pid ${process.pid}`),
  });
  t.equal(
    (await readFile(paths.lock, 'utf8')).trim(),
    String(process.pid),
    'the one refused changed nothing',
  );
  await lock.release();
  const next = await StateLock.take(paths);
  await next.release();
});
