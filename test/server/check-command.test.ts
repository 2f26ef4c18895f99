import { open } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { tidemark } from '../fixtures/command-line.ts';
import { startLocal, temporaryFolder } from '../fixtures/local-node.ts';

t.test('check looks at the files of a stopped node', async (t) => {
  const folder = await temporaryFolder(t);
  const on = ['--state', folder];
  const { node } = await startLocal(t, folder);
  await tidemark('create', 'g', '--volume', 'v:16M', '--log-size', '1M', ...on);
  await tidemark('snapshot', 'create', 'g@s', ...on);

  const running = await tidemark('check', 'g', ...on);
  t.match(running, { status: 1, out: '', complaint: /^tidemark: group g is open: stop its node/ });
  await node.stop();

  const sound = await tidemark('check', 'g', ...on);
  t.match(sound, { status: 0, out: /group g: ok, a node opens it\n$/, complaint: '' });
  const json = JSON.parse((await tidemark('check', 'g', '--json', ...on)).out) as { severity: string };
  t.equal(json.severity, 'ok');

  const unknown = await tidemark('check', 'h', ...on);
  t.match(unknown, { status: 1, complaint: /^tidemark: there is no group h in / });
});

t.test('check tells damage from what is sound, by its exit status too', async (t) => {
  const folder = await temporaryFolder(t);
  const on = ['--state', folder];
  const { node } = await startLocal(t, folder);
  await tidemark('create', 'g', '--volume', 'v:16M', '--log-size', '1M', ...on);
  await node.stop();
  const file = await open(join(folder, 'groups', 'g', 'maps', 'v.map'), 'r+');
  await file.write(Buffer.from([0xff, 0xff, 0xff, 0xff]), 0, 4, 8192);
  await file.close();
  const damaged = await tidemark('check', 'g', ...on);
  t.equal(damaged.status, 1);
  t.match(damaged.out, /maps\/v\.map/);
  t.match(damaged.out, /→ /, 'and says what can be done');
});
