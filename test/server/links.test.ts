/** Links and replicas as operators see them: the control API and the commands, over a group that only plays them. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { EngineError } from '../../engine/errors.ts';
import { runCli } from '../../server/cli/program.ts';
import type { VerificationView } from '../../server/link-control.ts';
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
      resync: 'auto',
      orderedOnly: false,
      limitBytes: 0,
      limitSeconds: 0,
      rateBytesPerSecond: 0,
    },
  ]);
  const file = join(node.folder, 'peer');
  await writeFile(file, `${SECRET}\n`);
  await says(
    `link add g nbd://10.0.0.2:10810/h --name far --mode sync --on-lost block --on-full detach --resync manual --ordered-only --limit 64M --limit-seconds 15m --rate 10M --secret-file ${file} --assume-equal`,
    'added link far from g to nbd://10.0.0.2:10810/h\n',
  );
  t.match(links.list[1], {
    name: 'far',
    mode: 'sync',
    onLost: 'block',
    onFull: 'detach',
    resync: 'manual',
    orderedOnly: true,
    limitBytes: 64 * MIB,
    limitSeconds: 900,
    rateBytesPerSecond: 10 * MIB,
  });
  t.strictSame(links.assumedEqual, ['far']);
  t.equal(node.linkSecrets.get('far')?.toString('hex'), SECRET);
  await says(
    'link set g far --mode memory --rate 1M --resync auto --no-ordered-only',
    'changed link far of g\n',
  );
  t.match(links.list[1], { mode: 'memory', rateBytesPerSecond: MIB, onLost: 'block' });
  t.match(links.list[1], { resync: 'auto', orderedOnly: false });
  for (const [what, done, state] of [
    ['pause', 'paused', 'paused'],
    ['resume', 'resumed', 'connecting'],
    ['detach', 'detached', 'detached'],
  ]) {
    await says(`link ${what} g far`, `${done} link far of g\n`);
    t.equal(links.list[1]?.state, state);
  }
  links.change('far', { state: 'streaming' });
  await says('resync g --plan --link far', 'link far would copy 16 regions, at most 64 KiB\n');
  t.strictSame(links.resynced, []);
  await says('resync g', /^link link-1 copies 16 regions, .*\nlink far copies 16 regions, .*\n$/);
  await says('resync g --link far --full', /^link far copies \d+ regions, .*\n$/);
  links.change('link-1', { state: 'paused' });
  links.change('far', { state: 'connecting', reason: 'nobody answers' });
  links.resyncsTo = 'connecting';
  await says(
    'resync g',
    /^link link-1 is paused, and is left out: resume it first\nlink far is not connected: nobody answers; it is tried now, and copies 16 regions, .*\n$/,
  );
  links.resyncsTo = 'resync';
  t.strictSame(links.resynced, [
    { name: 'link-1', full: false },
    { name: 'far', full: false },
    { name: 'far', full: true },
    { name: 'far', full: false },
  ]);
  links.change('far', { state: 'detached', reason: undefined });
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
  t.same(node.served.events.since(0), [], 'what is told of links the group tells');
});

t.test('status tells where a link stands, and what it waits for', async (t) => {
  const { links, says, node } = await start(t);
  await says(`link add g ${UNIX} --name a`, /added/);
  links.change('a', {
    state: 'resync',
    lagBytes: 3 * MIB,
    lagSeconds: 2.25,
    lagRecords: 7,
    resyncedBytesPerSecond: 2 * MIB + 0.4,
    secondsLeft: 239.5,
    bytesShipped: 5 * MIB,
    regionsResynced: 4,
    bytesResynced: 16_384,
    waitsFor: 'the secondary to hold',
    reason: 'the log did not reach back',
    lastRestore: { lsn: 99, path: 'by reference' },
  });
  await says(
    'status g',
    /LINK +TO .*\ng:a +nbd\+unix:.* async +resync +3 MiB +7 +2\.3 +16 +5 MiB +4 \(16 KiB\) +2 MiB\/s +4 min\nlink a: the log did not reach back; waits for the secondary to hold; the restore at LSN 99 went by reference/,
  );
  t.match((await node.client.group('g')).links, [
    {
      name: 'a',
      state: 'resync',
      inMode: true,
      position: { baseLsn: 0, logLsn: null },
      lagRecords: 7,
      secondsLeft: 239.5,
    },
  ]);
  links.change('a', {
    state: 'streaming',
    dcmRegions: 0,
    lagRecords: undefined,
    shippedBytesPerSecond: undefined,
    secondsLeft: 9000,
    resync: 'manual',
    orderedOnly: true,
  });
  await says(
    'status g',
    / +- +2\.3 +0 +5 MiB +4 \(16 KiB\) +- +2\.5 h\nlink a: .*; it is resynced by hand; it takes/,
  );
  links.change('a', { secondsLeft: 12.1 });
  await says('link list g', / 13 s\n/);
  t.match((await node.client.links('g'))[0], { lagRecords: null, shippedBytesPerSecond: null });
  const acknowledging = { inMode: false, reason: 'it is not connected', heldRequests: 3, heldSeconds: 2.04 };
  links.change('a', { mode: 'sync', acknowledging });
  await says('status g', /NOT IN MODE sync: it is not connected, and writers go on as if it were async/);
  links.change('a', { onLost: 'block' });
  await says(
    'status g',
    /NOT IN MODE sync: it is not connected, and WRITERS ARE HELD \(3 wait, for 2\.0 s\)/,
  );
  t.match((await node.client.links('g'))[0], {
    inMode: false,
    notInModeBecause: 'it is not connected',
    heldRequests: 3,
    heldSeconds: 2.04,
  });
});

t.test('what no link can be is refused, and leaves nothing behind', async (t) => {
  const { group, links, node, refuses, says } = await start(t);
  await refuses('link add g nbd://10.0.0.2/', 1, /over TCP .*--secret-file/);
  await refuses('link add g nbds://10.0.0.2/', 1, /TLS/);
  await refuses('link add g http://10.0.0.2/', 2, /NBD URI/);
  await refuses(`link add g ${UNIX} --mode eventually`, 2, /mode/);
  await refuses(`link add g ${UNIX} --limit-seconds soon`, 2, /90s, 15m/);
  await refuses(`link add g ${UNIX} --resync never`, 2, /auto, manual/);
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

t.test('a secret changes with its link, or not at all', async (t) => {
  const { links, node } = await start(t);
  const other = SECRET.split('').reverse().join('');
  const secretOf = (name: string) => node.linkSecrets.get(name)?.toString('hex');
  await node.client.addLink('g', { uri: 'nbd://10.0.0.2', name: 'a', secret: SECRET });
  links.refusal = new EngineError('unsupported', 'that mode is not there yet');
  await t.rejects(node.client.setLink('g', 'a', { mode: 'sync', secret: other }), { code: 'unsupported' });
  t.equal(secretOf('a'), SECRET, 'as before');
  links.refusal = undefined;
  await node.client.setLink('g', 'a', { rateBytesPerSecond: 1, secret: other });
  t.equal(secretOf('a'), other);
  const add = (secret: string) => node.client.addLink('g', { uri: 'nbd://10.0.0.3', name: 'b', secret });
  const both = await Promise.allSettled([add(SECRET), add(other)]);
  t.same(both.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
  t.equal(secretOf('b'), both[0]?.status === 'fulfilled' ? SECRET : other, 'that of who was first');
});

t.test('a secondary: what feeds it, freezing and thawing', async (t) => {
  const { group, says, refuses, node } = await start(t);
  await refuses('freeze g', 1, /is a primary here/);
  const replica = new FakeFedReplica();
  group.replica = replica;
  group.role = 'secondary';
  await says(
    'status g',
    /group g has not met its primary; shows LSN 32; LSN end 64, durable 64, horizon 32, applied 32\n/,
  );
  replica.upstream = { linkName: 'far', memberId: 'm', path: ['p'] };
  replica.applyDelaySeconds = 90;
  replica.told = { ...replica.told, resyncing: true, needs: 3, heldBack: 'it is frozen' };
  await says('freeze g', 'g is frozen\n');
  t.equal(replica.frozen, true);
  await says(
    'status g',
    /group g takes what link far of member m sends, which is not connected; shows LSN 32; .*; is fed by a secondary, with 2 nodes above it; IS BEING RESYNCED: 0 regions, 0 B have come; has asked for regions; is frozen; applies 90 s late; holds back: it is frozen\n/,
  );
  replica.received = { regions: 3, bytes: 3 * 4096 };
  replica.shows = { image: 'guard', lsn: 30, untilMs: undefined };
  await says(
    'status g',
    /shows the image from before the resync, LSN 30, until it is complete; .* RESYNCED: 3 regions, 12 KiB/,
  );
  replica.shows = { image: 'guard', lsn: 30, untilMs: 1_700_000_000_000 };
  await says('status g', /LSN 30, until 2023-11-14T22:13:20\.000Z;/);
  replica.shows = { image: 'nothing', lsn: null, untilMs: undefined };
  await says('status g', /shows nothing yet;/);
  await says('thaw g', 'g goes on\n');
  t.match((await node.client.group('g')).replica, {
    upstream: { link: 'far', memberId: 'm', path: ['p'] },
    frozen: false,
    needsRegions: true,
    shows: { image: 'nothing', lsn: null, until: null },
    regionsReceived: 3,
  });
  await says('replica set g --apply-delay 15m', 'g applies what comes 900 s later\n');
  t.equal(replica.applyDelaySeconds, 900);
  await says('replica set g --apply-delay 0', 'g applies what comes at once\n');
  await refuses('replica set g', 2, /--apply-delay/);
  await refuses('replica set g --apply-delay soon', 2, /90s, 15m/);
  group.replica = undefined;
  await refuses('replica set g --apply-delay 1', 1, /is a primary here/);
});

t.test('restore --plan forecasts each link', async (t) => {
  const { links, says, node } = await start(t);
  await says('snapshot create g@a', /created/);
  links.forecasts = [
    { link: 'near', path: 'by reference', bytes: 512, note: undefined, refused: undefined },
    {
      link: 'far',
      path: 'by regions',
      bytes: 8192,
      note: 'writers are held during the resync',
      refused: 'it is set to ordered-only',
    },
  ];
  await says(
    'restore g@a --plan',
    /\nlink near: by reference, 512 B would travel\nlink far: by regions, 8 KiB would travel; writers are held during the resync; REFUSED: it is set to ordered-only\n$/,
  );
  t.match((await node.client.planRestore('g', 'a', undefined)).links, [
    { note: null, refused: null },
    { path: 'by regions', refused: 'it is set to ordered-only' },
  ]);
});

t.test('a delay goes with a replica', async (t) => {
  const { refuses } = await start(t);
  await refuses('create h --volume v:1M --apply-delay 5m', 2, /--apply-delay goes with --replica/);
  await refuses('create h --volume v:1M --replica --apply-delay 9999d', 2, /from 0 to 315360000/);
});

t.test('verify, as typed', async (t) => {
  const { links, node, says, refuses, tidemark } = await start(t);
  await refuses('verify g', 1, /g has no links/);
  await says(`link add g ${UNIX} --name a`, /added/);
  await refuses('verify g --link b', 1, /no link "b"/);
  await refuses('verify g --rate fast', 2, /rate/);
  await refuses('verify g --cancel', 1, /was not verified/);
  const running: VerificationView = {
    id: 'x',
    state: 'running',
    mark: false,
    rateBytesPerSecond: 0,
    begunAt: '2026-01-01T00:00:00.000Z',
    waitsFor: 'the link to stream',
    lsn: undefined,
    done: 0,
    total: 512,
    checksumBytes: 0,
    volumes: [{ name: 'v', regionsCompared: 0, regionsDiffering: 0, runs: [] }],
    regionsDiffering: 0,
    marked: false,
    error: undefined,
  };
  const done: VerificationView = {
    ...running,
    state: 'done',
    waitsFor: undefined,
    lsn: 77,
    done: 512,
    checksumBytes: 4096,
    volumes: [{ name: 'v', regionsCompared: 256, regionsDiffering: 0, runs: [] }],
  };
  links.verifications = [running, running, done];
  await says(
    'verify g',
    'link a: 0/512 regions, waits for: the link to stream\nlink a: no difference; 256 regions compared at LSN 77, 4 KiB of checksums\n',
  );
  const runs = [
    { first: 3, end: 5 },
    { first: 9, end: 10 },
  ];
  const unlike: VerificationView = {
    ...done,
    regionsDiffering: 3,
    volumes: [{ name: 'v', regionsCompared: 256, regionsDiffering: 3, runs }],
  };
  links.verifications = [unlike];
  t.match(await tidemark('verify', 'g', '--rate', '1M'), {
    status: 1,
    out: 'link a: 3 regions differ; 256 regions compared at LSN 77, 4 KiB of checksums\nvolume v: 3 regions differ: 3-4, 9\n',
    complaint: /what link a leads to differs: verify --mark/,
  });
  links.verifications = [{ ...unlike, mark: true, marked: true }];
  await says('verify g --mark', /3 regions differ.*; they are marked, and copied now\n/);
  t.strictSame(links.verified, [
    { name: 'a' },
    { name: 'a', rateBytesPerSecond: MIB },
    { name: 'a', mark: true },
  ]);
  const error = new EngineError('unavailable', 'the connection to the secondary is over: lost');
  links.verifications = [{ ...unlike, state: 'failed', error }];
  t.match(await tidemark('verify', 'g'), {
    status: 1,
    out: /^link a: 3 regions differ so far; /,
    complaint: /link a: the connection to the secondary is over: lost/,
  });
  t.match(await node.client.verification('g', 'a'), {
    link: 'a',
    state: 'failed',
    volumes: [
      {
        runs: [
          { region: 3, count: 2 },
          { region: 9, count: 1 },
        ],
      },
    ],
    error: { code: 'unavailable' },
  });
  await says('verify g --cancel', '');
  t.equal(links.cancelled, 1);
  links.refusal = new EngineError('in-use', 'link a is paused: resume it first');
  t.match(await tidemark('verify', 'g', '--json'), {
    status: 1,
    out: '{\n  "verifications": []\n}\n',
    complaint: /paused/,
  });
  await t.rejects(node.client.verifyLink('g', 'a', { rateBytesPerSecond: -1 }), { code: 'invalid' });
  await t.rejects(node.client.verifyLink('g', 'b', {}), { code: 'not-found' });
});
