/** The client against servers that others wrote: what both sides take for the protocol has to be the protocol. */
import { once } from 'node:events';
import { truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import * as nbd from '../../protocol/constants.ts';
import { NbdClient, type NbdClientOptions } from '../../server/nbd-client.ts';
import { listExports } from '../../server/nbd-client-connect.ts';
import { Random } from '../fixtures/random.ts';
import { needPrograms, type TestContext } from '../fixtures/served-node.ts';
import { startThirdParty, type ThirdPartyServer } from '../fixtures/third-party.ts';

const MEBIBYTE_BYTES = 1024 * 1024;
const DISK_BYTES = 16 * MEBIBYTE_BYTES;

interface Test extends TestContext {
  /** A folder of the test's own. */
  testdir(content: Record<string, never>): string;
}

async function startNbdkit(t: Test, ...more: string[]): Promise<ThirdPartyServer> {
  return startThirdParty(t, 'nbdkit', ['--foreground', '--unix', 'SOCKET', ...more]);
}

async function startQemu(t: Test, ...more: string[]): Promise<ThirdPartyServer> {
  const image = join(t.testdir({}), 'disk.img');
  await writeFile(image, '');
  await truncate(image, DISK_BYTES);
  const options = ['--persistent', '--shared=8', '--format=raw', '--discard=unmap', '--socket=SOCKET'];
  return startThirdParty(t, 'qemu-nbd', [...options, ...more, image]);
}

/**
 * Random requests, several in flight, against the bytes that the disk has to have. Each lane has a part of the disk to itself and
 * awaits its requests one by one, so that what is right does not depend on the server's order.
 */
async function exercise(client: NbdClient, random: Random): Promise<string[]> {
  const LANES = 8;
  const laneBytes = DISK_BYTES / LANES;
  const model = Buffer.alloc(DISK_BYTES);
  const wrong: string[] = [];
  const lane = async (number: number): Promise<void> => {
    for (let step = 0; step < 60; step += 1) {
      const length = random.chance(0.1) ? random.between(1, laneBytes / 2) : random.between(1, 20_000);
      const offset = number * laneBytes + random.below(laneBytes - length);
      const range = model.subarray(offset, offset + length);
      switch (random.below(5)) {
        case 0:
          for (let part = 0; part < 64; part += 1)
            range.fill(random.below(256), Math.floor((part * length) / 64));
          await client.write(range, offset, { fua: random.chance(0.2) });
          break;
        case 1:
          range.fill(0);
          await client.writeZeroes(offset, length, { noHole: random.chance(0.5) });
          break;
        case 2:
          await client.flush();
          break;
        default: {
          const read = await client.readBuffer(offset, length);
          if (!read.equals(range)) wrong.push(`read of ${length} at ${offset}`);
        }
      }
    }
  };
  await Promise.all(Array.from({ length: LANES }, (_, number) => lane(number)));
  const all = await client.readBuffer(0, DISK_BYTES);
  if (!all.equals(model)) wrong.push('the disk at the end');
  return wrong;
}

const MODES: readonly [string, NbdClientOptions][] = [
  ['with structured replies', {}],
  ['with simple replies', { structuredReplies: false }],
];

for (const [mode, options] of MODES) {
  t.test(`nbdkit ${mode}: random requests`, async (t) => {
    if (!(await needPrograms(t, 'nbdkit'))) return;
    const { uri } = await startNbdkit(t, 'memory', String(DISK_BYTES));
    const client = await NbdClient.connect(uri, options);
    t.equal(client.sizeBytes, DISK_BYTES);
    t.equal(client.session.structuredReplies, mode === 'with structured replies');
    t.strictSame(await exercise(client, new Random(21)), []);
    await client.disconnect();
    t.equal(await client.closed, undefined);
  });

  t.test(`qemu-nbd ${mode}: random requests`, async (t) => {
    if (!(await needPrograms(t, 'qemu-nbd'))) return;
    const { uri } = await startQemu(t);
    const client = await NbdClient.connect(uri, options);
    t.equal(client.sizeBytes, DISK_BYTES);
    t.strictSame(await exercise(client, new Random(22)), []);
    await client.disconnect();
    t.equal(await client.closed, undefined);
  });
}

t.test('qemu-nbd sends holes as holes, and tells of them', async (t) => {
  if (!(await needPrograms(t, 'qemu-nbd'))) return;
  const { uri } = await startQemu(t);
  const client = await NbdClient.connect(uri);
  const data = new Random(23).bytes(64 * 1024);
  await client.write(data, MEBIBYTE_BYTES);
  const target = Buffer.alloc(2 * MEBIBYTE_BYTES, 0xff);
  await client.read(target, 0);
  const expected = Buffer.alloc(2 * MEBIBYTE_BYTES);
  data.copy(expected, MEBIBYTE_BYTES);
  t.ok(target.equals(expected), 'what is a hole is zeroes in the buffer');
  const status = await client.blockStatus(0, 4 * MEBIBYTE_BYTES);
  t.strictSame(status.get(nbd.BASE_ALLOCATION), [
    { lengthBytes: MEBIBYTE_BYTES, flags: nbd.NBD_STATE_HOLE | nbd.NBD_STATE_ZERO },
    { lengthBytes: data.length, flags: 0 },
    { lengthBytes: 3 * MEBIBYTE_BYTES - data.length, flags: nbd.NBD_STATE_HOLE | nbd.NBD_STATE_ZERO },
  ]);
  const one = await client.blockStatus(MEBIBYTE_BYTES, MEBIBYTE_BYTES, { one: true });
  t.strictSame(one.get(nbd.BASE_ALLOCATION), [{ lengthBytes: data.length, flags: 0 }]);
  await client.trim(MEBIBYTE_BYTES, data.length);
  const trimmed = await client.blockStatus(MEBIBYTE_BYTES, data.length);
  t.strictSame(trimmed.get(nbd.BASE_ALLOCATION), [{ lengthBytes: data.length, flags: 3 }]);
  await client.disconnect();
});

t.test('a payload of 32 MiB goes and comes back', async (t) => {
  if (!(await needPrograms(t, 'nbdkit'))) return;
  const { uri } = await startNbdkit(t, 'memory', '64M');
  const client = await NbdClient.connect(uri);
  const data = Buffer.alloc(32 * MEBIBYTE_BYTES);
  for (let at = 0; at < data.length; at += 4096) data.writeUInt32BE(at + 1, at);
  await client.write(data, 12_345);
  t.ok(data.equals(await client.readBuffer(12_345, data.length)));
  await client.disconnect();
});

t.test("nbdkit's errors reach the promise of their request, and no other", async (t) => {
  if (!(await needPrograms(t, 'nbdkit'))) return;
  const { uri } = await startNbdkit(
    t,
    '--filter=error',
    'memory',
    '1M',
    'error-pwrite=ENOSPC',
    'error-pwrite-rate=100%',
  );
  for (const [, options] of MODES) {
    const client = await NbdClient.connect(uri, options);
    const write = client.write(Buffer.alloc(10), 0);
    const read = client.readBuffer(0, 10);
    await t.rejects(write, { name: 'ENOSPC', code: nbd.NBD_ENOSPC });
    t.ok((await read).equals(Buffer.alloc(10)));
    await t.rejects(client.readBuffer(MEBIBYTE_BYTES, 1), { name: 'EINVAL', code: nbd.NBD_EINVAL });
    await client.disconnect();
  }
});

t.test('a read-only export says so, and refuses writes', async (t) => {
  if (!(await needPrograms(t, 'qemu-nbd'))) return;
  const { uri } = await startQemu(t, '--read-only');
  const client = await NbdClient.connect(uri);
  t.ok(client.session.transmissionFlags & nbd.NBD_FLAG_READ_ONLY);
  await t.rejects(client.write(Buffer.alloc(1), 0), { message: /read-only/ });
  await client.disconnect();
});

t.test('a server killed with requests in flight', async (t) => {
  if (!(await needPrograms(t, 'nbdkit'))) return;
  // A day: the reads are in flight for as long as the test wants.
  const { uri, child } = await startNbdkit(t, '--filter=delay', 'memory', '1M', 'delay-read=86400');
  const client = await NbdClient.connect(uri);
  const reads = Array.from({ length: 10 }, () => client.readBuffer(0, 10).catch((error) => error.code));
  await client.write(Buffer.alloc(10), 0);
  t.equal(client.inFlight, 10);
  const exited = once(child, 'exit');
  child.kill('SIGKILL');
  await exited;
  t.strictSame(await Promise.all(reads), Array(10).fill('lost'));
  t.match(await client.closed, { code: 'lost' });
});

t.test('exports are found by name', async (t) => {
  if (!(await needPrograms(t, 'qemu-nbd'))) return;
  const { uri } = await startQemu(t, '--export-name=group/volume');
  t.strictSame(
    (await listExports(uri)).map(({ name }) => name),
    ['group/volume'],
  );
  const client = await NbdClient.connect(uri.replace('///?', '///group/volume?'));
  t.equal(client.sizeBytes, DISK_BYTES);
  await client.disconnect();
  await t.rejects(NbdClient.connect(uri.replace('///?', '///other?')), { code: 'refused', message: /other/ });
});
