import t from 'tap';
import { formatSize, parseSize } from '../../server/sizes.ts';

t.test('sizes are powers of 1024', async (t) => {
  const cases: [string, number][] = [
    ['0', 0],
    ['4096', 4096],
    ['4096B', 4096],
    ['64K', 65_536],
    ['64KiB', 65_536],
    ['64 kib', 65_536],
    ['1.5G', 1_610_612_736],
    ['1T', 2 ** 40],
    ['7P', 7 * 2 ** 50],
    [' 10m ', 10 * 2 ** 20],
  ];
  for (const [text, bytes] of cases) t.equal(parseSize(text), bytes, text);
});

t.test('what is no size, or could mean two, is refused with what to write', async (t) => {
  for (const text of [
    '',
    'ten',
    '-1',
    '+1',
    '1e9',
    '0x10',
    '10X',
    '10 G B',
    '1.0001K',
    '8P',
    '99999999999999999',
    '1iB',
    '1.5',
  ]) {
    t.throws(() => parseSize(text), { code: 'invalid' }, JSON.stringify(text));
  }
  t.throws(() => parseSize('10GB'), { message: /ambiguous: write 10GiB/ });
});

t.test('shown with one decimal at most, and read back to the same when exact', async (t) => {
  t.equal(formatSize(0), '0 B');
  t.equal(formatSize(1023), '1023 B');
  t.equal(formatSize(65_536), '64 KiB');
  t.equal(formatSize(1_610_612_736), '1.5 GiB');
  t.equal(formatSize(2 ** 40 + 1), '1.0 TiB');
  for (const bytes of [1, 4096, 65_536, 2 ** 30, 3 * 2 ** 40]) t.equal(parseSize(formatSize(bytes)), bytes);
});
