import { mkdir, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { join, resolve } from 'node:path';
import t from 'tap';
import { volumeArgument } from '../../server/cli/arguments.ts';
import { formatFindings } from '../../server/cli/doctor.ts';
import { formatStatus } from '../../server/cli/status.ts';
import { formatTable } from '../../server/cli/table.ts';
import type { NodeStatus } from '../../server/control/schemas.ts';
import { machineDigest } from '../../server/state-folder.ts';
import { tidemark } from '../fixtures/command-line.ts';
import { listing, startLocal, temporaryFolder } from '../fixtures/local-node.ts';

t.test('the life of a group, as typed', async (t) => {
  const folder = await temporaryFolder(t);
  const { devices } = await startLocal(t, folder);
  const file = join(await temporaryFolder(t), 'w, odd.img');
  const on = ['--state', folder];
  const created = await tidemark(
    'create',
    'g',
    '--volume',
    'v:1G',
    '--volume',
    `w:10M,file=${file}`,
    '--region-size',
    '1M',
    ...on,
  );
  t.same(created, {
    status: 0,
    out: `created g/v, 1 GiB, at nbd+unix:///g/v?socket=${folder}/nbd.sock\ncreated g/w, 10 MiB, at nbd+unix:///g/w?socket=${folder}/nbd.sock\n`,
    complaint: '',
  });
  t.same(
    (await tidemark('attach', 'g/v', '--connections', '2', '--timeout', '5', '--read-only', ...on)).out,
    '/dev/nbd0\n',
  );
  t.match(devices.requests, [{ exportName: 'g/v', connections: 2, timeoutSeconds: 5, readOnly: true }]);
  t.match(
    (await tidemark('status', ...on)).out,
    /g\/v +primary +1 GiB +1 MiB +0 B +0\/1024 +0 +\/dev\/nbd0 +ok/,
  );
  const json = JSON.parse((await tidemark('status', 'g', '--json', ...on)).out) as NodeStatus;
  t.match(json.groups, [
    {
      name: 'g',
      role: 'primary',
      volumes: [{ name: 'v', size: 2 ** 30, regionSize: 2 ** 20 }, { name: 'w' }],
      snapshots: [],
      operations: [],
      links: [],
      replica: null,
    },
  ]);
  t.match(await tidemark('delete', 'g', ...on), {
    status: 1,
    complaint: 'tidemark: group g is attached to /dev/nbd0: detach first\n',
  });
  t.same((await tidemark('detach', '/dev/nbd0', ...on)).out, 'detached /dev/nbd0\n');
  t.same(await tidemark('delete', 'g', ...on), { status: 0, out: 'deleted g\n', complaint: '' });
  t.match((await tidemark('status', ...on)).out, /no groups; make one with/);
  const lines = (await tidemark('events', '--json', ...on)).out.trim().split('\n');
  t.same(
    lines.map((line) => (JSON.parse(line) as { type: string }).type),
    ['node.started', 'group.created', 'group.deleted'],
  );
  t.match((await tidemark('events', ...on)).out, /^\d{4}-.*Z {2}node\.started {8}node /);
});

t.test('what is wrong gets one line, the right status, and changes nothing', async (t) => {
  const folder = await temporaryFolder(t);
  const { node } = await startLocal(t, folder, { machine: await machineDigest() });
  await node.createGroup({ name: 'g', volumes: [{ name: 'v', size: 2 ** 20 }] });
  const elsewhere = await temporaryFolder(t);
  await mkdir(join(elsewhere, 'deep'));
  const before = await listing(folder);
  const volume = ['--volume', 'v:1M'];
  const manyVolumes = Array.from({ length: 65 }, (_, index) => ['--volume', `v${index}:1M`]).flat();
  const cases: [string[], number, RegExp][] = [
    // Wrong usage: nothing was asked of the node.
    [['no-such-command'], 2, /unknown command/],
    [['create', ...volume], 2, /missing required argument 'group'/],
    [['create', 'h'], 2, /--volume/],
    [['create', 'h', ...volume, '--loud'], 2, /unknown option '--loud'/],
    [['create', 'h', 'i', ...volume], 2, /too many arguments/],
    [['create', 'h/i', ...volume], 2, /cannot name a group/],
    [['create', '', ...volume], 2, /cannot name a group/],
    [['create', '../h', ...volume], 2, /cannot name a group/],
    [['create', 'h', '--volume', 'v'], 2, /write NAME:SIZE/],
    [['create', 'h', '--volume', 'v:'], 2, /is not a size/],
    [['create', 'h', '--volume', 'v:ten'], 2, /'ten' is not a size/],
    [['create', 'h', '--volume', 'v:10GB'], 2, /ambiguous: write 10GiB/],
    [['create', 'h', '--volume', 'v:0'], 2, /has no size/],
    [['create', 'h', '--volume', 'v:-1M'], 2, /is not a size/],
    [['create', 'h', '--volume', 'v@1:1M'], 2, /cannot name a volume/],
    [['create', 'h', '--volume', 'v:1M,path=/x'], 2, /write NAME:SIZE/],
    [['create', 'h', '--volume', 'v:1M,file='], 2, /write NAME:SIZE/],
    [['create', 'h', ...volume, '--region-size', 'big'], 2, /--region-size.*'big' is not a size/],
    [['create', 'h', '--volume', 'v:1000'], 2, /not a multiple of 512/],
    [['create', 'h', '--volume', 'v:5P'], 2, /above the limit/],
    [['create', 'h', ...volume, '--region-size', '65537'], 2, /power of two/],
    [['create', 'h', ...volume, '--region-size', '0'], 2, /power of two/],
    [['create', 'h', ...volume, ...volume], 2, /two volumes are named v/],
    [['create', 'h', ...manyVolumes], 2, /a group has at most 64 volumes/],
    [['attach', 'g'], 2, /write GROUP\/VOLUME/],
    [['attach', 'g/v/w'], 2, /write GROUP\/VOLUME/],
    [['attach', 'g/v', 'nbd0'], 2, /write \/dev\/nbd0/],
    [['attach', 'g/v', '--connections', '0'], 2, /from 1 to 16/],
    [['attach', 'g/v', '--connections', '1.5'], 2, /from 1 to 16/],
    [['attach', 'g/v', '--timeout', 'long'], 2, /from 0 to 86400/],
    [['detach'], 2, /missing required argument/],
    [['detach', '/dev/sda'], 2, /write \/dev\/nbd0/],
    [['serve', '--listen', 'http://localhost'], 2, /--listen.*not a usable NBD URI/],
    [['serve', '--listen', 'nbds://localhost'], 2, /TLS/],
    [['serve', '--listen', 'nbd://localhost/g/v'], 2, /names an export/],
    [['serve', '--listen', 'nbd+unix:///?socket=here.sock'], 2, /not an absolute path/],
    [['serve', '--advertise', 'here'], 2, /--advertise.*not a usable NBD URI/],
    [['serve', '--log-level', 'loud'], 2, /Allowed choices are trace, debug/],
    // Refused by what is there.
    [['create', 'g', ...volume], 1, /there is a group g already/],
    [['create', 'h', '--volume', `v,file=${elsewhere}/none.img`], 1, /none\.img/],
    [['create', 'h', '--volume', `v:1M,file=${elsewhere}/none/v.img`], 1, /none/],
    [['create', 'h', '--volume', `v:1M,file=${elsewhere}/deep`], 1, /deep/],
    [['delete', 'none'], 1, /there is no group "none"/],
    [['status', 'none'], 1, /there is no group "none"/],
    [['attach', 'none/v'], 1, /there is no group "none"/],
    [['attach', 'g/none'], 1, /there is no volume "g\/none"/],
    [['detach', '/dev/nbd7'], 1, /not attached by this node/],
    [['serve'], 1, /is being served by pid \d+/],
    [['serve', '--config', join(folder, 'none.toml')], 1, /there is no configuration file/],
  ];
  for (const [args, status, message] of cases) {
    const named = args[0] === 'no-such-command' ? args : [...args, '--state', folder];
    const ended = await tidemark(...named);
    const what = args.join(' ');
    t.equal(ended.status, status, what);
    t.match(ended.complaint, message, what);
    t.match(ended.complaint, /^tidemark: [^\n]+\n$/, `${what}: one line`);
    t.equal(ended.out, '', `${what}: nothing on standard output`);
    t.same(await listing(folder), before, `${what}: nothing changed`);
  }
});

t.test('serve on a folder that it cannot have', async (t) => {
  const folder = await temporaryFolder(t);
  await writeFile(join(folder, 'file'), '');
  await mkdir(join(folder, 'corrupt'));
  await writeFile(join(folder, 'corrupt', 'node.json'), '{"format":1');
  await mkdir(join(folder, 'newer'));
  await writeFile(join(folder, 'newer', 'node.json'), '{"format":7}');
  await mkdir(join(folder, 'foreign'));
  await mkdir(join(folder, 'locked', 'lock'), { recursive: true });
  const foreign = {
    format: 1,
    id: '00000000-0000-4000-8000-000000000000',
    createdAt: 'then',
    machine: 'b'.repeat(64),
  };
  await writeFile(join(folder, 'foreign', 'node.json'), JSON.stringify(foreign));
  const before = await listing(folder);
  const cases: [string, RegExp][] = [
    ['file', /file: it is not a folder|part of its path is not a folder/],
    ['file/below', /a part of its path is not a folder/],
    ['corrupt', /corrupt.*node\.json is corrupt: it is not JSON/],
    ['newer', /format 7/],
    ['locked', /locked\/lock is a folder, where the lock file belongs/],
    ['foreign', /the state of another machine.*--adopt/],
    ['x'.repeat(120), /bytes, Linux takes 107/],
    ['/proc/none', /cannot use the state folder/],
  ];
  for (const [name, message] of cases) {
    const ended = await tidemark('serve', '--state', resolve(folder, name));
    t.equal(ended.status, 1, name);
    t.match(ended.complaint, message, name);
    t.match(ended.complaint, /^tidemark: [^\n]+\n$/, `${name}: one line`);
    t.same(await listing(folder), before, `${name}: nothing changed`);
  }
});

t.test('a listener that cannot be had leaves no state folder behind', async (t) => {
  const folder = await temporaryFolder(t);
  const taken = createServer();
  await new Promise<void>((resolve) => taken.listen({ host: '127.0.0.1', port: 0 }, resolve));
  t.teardown(() => taken.close());
  const { port } = taken.address() as AddressInfo;
  await writeFile(join(folder, 'file'), '');
  const before = await listing(folder);
  const cases: [string[], RegExp][] = [
    [['--listen', `nbd://127.0.0.1:${port}`], /another process listens there/],
    [['--listen', `nbd+unix:///?socket=${folder}/none/nbd.sock`], /its folder does not exist/],
    [['--listen', `nbd+unix:///?socket=${folder}/file`], /is not a socket/],
    [['--control', `${folder}/file`], /is not a socket/],
  ];
  for (const [flags, message] of cases) {
    const ended = await tidemark('serve', '--state', join(folder, 'new'), ...flags);
    t.match(ended, { status: 1, complaint: message }, flags.join(' '));
    t.same(await listing(folder), before, `${flags.join(' ')}: nothing changed`);
  }
});

t.test('without a node, every command says how to start one', async (t) => {
  const folder = await temporaryFolder(t);
  const commands = [
    ['status'],
    ['events'],
    ['delete', 'g'],
    ['create', 'g', '--volume', 'v:1M'],
    ['attach', 'g/v'],
    ['detach', '/dev/nbd0'],
  ];
  for (const command of commands) {
    const ended = await tidemark(...command, '--state', folder);
    t.same(ended, {
      status: 1,
      out: '',
      complaint: `tidemark: no node at ${folder}/control.sock; start one with: tidemark serve --state ${folder}\n`,
    });
  }
  const long = await tidemark('status', '--state', `/${'x'.repeat(120)}`);
  t.match(long, { status: 1, complaint: /the socket path .* has 134 bytes, Linux takes 107/ });
});

t.test('help and version are answers, not complaints', async (t) => {
  for (const args of [['--help'], ['create', '--help'], ['--version']]) {
    const ended = await tidemark(...args);
    t.equal(ended.status, 0);
    t.equal(ended.complaint, '');
    t.not(ended.out, '');
  }
});

t.test('volumes as they are written', async (t) => {
  t.same(volumeArgument('v:1M'), [{ name: 'v', size: 2 ** 20 }]);
  t.same(volumeArgument('v:512,file=/a/b'), [{ name: 'v', size: 512, file: '/a/b' }]);
  t.same(volumeArgument('v,file=/a,b:c=d'), [{ name: 'v', file: '/a,b:c=d' }], 'a path goes to the end');
  t.same(volumeArgument('v,file=a', [{ name: 'u', size: 1 }]), [
    { name: 'u', size: 1 },
    { name: 'v', file: resolve('a') },
  ]);
});

t.test('tables and findings are aligned', async (t) => {
  t.equal(
    formatTable(
      [{ title: 'A' }, { title: 'LONG', align: 'right' }, { title: 'C' }],
      [
        ['abc', '1', ''],
        ['d', '12345', 'x'],
      ],
    ),
    'A     LONG  C\nabc      1\nd    12345  x',
  );
  t.equal(
    formatFindings([
      { check: 'module', ok: false, detail: 'not loaded', remedy: 'modprobe nbd', neededFor: 'attach' },
      { check: 'a', ok: true, detail: 'fine', neededFor: 'serve' },
      { check: 'fio', ok: false, detail: 'not installed', neededFor: 'nothing' },
    ]),
    'MISSING  module  not loaded\n                 → modprobe nbd\nok       a       fine\nnote     fio     not installed',
  );
});

t.test('what failed stands out in the status', async (t) => {
  const node = {
    id: 'n',
    version: '1',
    pid: 1,
    state: '/s',
    startedAt: 'then',
    listen: [],
    advertise: 'nbd://x',
  };
  const empty = {
    id: null,
    reason: null,
    role: null,
    createdAt: null,
    term: null,
    generation: null,
    mode: null,
    failure: null,
    stall: null,
    log: null,
    counters: null,
    volumes: [],
    snapshots: [],
    operations: [],
    links: [],
    replica: null,
  };
  const volume = {
    name: 'v',
    export: 'g/v',
    uri: null,
    size: 100_000,
    regionSize: 65_536,
    writtenRegions: 2,
    totalRegions: 2,
    readOnly: false,
    sessions: 0,
    devices: [],
    failure: 'EIO',
  };
  const text = formatStatus({
    node,
    groups: [
      { ...empty, name: 'f', state: 'failed', reason: 'its record is torn' },
      { ...empty, name: 'g', state: 'open', role: 'primary', volumes: [volume] },
    ],
    sessions: [],
    devices: [],
  });
  t.match(text, /group f FAILED: its record is torn/);
  t.match(text, /g\/v .* 97\.7 KiB +2\/2 +0 +- +FAILED: EIO/, 'written is never more than the size');
  t.match(text, /advertised as nbd:\/\/x/);
});
