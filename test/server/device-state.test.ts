import t, { type Test } from 'tap';
import {
  deviceName,
  hasSysAdmin,
  listDeviceNames,
  parseMountInfo,
  parseSwaps,
  readDeviceState,
  usersOf,
} from '../../server/kernel/device-state.ts';
import { machineWith } from '../fixtures/machine-files.ts';

const kernelWith = async (t: Test, files: Record<string, string>) => (await machineWith(t, files)).paths;

t.test('only whole nbd devices are named', async (t) => {
  t.equal(deviceName('/dev/nbd0'), 'nbd0');
  t.equal(deviceName('nbd15'), 'nbd15');
  for (const wrong of [
    '/dev/nbd0p1',
    '/dev/sda',
    'nbd',
    'nbd01',
    '/dev/nbd-1',
    '/dev/nbd0/../sda',
    ' nbd0',
    'nbd0\n',
    '',
  ]) {
    t.equal(deviceName(wrong), undefined, JSON.stringify(wrong));
  }
});

t.test('devices come in the order of their numbers, and others not at all', async (t) => {
  const paths = await kernelWith(t, {
    'sys/block/nbd10/size': '0\n',
    'sys/block/nbd2/size': '0\n',
    'sys/block/nbd0/size': '2048\n',
    'sys/block/nbd0/pid': '77\n',
    'sys/block/nbd0/ro': '1\n',
    'sys/block/sda/size': '9\n',
  });
  t.same(await listDeviceNames(paths), ['nbd0', 'nbd2', 'nbd10']);
  t.same(await readDeviceState(paths, 'nbd0'), {
    name: 'nbd0',
    sizeBytes: 1024 * 1024,
    ownerPid: 77,
    readOnly: true,
  });
  t.same(await readDeviceState(paths, 'nbd2'), {
    name: 'nbd2',
    sizeBytes: 0,
    ownerPid: undefined,
    readOnly: false,
  });
  t.equal(await readDeviceState(paths, 'nbd3'), undefined);
  t.same(await listDeviceNames(await kernelWith(t, { 'proc/x': '' })), [], 'no module');
});

t.test('the mount table, with optional fields, escapes and torn lines', async (t) => {
  const table = [
    '22 1 43:0 / /mnt/with\\040space rw,relatime shared:1 master:2 - ext4 /dev/nbd0 rw',
    '23 1 0:45 / /data rw - btrfs /dev/nbd1p2 rw',
    '24 1 0:5 / /dev rw - devtmpfs udev rw',
    '25 1 0:6 /',
    '',
  ].join('\n');
  t.same(parseMountInfo(table), [
    { deviceNumber: '43:0', mountPoint: '/mnt/with space', source: '/dev/nbd0' },
    { deviceNumber: '0:45', mountPoint: '/data', source: '/dev/nbd1p2' },
    { deviceNumber: '0:5', mountPoint: '/dev', source: 'udev' },
  ]);
  t.same(parseSwaps('Filename\tType\tSize\n/dev/nbd2   partition 5 0 -2\n/swap\\040file file 1 0 -3\n'), [
    '/dev/nbd2',
    '/swap file',
  ]);
});

t.test('every kind of user is found, on the device and on its partitions', async (t) => {
  const paths = await kernelWith(t, {
    'sys/block/nbd0/size': '2048\n',
    'sys/block/nbd0/dev': '43:0\n',
    'sys/block/nbd0/nbd0p1/dev': '43:1\n',
    'sys/block/nbd0/nbd0p1/holders/dm-3': '',
    'sys/block/nbd0/nbd0p2/dev': '43:2\n',
    'sys/block/nbd1/size': '2048\n',
    'sys/block/nbd1/dev': '43:16\n',
    'proc/self/mountinfo':
      '22 1 43:1 / /a rw - ext4 /dev/nbd0p1 rw\n23 1 0:45 / /b rw - btrfs /dev/nbd0 rw\n',
    'proc/swaps': 'Filename Type\n/dev/nbd0p2 partition\n',
  });
  t.same((await usersOf(paths, 'nbd0')).sort(), [
    'held by dm-3 (nbd0p1)',
    'mounted on /a (nbd0p1)',
    'mounted on /b',
    'used as swap (nbd0p2)',
  ]);
  t.same(await usersOf(paths, 'nbd1'), [], 'a neighbour with a longer number is not it');
});

t.test('rights are read from the effective capabilities', async (t) => {
  const withMask = async (mask: string) =>
    hasSysAdmin(await kernelWith(t, { 'proc/self/status': `Name:\tnode\nCapPrm:\t0\nCapEff:\t${mask}\n` }));
  t.equal(await withMask('000001ffffffffff'), true);
  t.equal(await withMask('0000000000200000'), true);
  t.equal(await withMask('000001ffffdfffff'), false);
  t.equal(await withMask('0000000000000000'), false);
  t.equal(await hasSysAdmin(await kernelWith(t, { 'proc/x': '' })), false);
});
