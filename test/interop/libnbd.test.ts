import { join } from 'node:path';
import t from 'tap';
import { mustRun, run } from '../../scripts/lib/command.ts';
import { fileDigest, makeImage } from '../fixtures/images.ts';
import { needPrograms, serveForTest } from '../fixtures/served-node.ts';

const KIBIBYTE = 1024;
const MEBIBYTE = 1024 * KIBIBYTE;
const VOLUME_BYTES = 64 * MEBIBYTE;
const REGION_BYTES = 64 * KIBIBYTE;

/** One node for the tests of this file, each with groups of its own. */
const node = await serveForTest(t);

interface NbdinfoExport {
  readonly 'export-name': string;
  readonly 'export-size': number;
}

interface NbdinfoExtent {
  readonly offset: number;
  readonly length: number;
  readonly type: number;
}

async function nbdinfo(...programArguments: readonly string[]): Promise<unknown> {
  return JSON.parse(await mustRun('nbdinfo', ['--json', ...programArguments]));
}

async function writtenRegions(group: string, volume: string): Promise<number | undefined> {
  const status = JSON.parse(await node.must('status', '--json')) as {
    groups: { name: string; volumes: { name: string; writtenRegions: number }[] }[];
  };
  const found = status.groups.find(({ name }) => name === group);
  return found?.volumes.find(({ name }) => name === volume)?.writtenRegions;
}

t.test('nbdinfo: one export with all that we offer', async (t) => {
  if (!(await needPrograms(t, 'nbdinfo'))) return;
  await node.create('info', `v:${VOLUME_BYTES}`);
  const info = (await nbdinfo(node.uri('info/v'))) as {
    protocol: string;
    exports: Record<string, unknown>[];
  };
  t.equal(info.protocol, 'newstyle-fixed');
  t.match(info.exports, [
    {
      'export-name': 'info/v',
      'export-size': VOLUME_BYTES,
      is_read_only: false,
      is_rotational: false,
      can_flush: true,
      can_fua: true,
      can_trim: true,
      can_zero: true,
      can_fast_zero: true,
      can_cache: true,
      can_df: true,
      can_multi_conn: true,
      block_size_minimum: 1,
      block_size_preferred: 4096,
      block_size_maximum: 32 * MEBIBYTE,
      contexts: ['base:allocation'],
    },
  ]);
});

t.test('nbdinfo --list: every volume of every group', async (t) => {
  if (!(await needPrograms(t, 'nbdinfo'))) return;
  await node.create('alpha', `one:${VOLUME_BYTES}`, `two:${2 * VOLUME_BYTES}`);
  await node.create('beta', `one:${3 * VOLUME_BYTES}`);
  const list = (await nbdinfo('--list', node.uri(''))) as { exports: NbdinfoExport[] };
  t.strictSame(
    list.exports
      .map((one) => [one['export-name'], one['export-size']])
      .filter(([name]) => /^(alpha|beta)\//.test(String(name)))
      .toSorted(),
    [
      ['alpha/one', VOLUME_BYTES],
      ['alpha/two', 2 * VOLUME_BYTES],
      ['beta/one', 3 * VOLUME_BYTES],
    ],
  );
});

t.test('nbdinfo: an export that is not there is refused, and the node serves on', async (t) => {
  if (!(await needPrograms(t, 'nbdinfo'))) return;
  await node.create('refusal', `v:${VOLUME_BYTES}`);
  const refused = await run('nbdinfo', [node.uri('refusal/other')]);
  t.not(refused.status, 0);
  t.match(refused.stderr, /refusal\/other|unknown|not exist|No such/i, 'with a reason that the client shows');
  t.equal((await run('nbdinfo', ['--size', node.uri('refusal/v')])).stdout.trim(), String(VOLUME_BYTES));
});

t.test('nbdcopy: in and out over several connections, holes kept as holes', async (t) => {
  if (!(await needPrograms(t, 'nbdcopy', 'nbdinfo'))) return;
  await node.create('copy', `v:${VOLUME_BYTES}`, `w:${VOLUME_BYTES}`);
  const folder = t.testdir();
  const image = join(folder, 'image');
  await makeImage(image, VOLUME_BYTES, [
    { offsetBytes: MEBIBYTE, lengthBytes: 5 * MEBIBYTE },
    { offsetBytes: 40 * MEBIBYTE, lengthBytes: REGION_BYTES },
  ]);
  const many = ['--connections=4', '--requests=32'];
  await mustRun('nbdcopy', [...many, '--destination-is-zero', '--flush', image, node.uri('copy/v')]);
  t.equal(
    await writtenRegions('copy', 'v'),
    (5 * MEBIBYTE) / REGION_BYTES + 1,
    'only the regions with data were written',
  );
  const map = (await nbdinfo('--map', node.uri('copy/v'))) as NbdinfoExtent[];
  t.strictSame(
    map.filter(({ type }) => type === 0).map(({ offset, length }) => ({ offset, length })),
    [
      { offset: MEBIBYTE, length: 5 * MEBIBYTE },
      { offset: 40 * MEBIBYTE, length: REGION_BYTES },
    ],
  );
  t.equal(
    map.reduce((sum, { length }) => sum + length, 0),
    VOLUME_BYTES,
    'the map covers the volume',
  );

  await mustRun('nbdcopy', [...many, node.uri('copy/v'), node.uri('copy/w')]);
  await mustRun('nbdcopy', [...many, node.uri('copy/w'), join(folder, 'copy')]);
  t.equal(await fileDigest(join(folder, 'copy')), await fileDigest(image), 'through two volumes unchanged');
});

t.test('nbdcopy over TCP', async (t) => {
  if (!(await needPrograms(t, 'nbdcopy'))) return;
  const tcpNode = await serveForTest(t, { serveArguments: ['--listen', 'nbd://127.0.0.1:0'] });
  await tcpNode.create('g', `v:${VOLUME_BYTES}`);
  const address = /nbd:\/\/127\.0\.0\.1:[1-9]\d*/.exec(tcpNode.readyLine)?.[0];
  t.type(address, 'string', `the ready line names the port: ${tcpNode.readyLine}`);
  const folder = t.testdir();
  const image = join(folder, 'image');
  await makeImage(image, VOLUME_BYTES, [{ offsetBytes: 0, lengthBytes: 16 * MEBIBYTE }]);
  await mustRun('nbdcopy', [image, `${address}/g/v`]);
  await mustRun('nbdcopy', ['--synchronous', `${address}/g/v`, join(folder, 'copy')]);
  t.equal(await fileDigest(join(folder, 'copy')), await fileDigest(image));
});
