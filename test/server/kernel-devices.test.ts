import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import t, { type Test } from 'tap';
import { parseNbdUri } from '../../protocol/uri.ts';
import { EventLog } from '../../server/events.ts';
import { KernelDevices } from '../../server/kernel/kernel-devices.ts';
import { silentLogger } from '../../server/logger.ts';

const uri = parseNbdUri('nbd+unix:///?socket=/nowhere');
const plain = { uri, connections: 1, readOnly: false, timeoutSeconds: 0 };

/** Devices over a make-believe kernel of three, and helpers that only play it. */
async function deviceTest(t: Test, deviceCount = 3) {
  const folder = await mkdtemp(join(tmpdir(), 'tidemark-devices-'));
  const events = new EventLog();
  for (let index = 0; index < deviceCount; index += 1) {
    await mkdir(join(folder, `sys/block/nbd${index}`), { recursive: true });
    await writeFile(join(folder, `sys/block/nbd${index}/size`), '0\n');
  }
  await mkdir(join(folder, 'proc/self'), { recursive: true });
  await writeFile(join(folder, 'proc/self/status'), 'CapEff:\tffffffffffffffff\n');
  const devices = new KernelDevices({
    logger: silentLogger(),
    events,
    paths: { sys: join(folder, 'sys'), proc: join(folder, 'proc'), dev: join(folder, 'dev') },
    helperCommand: [process.execPath, resolve('test/fixtures/fake-device-helper.mjs'), folder],
  });
  // Helpers do not keep the process alive, and here there is no server that does.
  const alive = setInterval(() => undefined, 60_000);
  t.teardown(async () => {
    clearInterval(alive);
    for (const { device } of devices.list()) await devices.detach(device, { force: true });
    await rm(folder, { recursive: true });
  });
  const block = (name: string, file: string) => join(folder, 'sys/block', name, file);
  const types = () => events.since(0).map((event) => event.type);
  return { devices, events, folder, block, types };
}

t.test('the first free device, then a named one, then it is free again', async (t) => {
  const { devices, block, types } = await deviceTest(t);
  await writeFile(block('nbd0', 'pid'), '4711\n');
  const first = await devices.attach({ ...plain, exportName: 'g/a' });
  t.match(first, {
    device: '/dev/nbd1',
    exportName: 'g/a',
    sizeBytes: 1024 * 1024,
    blockBytes: 4096,
    readOnly: false,
  });
  t.ok(
    (await readdir(block('nbd1', '.'))).includes('probed'),
    'another process opened it for the partition table',
  );
  const second = await devices.attach({ ...plain, exportName: 'g/b', device: '/dev/nbd2', readOnly: true });
  t.match(second, { device: '/dev/nbd2', readOnly: true });
  t.same(
    devices.list().map(({ device }) => device),
    ['/dev/nbd1', '/dev/nbd2'],
  );
  await t.rejects(devices.attach({ ...plain, exportName: 'g/c' }), {
    code: 'in-use',
    message: /all 3 nbd devices are in use/,
  });
  await t.rejects(devices.attach({ ...plain, exportName: 'g/c', device: '/dev/nbd2' }), {
    code: 'in-use',
    message: /attached to g\/b/,
  });
  await t.rejects(devices.attach({ ...plain, exportName: 'g/c', device: '/dev/nbd0' }), {
    code: 'in-use',
    message: /process 4711/,
  });
  await devices.detach('/dev/nbd1', { force: false });
  t.same(
    devices.list().map(({ device }) => device),
    ['/dev/nbd2'],
  );
  t.match(await devices.attach({ ...plain, exportName: 'g/c' }), { device: '/dev/nbd1' });
  t.same(types(), ['device.attached', 'device.attached', 'device.detached', 'device.attached']);
});

t.test('several at once get a device each', async (t) => {
  const { devices } = await deviceTest(t);
  const names = ['g/a', 'g/b', 'g/c'];
  const attached = await Promise.all(names.map((exportName) => devices.attach({ ...plain, exportName })));
  t.same(attached.map(({ device }) => device).sort(), ['/dev/nbd0', '/dev/nbd1', '/dev/nbd2']);
});

t.test('what cannot be is refused in one line, and changes nothing', async (t) => {
  const { devices, folder, types } = await deviceTest(t);
  const refused = (request: object, code: string, message: RegExp) =>
    t.rejects(devices.attach({ ...plain, exportName: 'g/v', ...request }), { code, message });
  await refused({ device: '/dev/sda' }, 'invalid', /not an nbd device/);
  await refused({ device: '/dev/nbd9' }, 'not-found', /has no \/dev\/nbd9; it has nbd0 to nbd2/);
  await refused({ connections: 0 }, 'invalid', /connections must be/);
  await refused({ connections: 17 }, 'invalid', /connections must be/);
  await refused({ timeoutSeconds: 1.5 }, 'invalid', /timeout/);
  await refused({ uri: parseNbdUri('nbds://localhost') }, 'unsupported', /TLS/);
  await refused({ exportName: 'g/unknown' }, 'not-found', /no export unknown/);
  await refused({ exportName: 'g/silent' }, 'unavailable', /the helper process ended early/);
  await refused({ exportName: 'g/crash' }, 'unavailable', /ended early/);
  await writeFile(join(folder, 'proc/self/status'), 'CapEff:\t0\n');
  await refused({}, 'unsupported', /needs root/);
  await rm(join(folder, 'sys/block'), { recursive: true });
  await refused({}, 'unsupported', /modprobe nbd/);
  await t.rejects(devices.detach('/dev/nbd0', { force: false }), {
    code: 'not-found',
    message: /not attached by this node/,
  });
  await t.rejects(devices.detach('nbd0p1', { force: false }), { code: 'invalid' });
  t.same(devices.list(), []);
  t.same(types(), []);
});

t.test('a device in use stays, unless forced', async (t) => {
  const { devices, folder, block, types } = await deviceTest(t);
  const { device } = await devices.attach({ ...plain, exportName: 'g/v' });
  await writeFile(block('nbd0', 'dev'), '43:0\n');
  const mounts = join(folder, 'proc/self/mountinfo');
  await writeFile(mounts, '22 1 43:0 / /srv rw - ext4 /dev/nbd0 rw\n');
  await t.rejects(devices.detach(device, { force: false }), { code: 'in-use', message: /mounted on \/srv/ });
  await rm(mounts);
  await writeFile(block('nbd0', 'exclusive'), '');
  await t.rejects(devices.detach(device, { force: false }), {
    code: 'in-use',
    message: /opened exclusively/,
  });
  await rm(block('nbd0', 'exclusive'));
  await writeFile(block('nbd0', 'broken'), '');
  await t.rejects(devices.detach(device, { force: false }), { code: 'unavailable', message: /EIO/ });
  t.equal(devices.list().length, 1, 'still there after each refusal');
  await writeFile(mounts, '22 1 43:0 / /srv rw - ext4 /dev/nbd0 rw\n');
  await devices.detach(device, { force: true });
  t.same(devices.list(), []);
  t.same(types(), ['device.attached', 'device.detached']);
});

t.test('a helper that dies is a lost device, and says so', async (t) => {
  const { devices, events, block } = await deviceTest(t);
  const attached = await devices.attach({ ...plain, exportName: 'g/v' });
  t.equal(attached.helperPid, Number(await readFile(block('nbd0', 'pid'), 'utf8')));
  const lost = new Promise((done) => {
    events.subscribe((event) => {
      if (event.type === 'device.lost') done(event);
    });
  });
  process.kill(attached.helperPid, 'SIGKILL');
  t.match(await lost, { group: 'g', data: { device: '/dev/nbd0', export: 'g/v' } });
  t.same(devices.list(), []);
});

t.test('a shutdown detaches what is free, leaves what is mounted, and takes nothing new', async (t) => {
  const { devices, folder, block } = await deviceTest(t);
  await devices.attach({ ...plain, exportName: 'g/a' });
  const slow = devices.attach({ ...plain, exportName: 'g/b' });
  await writeFile(block('nbd0', 'dev'), '43:0\n');
  await writeFile(join(folder, 'proc/self/mountinfo'), '22 1 43:0 / /srv rw - ext4 /dev/nbd0 rw\n');
  const left = await devices.release();
  t.same(
    left.map(({ device }) => device),
    ['/dev/nbd0'],
  );
  t.match(await slow, { exportName: 'g/b' }, 'one that was under way came up first, and was detached');
  await t.rejects(devices.attach({ ...plain, exportName: 'g/c' }), { code: 'unavailable' });
  await rm(join(folder, 'proc/self/mountinfo'));
});

t.test('a device is held, told to drop its caches, and let go', async (t) => {
  const { devices, block } = await deviceTest(t);
  const { device } = await devices.attach({ ...plain, exportName: 'g/a' });
  const hold = await devices.hold(device);
  t.equal(hold.device, device);
  t.notOk((await readdir(block('nbd0', '.'))).includes('told'), 'not before it is asked to');
  await hold.dropCaches();
  t.equal(await readFile(block('nbd0', 'told'), 'utf8'), 'drop\n');
  await devices.sync(device);
  t.ok((await readdir(block('nbd0', '.'))).includes('synced'));

  await writeFile(block('nbd0', 'stubborn'), '');
  const stubborn = await devices.hold(device);
  await t.rejects(stubborn.dropCaches(), { code: 'unavailable', message: /caches of \/dev\/nbd0.*EIO/ });
  await writeFile(block('nbd0', 'broken'), '');
  await t.rejects(devices.hold(device), { code: 'unavailable', message: /nbd0 could not be flushed: .*EIO/ });
  await t.rejects(devices.sync(device), { code: 'unavailable', message: /could not be flushed/ });
  await writeFile(block('nbd0', 'exclusive'), '');
  await t.rejects(devices.hold(device), { code: 'in-use', message: /unmount it first, or use --force/ });
  t.same(await devices.usersOf(device), []);
});

t.test('a helper asks for the export by the name that it was given for it', async (t) => {
  const { devices } = await deviceTest(t);
  t.match(await devices.attach({ ...plain, exportName: 'g/silent', connectAs: '@device-1' }), {
    exportName: 'g/silent',
  });
});
