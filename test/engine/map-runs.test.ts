import t from 'tap';
import { decodeMap, encodeMap, maxEncodedBytes } from '../../engine/map/map-runs.ts';
import { PAGE_REGIONS, RegionMap } from '../../engine/map/region-map.ts';
import { Random } from '../fixtures/random.ts';

function same(a: RegionMap, b: RegionMap): boolean {
  if (a.length !== b.length || a.count !== b.count) return false;
  for (let word = 0; word * 32 < a.length; word++) if (a.word(word) !== b.word(word)) return false;
  return true;
}

function randomMap(random: Random): RegionMap {
  const map = new RegionMap(random.pick([1, 7, 8, 31, 32, 33, 1000, PAGE_REGIONS, PAGE_REGIONS * 3 + 17]));
  for (let n = random.below(6); n > 0; n--) {
    const first = random.below(map.length);
    const end = Math.min(map.length, first + random.between(1, random.pick([2, 100, 70_000])));
    map.setRange(first, end);
  }
  if (random.chance(0.3)) for (let at = 0; at < map.length; at += random.between(1, 5)) map.set(at);
  return map;
}

t.test('a map comes back as it went, and never takes more than its bound', (t) => {
  for (let seed = 1; seed <= 400; seed++) {
    const map = randomMap(new Random(seed));
    const bytes = encodeMap(map);
    if (bytes.length > maxEncodedBytes(map.length)) t.fail(`seed ${seed}: ${bytes.length} bytes`);
    const back = decodeMap(bytes, map.length);
    if (!same(map, back)) t.fail(`seed ${seed}: differs`);
    if (!encodeMap(back).equals(bytes)) t.fail(`seed ${seed}: goes another way the second time`);
  }
  t.end();
});

t.test('what is little stays little', (t) => {
  const regions = 16 * 1024 * 1024;
  const map = new RegionMap(regions);
  t.equal(encodeMap(map).length, 0);
  map.set(regions - 1);
  t.ok(encodeMap(map).length <= 8, 'one region at the end of a terabyte');
  map.setRange(0, regions);
  t.equal(encodeMap(map).length, 512 * (1 + 1 + 4), 'all of it, page by page');
  const comb = new RegionMap(regions);
  for (let at = 0; at < regions; at += 2) comb.set(at);
  t.equal(encodeMap(comb).length, maxEncodedBytes(regions), 'the worst is a bitmap');
  t.ok(same(decodeMap(encodeMap(comb), regions), comb));
  t.end();
});

t.test('hand-made bytes: what each form means', (t) => {
  const runsOf = (hex: string, regions: number) =>
    [...decodeMap(Buffer.from(hex, 'hex'), regions).runs()].map(({ first, end }) => [first, end]);
  t.same(runsOf('', 100), []);
  t.same(runsOf('00020301', 100), [[3, 4]]);
  t.same(runsOf('000400010501', 100), [
    [0, 1],
    [6, 7],
  ]);
  t.same(runsOf('00000580', 16), [
    [0, 1],
    [2, 3],
    [15, 16],
  ]);
  t.same(runsOf('01020001', PAGE_REGIONS + 5), [[PAGE_REGIONS, PAGE_REGIONS + 1]]);
  for (const [hex, regions, why] of [
    ['00', 100, 'cut short after the first number'],
    ['000203', 100, 'runs cut short'],
    ['000103', 100, 'half a run'],
    ['00020300', 100, 'an empty run'],
    ['000400010001', 100, 'two runs that touch'],
    ['00026001', 96, 'a run beyond the end'],
    ['01020001', 100, 'a page beyond the end'],
    ['0000ff', 7, 'a bit beyond the end'],
    ['000000', 8, 'a page without a region'],
    ['0002030100', 100, 'a number and no page'],
    ['00038000', 100, 'a padded number'],
    ['ffffffff00', 100, 'an endless number'],
    ['0000', 100, 'no bitmap'],
  ] as const)
    t.throws(() => decodeMap(Buffer.from(hex, 'hex'), regions), { code: 'corrupt' }, why);
  t.end();
});

t.test('damaged bytes are refused, or are some other map; nothing else happens', (t) => {
  let refused = 0;
  let decoded = 0;
  for (let seed = 1; seed <= 3000; seed++) {
    const random = new Random(seed);
    const map = randomMap(random);
    let bytes = encodeMap(map);
    for (let n = random.between(1, 3); n > 0 && bytes.length > 0; n--) {
      const at = random.below(bytes.length);
      const kind = random.below(4);
      if (kind === 0) bytes = bytes.subarray(0, at);
      else if (kind === 1) bytes = Buffer.concat([bytes, random.bytes(random.between(1, 9))]);
      else bytes.writeUInt8(random.below(256), at);
    }
    try {
      const other = decodeMap(bytes, map.length);
      decoded++;
      // It may have been the other form of a page, but is a map of that length all the same.
      if (!same(decodeMap(encodeMap(other), map.length), other)) t.fail(`seed ${seed}`);
    } catch (error) {
      refused++;
      t.match(error, { code: 'corrupt' }, `seed ${seed}`);
    }
  }
  t.ok(refused > 100 && decoded > 100, `${refused} refused, ${decoded} decoded`);
  t.end();
});
