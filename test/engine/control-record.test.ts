import t from 'tap';
import { type Control, decodeControl, encodeControl } from '../../engine/control-record.ts';
import { EngineError } from '../../engine/errors.ts';
import { RegionMap } from '../../engine/map/region-map.ts';
import { Random } from '../fixtures/random.ts';

const sizes: Readonly<Record<string, number>> = { v: 70_000, w: 40 };
const regionCount = (name: string): number | undefined => sizes[name];
const id = '00112233-4455-6677-8899-aabbccddeeff';
const createdAt = '2026-01-01T00:00:00.000Z';

function map(length: number, random: Random): RegionMap {
  const made = new RegionMap(length);
  for (let run = random.below(20); run > 0; run--) {
    const first = random.below(length);
    made.setRange(first, Math.min(length, first + random.between(1, 400)));
  }
  return made;
}

function restoreOf(random: Random): Control {
  const volumes = Object.entries(sizes).map(([name, length]) => ({
    name,
    restoration: map(length, random),
    modified: map(length, random),
  }));
  const undo = { id, createdAt, replaces: random.chance(0.5) ? id : null };
  return { type: 'restore', id, sourceId: id, imageId: id, undo, volumes };
}

const plain: Control[] = [
  { type: 'snapshot', id, name: 'a', createdAt, local: true },
  { type: 'delete', id },
  { type: 'rename', id, name: 'ü' },
  { type: 'refresh', id, nextId: id, createdAt },
  { type: 'refresh', id, nextId: id, createdAt, detached: true },
  { type: 'detach', id },
  { type: 'round', id, linkId: id, createdAt },
  { type: 'verify', id, linkId: id, createdAt },
];

const runs = (control: Control) =>
  control.type === 'restore'
    ? control.volumes.map(({ name, restoration, modified }) => [
        name,
        [...restoration.runs()],
        [...modified.runs()],
      ])
    : [];

t.test('what is encoded is decoded', async (t) => {
  for (const control of plain) t.same(decodeControl(encodeControl(control), regionCount), control);
  for (let seed = 1; seed <= 50; seed++) {
    const control = restoreOf(new Random(seed));
    const found = decodeControl(encodeControl(control), regionCount);
    const withoutMaps = (value: Control) => ({ ...value, volumes: [] });
    t.same(withoutMaps(found), withoutMaps(control));
    t.same(runs(found), runs(control), `seed ${seed}`);
  }
});

t.test('what makes no sense is corrupt, and one of a later version says so', async (t) => {
  const text = (body: unknown, rest = Buffer.alloc(0)) => {
    const bytes = Buffer.from(typeof body === 'string' ? body : JSON.stringify(body));
    const length = Buffer.alloc(4);
    length.writeUInt32LE(bytes.length);
    return Buffer.concat([length, bytes, rest]);
  };
  const volumes = [{ name: 'w', restorationBytes: 0, modifiedBytes: 0 }];
  const restore = { type: 'restore', id, sourceId: id, undo: { id, createdAt, replaces: null }, volumes };
  t.equal(decodeControl(text(restore), regionCount).type, 'restore');
  const bad: [string, Buffer][] = [
    ['too short', Buffer.alloc(3)],
    ['ends beyond it', Buffer.from([200, 0, 0, 0, 1])],
    ['no JSON', text('{')],
    ['null', text(null)],
    ['no id', text({ type: 'delete' })],
    ['no volumes', text({ ...restore, volumes: undefined })],
    ['no undo', text({ ...restore, undo: undefined })],
    ['no name', text({ type: 'rename', id })],
    ['no flag', text({ type: 'refresh', id, nextId: id, createdAt, detached: 1 })],
    ['an image without an id', text({ ...restore, imageId: 5 })],
    ['another volume', text({ ...restore, volumes: [{ ...volumes[0], name: 'x' }] })],
    ['a map beyond', text({ ...restore, volumes: [{ ...volumes[0], modifiedBytes: 5 }] })],
    ['a length below zero', text({ ...restore, volumes: [{ ...volumes[0], modifiedBytes: -5 }] })],
    ['no map', text({ ...restore, volumes: [{ ...volumes[0], modifiedBytes: 2 }] }, Buffer.alloc(2, 0xff))],
  ];
  for (const [label, bytes] of bad) {
    t.throws(() => decodeControl(bytes, regionCount), { code: 'corrupt' }, label);
  }
  t.throws(() => decodeControl(text({ type: 'promote', id }), regionCount), { code: 'unsupported' });
});

t.test('bytes at random: an error of ours, or a record', async (t) => {
  const random = new Random(5);
  let decoded = 0;
  for (let round = 0; round < 3000; round++) {
    const bytes = Buffer.from(encodeControl(random.chance(0.5) ? restoreOf(random) : random.pick(plain)));
    for (let flips = random.between(1, 4); flips > 0; flips--)
      bytes[random.below(bytes.length)] = random.below(256);
    const cut = random.chance(0.2) ? bytes.subarray(0, random.below(bytes.length)) : bytes;
    try {
      decodeControl(cut, regionCount);
      decoded++;
    } catch (error) {
      if (!(error instanceof EngineError)) throw error;
    }
  }
  t.ok(decoded > 100);
});
