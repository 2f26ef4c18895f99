import { open } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { type CommandResult, mustRun, run } from '../../scripts/lib/command.ts';
import { generator } from '../../scripts/lib/random.ts';
import { fileDigest, makeImage } from '../fixtures/images.ts';
import { needPrograms, serveForTest } from '../fixtures/served-node.ts';

const KIBIBYTE = 1024;
const MEBIBYTE = 1024 * KIBIBYTE;
const VOLUME_BYTES = 64 * MEBIBYTE;

/** Runs qemu-io commands, one after the other, on an image or an export. A mismatch is said on stdout. */
function qemuIo(target: string, commands: readonly string[]): Promise<CommandResult> {
  return run('qemu-io', [
    '-f',
    'raw',
    '-d',
    'unmap',
    ...commands.flatMap((command) => ['-c', command]),
    target,
  ]);
}

/** One node for all tests of this file, each with a group of its own. */
const node = await serveForTest(t);

interface MapExtent {
  readonly start: number;
  readonly length: number;
  readonly zero: boolean;
  readonly data: boolean;
}

async function qemuMap(uri: string): Promise<MapExtent[]> {
  return JSON.parse(await mustRun('qemu-img', ['map', '-f', 'raw', '--output=json', uri])) as MapExtent[];
}

t.test('qemu-img copies an image in and out, and compares', async (t) => {
  if (!(await needPrograms(t, 'qemu-img'))) return;
  await node.create('copy', `v:${VOLUME_BYTES}`);
  const uri = node.uri('copy/v');
  const folder = t.testdir();
  const image = join(folder, 'image');
  await makeImage(image, VOLUME_BYTES, [
    { offsetBytes: 0, lengthBytes: 4 * KIBIBYTE },
    { offsetBytes: 9 * MEBIBYTE + 512, lengthBytes: 3 * MEBIBYTE },
    { offsetBytes: VOLUME_BYTES - 512, lengthBytes: 512 },
  ]);
  await mustRun('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', image, uri]);
  await mustRun('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', uri, join(folder, 'copy')]);
  t.equal(await fileDigest(join(folder, 'copy')), await fileDigest(image), 'the copy out is the image');
  const same = await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, uri]);
  t.equal(same.status, 0, same.stdout);

  const handle = await open(image, 'r+');
  await handle.write(Buffer.from([1]), 0, 1, 20 * MEBIBYTE + 1);
  await handle.close();
  const changed = await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, uri]);
  t.equal(changed.status, 1, 'one changed byte is found');
});

t.test('qemu-img map shows holes, data, and holes again after a discard', async (t) => {
  if (!(await needPrograms(t, 'qemu-img', 'qemu-io'))) return;
  await node.create('map', `v:${VOLUME_BYTES}`);
  const uri = node.uri('map/v');
  t.strictSame(
    (await qemuMap(uri)).map(({ start, length, zero, data }) => ({ start, length, zero, data })),
    [{ start: 0, length: VOLUME_BYTES, zero: true, data: false }],
    'a new volume is one hole',
  );
  const written = await qemuIo(uri, ['write -P 0x5a 8M 1M']);
  t.equal(written.status, 0, written.stdout + written.stderr);
  const withData = await qemuMap(uri);
  t.match(
    withData.filter(({ data }) => data),
    [{ start: 8 * MEBIBYTE, length: MEBIBYTE, zero: false }],
    'what was written is data',
  );
  t.equal(withData.filter(({ data }) => data).length, 1, 'and nothing else is');
  const discarded = await qemuIo(uri, ['discard 8M 1M', 'read -P 0 8M 1M']);
  t.equal(discarded.status, 0, discarded.stdout + discarded.stderr);
  t.notMatch(discarded.stdout, 'Pattern verification failed');
  t.strictSame(
    (await qemuMap(uri)).filter(({ data }) => data),
    [],
    'the discarded range is a hole',
  );
});

t.test('qemu-img info sees the size, and read-only opens work', async (t) => {
  if (!(await needPrograms(t, 'qemu-img', 'qemu-io'))) return;
  await node.create('odd', `odd:${VOLUME_BYTES + 512}`);
  const uri = node.uri('odd/odd');
  const info = JSON.parse(await mustRun('qemu-img', ['info', '--output=json', uri])) as Record<
    string,
    unknown
  >;
  t.equal(info['virtual-size'], VOLUME_BYTES + 512);
  const readOnly = await run('qemu-io', ['-r', '-f', 'raw', '-c', `read -P 0 ${VOLUME_BYTES} 512`, uri]);
  t.equal(readOnly.status, 0, readOnly.stdout + readOnly.stderr);
});

t.test(
  'qemu-io: a seeded mix of writes, zeroes and discards gives what it gives on a plain file',
  async (t) => {
    if (!(await needPrograms(t, 'qemu-img', 'qemu-io'))) return;
    await node.create('mix', `v:${VOLUME_BYTES}`);
    const seed = Number(process.env['TIDEMARK_TEST_SEED'] ?? 20261122);
    t.comment(`TIDEMARK_TEST_SEED=${seed}`);
    const commands = mixedCommands(generator(seed), 200);
    const folder = t.testdir();
    const model = join(folder, 'model');
    await makeImage(model, VOLUME_BYTES, []);
    for (const target of [node.uri('mix/v'), model]) {
      const result = await qemuIo(target, commands);
      t.equal(result.status, 0, result.stderr);
      t.notMatch(result.stdout, /failed/);
    }
    await mustRun('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', node.uri('mix/v'), join(folder, 'copy')]);
    t.equal(await fileDigest(join(folder, 'copy')), await fileDigest(model));
  },
);

t.test('qemu-io: what is read is what was written, to the byte', async (t) => {
  if (!(await needPrograms(t, 'qemu-io'))) return;
  await node.create('bytes', `v:${VOLUME_BYTES}`);
  const result = await qemuIo(node.uri('bytes/v'), [
    'write -P 0x11 65535 2',
    'read -P 0 65534 1',
    'read -P 0x11 65535 2',
    'read -P 0 65537 1',
    'write -f -P 0x22 1M 32M',
    'read -P 0x22 1M 32M',
    'write -z 2097151 3',
    'read -P 0x22 2097150 1',
    'read -P 0 2097151 3',
    'read -P 0x22 2097154 1',
    'flush',
  ]);
  t.equal(result.status, 0, result.stdout + result.stderr);
  t.notMatch(result.stdout, 'Pattern verification failed');
  const wrong = await qemuIo(node.uri('bytes/v'), ['read -P 0x33 65535 2']);
  t.match(wrong.stdout, 'Pattern verification failed', 'and a wrong pattern would be noticed');
});

/** Writes of any alignment, zeroes of both kinds, and discards of whole blocks (others a client may drop). */
function mixedCommands(random: () => number, count: number): string[] {
  const below = (limit: number): number => Math.floor(random() * limit);
  return Array.from({ length: count }, () => {
    const length = 1 + below(random() < 0.1 ? 2 * MEBIBYTE : 20 * KIBIBYTE);
    const offset = below(VOLUME_BYTES - length);
    const kind = below(5);
    if (kind === 0) return `write -z ${offset} ${length}`;
    if (kind === 1) return `write -z -u ${offset} ${length}`;
    if (kind === 2) return `discard ${offset - (offset % 4096)} ${4096 * (1 + below(16))}`;
    return `write ${kind === 3 ? '-f ' : ''}-P ${1 + below(255)} ${offset} ${length}`;
  });
}
