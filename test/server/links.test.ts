/** Links and replicas as operators see them: the control API and the commands, over a group that only plays them. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { EngineError } from '../../engine/errors.ts';
import { runCli } from '../../server/cli/program.ts';
import { FakeGroup } from '../fixtures/fake-group.ts';
import { FakeFedReplica, FakeLinks } from '../fixtures/fake-links.ts';
import { startFakeNode } from '../fixtures/fake-node.ts';

const MIB = 1 << 20;
const SECRET = '0123456789abcdef'.repeat(4);
const UNIX = 'nbd+unix:///other?socket=/run/other/nbd.sock';

async function start(t: Test) {
  const group = new FakeGroup('g', { v: MIB });
  const links = new FakeLinks();
  group.links = links;
  const node = await startFakeNode(t, group);
  const tidemark = async (...args: string[]) => {
    const ended = { status: 0, out: '', complaint: '' };
    const add = (text: string) => {
      ended.out += text;
    };
    ended.status = await runCli([...args, '--state', node.folder], {
      output: { line: (text) => add(`${text}\n`), raw: add, isTerminal: false },
      complain: (text) => {
        ended.complaint += text;
      },
    });
    return ended;
  };
  const says = async (command: string, expected: string | RegExp) => {
    const ended = await tidemark(...command.split(' '));
    t.equal(ended.complaint, '', command);
    if (typeof expected === 'string') t.equal(ended.out, expected, command);
    else t.match(ended.out, expected, command);
    t.equal(ended.status, 0, command);
  };
  const refuses = async (command: string, status: number, complaint: RegExp) => {
    const ended = await tidemark(...command.split(' '));
    t.match(ended, { status, out: '', complaint }, command);
  };
  return { group, links, node, tidemark, says, refuses };
}

t.test('the life of a link, as typed', async (t) => {
  const { links, node, says, tidemark } = await start(t);
  await says('link list g', 'g has no links\n');
  await says(`link add g ${UNIX}`, `added link link-1 from g to ${UNIX}\n`);
  t.match(links.list, [
    {
      name: 'link-1',
      mode: 'async',
      onLost: 'go-on',
      onFull: 'dcm',
      limitBytes: 0,
      limitSeconds: 0,
      rateBytesPerSecond: 0,
    },
  ]);
  const file = join(node.folder, 'peer');
  await writeFile(file, `${SECRET}\n`);
  await says(
    `link add g nbd://10.0.0.2:10810/h --name far --mode sync --on-lost block --on-full detach --limit 64M --limit-seconds 15m --rate 10M --secret-file ${file} --assume-equal`,
    'added link far from g to nbd://10.0.0.2:10810/h\n',
  );
  t.match(links.list[1], {
    name: 'far',
    mode: 'sync',
    onLost: 'block',
    onFull: 'detach',
    limitBytes: 64 * MIB,
    limitSeconds: 900,
    rateBytesPerSecond: 10 * MIB,
  });
  t.strictSame(links.assumedEqual, ['far']);
  t.equal(node.linkSecrets.get('far')?.toString('hex'), SECRET);
  await says('link set g far --mode memory --rate 1M', 'changed link far of g\n');
  t.match(links.list[1], { mode: 'memory', rateBytesPerSecond: MIB, onLost: 'block' });
  for (const [what, done, state] of [
    ['pause', 'paused', 'paused'],
    ['resume', 'resumed', 'connecting'],
    ['detach', 'detached', 'detached'],
  ]) {
    await says(`link ${what} g far`, `${done} link far of g\n`);
    t.equal(links.list[1]?.state, state);
  }
  await says('resync g --plan --link far', 'link far would copy 16 regions, at most 64 KiB\n');
  t.strictSame(links.resynced, []);
  await says('resync g', /^link link-1 copies 16 regions, .*\nlink far copies 16 regions, .*\n$/);
  await says('resync g --link far --full', /^link far copies \d+ regions, .*\n$/);
  t.strictSame(links.resynced, [
    { name: 'link-1', full: false },
    { name: 'far', full: false },
    { name: 'far', full: true },
  ]);
  links.change('far', { state: 'detached' });
  const listed = JSON.parse((await tidemark('link', 'list', 'g', '--json')).out);
  t.match(listed, {
    links: [
      { name: 'link-1', reason: null },
      { name: 'far', state: 'detached' },
    ],
  });
  t.notMatch(JSON.stringify(await node.client.group('g')), SECRET, 'no status tells a secret');
  await says('link remove g far', 'removed link far of g\n');
  t.equal(node.linkSecrets.size, 0);
  t.match(
    node.served.events.since(0).map(({ type }) => type),
    ['link.added', 'link.added', 'link.removed'],
  );
});

t.test('status tells where a link stands, and what it waits for', async (t) => {
  const { links, says, node } = await start(t);
  await says(`link add g ${UNIX} --name a`, /added/);
  links.change('a', {
    state: 'resync',
    lagBytes: 3 * MIB,
    lagSeconds: 2.25,
    bytesShipped: 5 * MIB,
    regionsResynced: 4,
    bytesResynced: 16_384,
    waitsFor: 'the secondary to hold',
    reason: 'the log did not reach back',
    lastRestore: { lsn: 99, path: 'by reference' },
  });
  await says(
    'status g',
    /LINK +TO .*\ng:a +nbd\+unix:.* async +resync +3 MiB +2\.3 +16 +5 MiB +4 \(16 KiB\)\nlink a: the log did not reach back; waits for the secondary to hold; the restore at LSN 99 went by reference/,
  );
  t.match((await node.client.group('g')).links, [
    { name: 'a', state: 'resync', position: { baseLsn: 0, logLsn: null } },
  ]);
});

t.test('what no link can be is refused, and leaves nothing behind', async (t) => {
  const { group, links, node, refuses, says } = await start(t);
  await refuses('link add g nbd://10.0.0.2/', 1, /over TCP .*--secret-file/);
  await refuses('link add g nbds://10.0.0.2/', 1, /TLS/);
  await refuses('link add g http://10.0.0.2/', 2, /NBD URI/);
  await refuses(`link add g ${UNIX} --mode eventually`, 2, /mode/);
  await refuses(`link add g ${UNIX} --limit-seconds soon`, 2, /90s, 15m/);
  await refuses(`link add g ${UNIX} --name a/b`, 2, /cannot name a link/);
  await refuses(`link add g ${UNIX} --secret-file ${node.folder}/none`, 1, /none/);
  await writeFile(join(node.folder, 'bad'), 'secret');
  await refuses(`link add g ${UNIX} --secret-file ${node.folder}/bad`, 1, /64 hex digits/);
  await refuses('link set g a --mode sync', 1, /no link "a"/);
  await refuses('link remove g a', 1, /no link "a"/);
  await refuses('link pause h a', 1, /no group "h"/);
  await refuses('resync g', 1, /g has no links/);
  t.equal(links.list.length, 0);
  links.refusal = new EngineError('invalid', 'the ring is too small for a link');
  await t.rejects(node.client.addLink('g', { uri: 'nbd://h', secret: SECRET }), {
    code: 'invalid',
    message: /too small/,
  });
  t.equal(node.linkSecrets.size, 0);
  links.refusal = undefined;
  await says(`link add g ${UNIX} --name a`, /added/);
  await refuses(`link add g ${UNIX} --name a`, 1, /has a link a already/);
  await refuses('link set g a', 2, /nothing to set/);
  await refuses('resync g --link b', 1, /no link "b"/);
  await refuses('link set g a --uri nbd://10.0.0.2', 1, /--secret-file/);
  await t.rejects(node.client.addLink('g', { uri: UNIX, limitBytes: -1 }), { code: 'invalid' });
  await t.rejects(node.client.addLink('g', { uri: UNIX, more: 1 } as never), { code: 'invalid' });
  t.equal(links.list.length, 1);
  group.links = undefined;
  await refuses(`link add g ${UNIX} --name b`, 1, /has no links/);
  await says('link list g', 'g has no links\n');
});

t.test('a secondary: what feeds it, freezing and thawing', async (t) => {
  const { group, says, refuses, node } = await start(t);
  await refuses('freeze g', 1, /is a primary here/);
  const replica = new FakeFedReplica();
  group.replica = replica;
  group.role = 'secondary';
  await says('status g', /group g has not met its primary; shows LSN 32\n/);
  replica.upstream = { linkName: 'far', memberId: 'm', path: ['p'] };
  replica.applyDelaySeconds = 90;
  replica.told = { ...replica.told, resyncing: true, needs: 3, heldBack: 'it is frozen' };
  await says('freeze g', 'g is frozen\n');
  t.equal(replica.frozen, true);
  await says(
    'status g',
    /group g takes what link far sends, which is not connected; shows LSN 32; is fed by a secondary, with 2 nodes above it; IS BEING RESYNCED.*; has asked for regions; is frozen; applies 90 s late; holds back: it is frozen\n/,
  );
  await says('thaw g', 'g goes on\n');
  t.match((await node.client.group('g')).replica, {
    upstream: { link: 'far', memberId: 'm', path: ['p'] },
    frozen: false,
    needsRegions: true,
  });
});

t.test('restore --plan forecasts each link', async (t) => {
  const { links, says, node } = await start(t);
  await says('snapshot create g@a', /created/);
  links.forecasts = [
    { link: 'near', path: 'by reference', bytes: 512, note: undefined },
    { link: 'far', path: 'by regions', bytes: 8192, note: 'writers are held during the resync' },
  ];
  await says(
    'restore g@a --plan',
    /\nlink near: by reference, 512 B would travel\nlink far: by regions, 8 KiB would travel; writers are held during the resync\n$/,
  );
  t.match((await node.client.planRestore('g', 'a', undefined)).links, [
    { note: null },
    { path: 'by regions' },
  ]);
});

t.test('a delay goes with a replica', async (t) => {
  const { refuses } = await start(t);
  await refuses('create h --volume v:1M --apply-delay 5m', 2, /--apply-delay goes with --replica/);
});
