import t from 'tap';
import {
  GROUP_RECORD_MAGIC,
  GROUP_RECORD_SLOT_BYTES,
  groupRecordHeaderLayout,
  seal,
} from '../../engine/formats.ts';
import {
  checkRecordSize,
  type DetachedRecord,
  GROUP_RECORD_FILE_BYTES,
  type GroupRecord,
  GroupRecordFile,
  type LinkRecord,
  MAX_BASE_RECORD_BYTES,
  MAX_RECORDED_NODES,
  type ReplicaRecord,
  type SnapshotRecord,
} from '../../engine/group-record.ts';
import { decodeRecord, encodeRecord } from '../../engine/group-record-codec.ts';
import { MemoryFolder } from '../fixtures/memory-disk.ts';
import { Random } from '../fixtures/random.ts';

const id = (number: number): string => `01234567-89ab-cdef-0123-${number.toString(16).padStart(12, '0')}`;

const base = {
  state: 'ready' as const,
  id: id(0),
  name: 'g',
  role: 'primary' as const,
  createdAt: '2026-01-01T00:00:00.000Z',
  regionBytes: 65536,
  // Long enough for several sectors, so that it can be torn.
  volumes: Array.from({ length: 40 }, (_, i) => ({ name: `v${i}`, id: id(i + 1), sizeBytes: 512 })),
};
const snapshot: SnapshotRecord = {
  kind: 'snapshot',
  id: id(100),
  name: 'monday',
  lsn: 2 ** 53 - 10,
  createdAt: base.createdAt,
  local: false,
  stores: ['v0', 'v39'],
  written: ['v7'],
  copied: [],
  detaching: false,
};
const detached: DetachedRecord = {
  id: id(300),
  name: 'mirror',
  lsn: 7,
  createdAt: base.createdAt,
  local: true,
  changedId: id(301),
  stores: base.volumes.map(({ name }) => name),
  written: [],
};
const link: LinkRecord = {
  id: id(401),
  name: 'paris',
  uri: 'nbd://paris/g',
  mode: 'sync',
  onLost: 'block',
  onFull: 'dcm',
  resync: 'manual',
  resyncAllowed: true,
  orderedOnly: true,
  limitBytes: 0,
  limitSeconds: 60,
  rateBytesPerSecond: 1e8,
  wanted: 'active',
  position: { baseLsn: 5, logLsn: 2 ** 53 - 6 },
  peerId: id(403),
  openRestores: { firstLsn: 3, lastLsn: 2 ** 53 - 7 },
};
const record: GroupRecord = {
  ...base,
  log: { sizeBytes: 262144, file: '/dev/log' },
  onFull: 'give-up',
  generation: { number: 3, id: id(90), firstLsn: 5 },
  checkpointLsn: 2 ** 53 - 5,
  nodes: [
    { ...snapshot, id: id(101), name: null, lsn: 4, undoOf: ['v1', 'v2'], detaching: true },
    { kind: 'restore', id: id(102), lsn: 5, sourceId: id(101), volumes: ['v0'] },
    snapshot,
  ],
  voided: [id(200)],
  detached: [
    { ...detached, undoOf: ['v3'] },
    { ...detached, name: null, refresh: { layerId: id(302), id: id(303) } },
  ],
  memberId: id(400),
  links: [link, { ...link, id: id(402), position: { baseLsn: 3, logLsn: null }, peerId: null }],
  replica: null,
};
const replica: ReplicaRecord = {
  upstream: { linkId: id(401), linkName: 'paris', memberId: id(400), path: [id(405)] },
  horizonLsn: 2 ** 53 - 5,
  resync: { guardId: id(404) },
  oldImage: null,
  needs: { version: 2, volumes: ['v0', 'v39'] },
  restart: { lsn: 9, chain: 2 ** 32 - 1, groupId: id(0), generation: record.generation },
  frozen: true,
  applyDelaySeconds: 900,
};

t.test('a record comes back as it went', async (t) => {
  t.same(decodeRecord(encodeRecord(record).toString(), 3), record);
  const secondary: GroupRecord = { ...record, role: 'secondary', replica };
  t.same(decodeRecord(encodeRecord(secondary).toString(), 3), secondary);
  const late: GroupRecord = {
    ...secondary,
    replica: { ...replica, resync: null, oldImage: { guardId: id(405) } },
  };
  t.same(decodeRecord(encodeRecord(late).toString(), 3), late);
  const both = { ...secondary, replica: { ...replica, oldImage: replica.resync } };
  t.throws(() => encodeRecord(both), /bug.*at once/);
  const written = JSON.parse(encodeRecord(secondary).toString());
  written.replica.oldImage = written.replica.resync;
  t.throws(() => decodeRecord(JSON.stringify(written), 3), { code: 'corrupt', message: /at once/ });
  const folder = new MemoryFolder(new Random(1));
  const file = await GroupRecordFile.open(await folder.create('r', GROUP_RECORD_FILE_BYTES));
  t.equal(file.record, undefined);
  await file.write(record);
  await file.close();
  const again = await GroupRecordFile.open(await folder.open('r'));
  t.same(again.record, record);
  t.equal(again.outdated, false);
  t.throws(() => encodeRecord({ ...record, nodes: [{ ...snapshot, stores: ['none'] }] }), /bug/);
  const { upstream, restart } = replica;
  for (const [what, strange] of Object.entries({
    'a peer without a UUID': {
      ...record,
      links: record.links.map((link) => ({ ...link, peerId: 'node-b' })),
    },
    'a link without one': {
      ...secondary,
      replica: { ...replica, upstream: { ...upstream, linkId: 'link-1' } },
    },
    'a group without one': { ...secondary, replica: { ...replica, restart: { ...restart, groupId: 'x' } } },
    'a generation that no log has': { ...record, generation: { ...record.generation, number: 2 ** 32 } },
    'no LSN': { ...record, checkpointLsn: 2 ** 53 },
    'the wrong role': { ...secondary, role: 'primary' },
  }))
    t.throws(() => encodeRecord(strange as typeof record), /bug/, `${what}: it could not be read again`);
});

const MAY_BE_ABSENT = [
  '.file',
  '.undoOf',
  '.refresh',
  '.openRestores',
  'links[].resync',
  '.resyncAllowed',
  '.orderedOnly',
  '.oldImage',
  '.upstream.path',
];

const MAY_BE_NULL = [
  'logLsn',
  'peerId',
  'upstream',
  'replica.resync',
  'replica.oldImage',
  'restart',
  'guardId',
];

t.test('a record of version 3 from before it had all of its fields', (t) => {
  const secondary = { ...record, role: 'secondary' as const, replica };
  const old = JSON.parse(encodeRecord(secondary).toString());
  for (const link of old.links)
    for (const key of ['resync', 'resyncAllowed', 'orderedOnly']) delete link[key];
  delete old.replica.oldImage;
  delete old.replica.upstream.path;
  t.match(decodeRecord(JSON.stringify(old), 3), {
    links: record.links.map(() => ({ resync: 'auto', resyncAllowed: false, orderedOnly: false })),
    replica: { oldImage: null, upstream: { path: [] } },
  });
  t.end();
});

t.test('what no version writes is refused, field by field', (t) => {
  const good = JSON.parse(encodeRecord(record).toString());
  const secondary = JSON.parse(encodeRecord({ ...record, role: 'secondary', replica }).toString());
  const wrong: unknown[] = [undefined, null, -1, 1.5, '', 'x', [], {}, [1], true, 2 ** 60];
  const refused = (json: unknown, what: string): void => {
    t.throws(() => decodeRecord(JSON.stringify(json) ?? '', 3), { code: 'corrupt' }, what);
  };
  let tried = 0;
  /** Puts something of another type in the place of each field, and one too many beside it. */
  const each = (value: object, path: string, whole: unknown): void => {
    alsoRefused(
      () => Object.assign(value, { extra: 1 }),
      () => Reflect.deleteProperty(value, 'extra'),
      path,
    );
    for (const [key, old] of Object.entries(value)) {
      for (const bad of wrong) {
        if (
          typeof bad === typeof old &&
          Array.isArray(bad) === Array.isArray(old) &&
          (bad === null) === (old === null)
        )
          continue;
        if (bad === undefined && MAY_BE_ABSENT.some((one) => `${path}.${key}`.endsWith(one))) continue;
        if (bad === null && MAY_BE_NULL.some((one) => `${path}.${key}`.endsWith(one))) continue;
        if (key === 'name' && (bad === null || typeof bad === 'string')) continue;
        tried++;
        Reflect.set(value, key, bad);
        refused(whole, `${path}.${key} = ${JSON.stringify(bad)}`);
      }
      Reflect.set(value, key, old);
      if (Array.isArray(old)) {
        for (const item of old) if (typeof item === 'object') each(item, `${path}.${key}[]`, whole);
      } else if (typeof old === 'object' && old !== null) each(old, `${path}.${key}`, whole);
    }
  };
  let current: unknown = good;
  const alsoRefused = (change: () => void, back: () => void, what: string): void => {
    change();
    refused(current, `one field too many in ${what}`);
    back();
  };
  each(good, 'record', good);
  current = secondary;
  each(secondary, 'record', secondary);
  t.ok(tried > 300, `${tried} tried`);
  t.doesNotThrow(() => decodeRecord(JSON.stringify(good), 3), 'and it was the field alone');
  for (const [key, bad] of [
    ['id', 'not-a-uuid'],
    ['state', 'ruined'],
    ['role', 'boss'],
    ['onFull', 'shrug'],
    ['voided', ['x']],
    ['nodes', [...good.nodes].reverse()],
    ['nodes', [{ ...good.nodes[2], stores: 'ffffffffff1' }]],
    ['nodes', [{ ...good.nodes[2], stores: '0x1' }]],
    ['nodes', [{ ...good.nodes[2], kind: 'restore' }]],
  ] as const)
    refused({ ...good, [key]: bad }, `${key}: ${JSON.stringify(bad).slice(0, 60)}`);
  refused({ ...good, role: 'secondary' }, 'a secondary that keeps nothing as one');
  refused({ ...secondary, role: 'primary' }, 'a primary that is fed');
  t.throws(() => decodeRecord('{', 3), { code: 'corrupt', message: /no JSON/ });
  t.throws(() => decodeRecord(JSON.stringify(good), 1), { code: 'corrupt', message: /version 1/ });
  t.end();
});

/** A record as version 1 wrote it. */
function version1Slot(sequence: bigint, json: unknown, version = 1): Buffer {
  const payload = Buffer.from(JSON.stringify(json));
  const bytes = Buffer.alloc(groupRecordHeaderLayout.span + payload.length);
  const header = {
    crc: 0,
    version,
    magic: GROUP_RECORD_MAGIC,
    sequence,
    payloadBytes: payload.length,
    reserved: 0,
  };
  groupRecordHeaderLayout.encode(header, bytes);
  payload.copy(bytes, groupRecordHeaderLayout.span);
  seal(bytes);
  return bytes;
}

t.test('a record of version 1 is read as one of a group without log and snapshots', async (t) => {
  const folder = new MemoryFolder(new Random(2));
  const disk = await folder.create('r', GROUP_RECORD_FILE_BYTES);
  const old = version1Slot(4n, base);
  await disk.write(old, 0, old.length, 0);
  await disk.close();
  const file = await GroupRecordFile.open(await folder.open('r'));
  t.equal(file.outdated, true);
  t.same(file.record, {
    ...base,
    log: { sizeBytes: 2 ** 30 },
    onFull: 'hold',
    generation: { number: 1, id: base.id, firstLsn: 0 },
    checkpointLsn: 0,
    nodes: [],
    voided: [],
    detached: [],
    memberId: base.id,
    links: [],
    replica: null,
  });
  for (const slot of [1, 2]) {
    await file.write(record);
    t.equal(
      folder.usedSectors(),
      (slot * GROUP_RECORD_SLOT_BYTES) / 512 + (slot === 1 ? Math.ceil(old.length / 512) : 0),
    );
  }
  folder.faults.spaceSectors = 0;
  await file.write(record);
  await file.close();
  t.equal((await GroupRecordFile.open(await folder.open('r'))).outdated, false);
});

t.test('a record of version 2 is read as one of a group that is alone', (t) => {
  const { memberId: _, links: __, replica: ___, ...old } = JSON.parse(encodeRecord(record).toString());
  const read = decodeRecord(JSON.stringify(old), 2);
  t.same(read, { ...record, memberId: record.id, links: [], replica: null });
  t.end();
});

t.test('a later version is refused', async (t) => {
  const folder = new MemoryFolder(new Random(2));
  const disk = await folder.create('r', GROUP_RECORD_FILE_BYTES);
  const later = version1Slot(4n, base, 4);
  await disk.write(later, 0, later.length, 0);
  await t.rejects(GroupRecordFile.open(disk), { code: 'unsupported', message: /version 4/ });
});

t.test('the record survives a torn write: the one before it holds', async (t) => {
  for (let seed = 1; seed < 30; seed++) {
    const folder = new MemoryFolder(new Random(seed));
    const file = await GroupRecordFile.open(await folder.create('r', GROUP_RECORD_FILE_BYTES));
    for (let i = 1; i <= 3; i++) await file.write({ ...record, regionBytes: i });
    folder.faults.decide = (operation) => {
      if (operation === 'sync') folder.crash();
      return operation === 'sync' ? 'EIO' : undefined;
    };
    await t.rejects(file.write({ ...record, regionBytes: 4 }));
    folder.faults.decide = undefined;
    const after = await GroupRecordFile.open(await folder.open('r'));
    const held = after.record?.regionBytes;
    t.ok(held === 3 || held === 4, `seed ${seed}: ${held}`);
    await after.write({ ...record, regionBytes: 5 });
    await after.close();
    t.equal((await GroupRecordFile.open(await folder.open('r'))).record?.regionBytes, 5);
  }
});

t.test(
  'L6: after a sync that failed the record can be written again, and what is read is durable',
  async (t) => {
    const seen = new Set<number | undefined>();
    for (let seed = 1; seed < 60; seed++) {
      const folder = new MemoryFolder(new Random(seed));
      folder.faults.lostOnFailedSync = true;
      const file = await GroupRecordFile.open(await folder.create('r', GROUP_RECORD_FILE_BYTES));
      // Short enough for a single sector to make the difference.
      const small: GroupRecord = { ...record, volumes: [], nodes: [], voided: [], detached: [] };
      for (let i = 1; i <= 2; i++) await file.write({ ...small, regionBytes: i });
      folder.faults.decide = (operation) => (operation === 'sync' ? 'EIO' : undefined);
      await t.rejects(file.write({ ...small, regionBytes: 3 }), { code: 'disk' });
      folder.faults.decide = undefined;
      await t.rejects(file.write({ ...small, regionBytes: 3 }), { code: 'disk' }, 'not in hope');
      if (seed % 2 === 0) {
        file.forgive();
        await file.write({ ...small, regionBytes: 4 });
      }
      await file.close();
      const after = await GroupRecordFile.open(await folder.open('r'));
      const held = after.record?.regionBytes;
      seen.add(held);
      folder.crash();
      const again = await GroupRecordFile.open(await folder.open('r'));
      t.equal(again.record?.regionBytes, held, `seed ${seed}`);
    }
    t.ok(seen.has(4), 'the second try');
    t.ok(seen.has(2) || seen.has(3));
  },
);

t.test('S4: a record of any chain is written on a full disk', async (t) => {
  const folder = new MemoryFolder(new Random(3));
  const disk = await folder.create('r', GROUP_RECORD_FILE_BYTES);
  await GroupRecordFile.allocate(disk);
  const file = await GroupRecordFile.open(disk);
  await file.write(record);
  folder.faults.spaceSectors = 0;
  const nodes = Array.from({ length: 256 }, () => snapshot);
  for (const name of [snapshot.name, null])
    await file.write({ ...record, nodes: nodes.map((node) => ({ ...node, name })) });
  t.equal(file.record?.nodes[255]?.kind === 'snapshot' && file.record.nodes[255].name, null);
  await file.close();
});

t.test('the arithmetic: the largest record fits its slot', (t) => {
  const name = (kind: string, i: number) => `${kind}${i}`.padEnd(64, 'x');
  const volumes = Array.from({ length: 64 }, (_, i) => ({
    name: name('v', i),
    id: id(i),
    sizeBytes: 2 ** 52,
    file: `/${'p'.repeat(4094)}`,
  }));
  const all = volumes.map((volume) => volume.name);
  const largest: GroupRecord = {
    ...record,
    name: name('g', 0),
    volumes,
    nodes: [],
    voided: [],
    detached: [],
  };
  t.doesNotThrow(() => checkRecordSize(largest));
  const baseBytes = encodeRecord(largest).length;
  const lsn = 2 ** 53 - 1;
  const full = { name: name('s', 0), lsn, stores: all, written: all };
  const nodes = Array.from({ length: MAX_RECORDED_NODES }, () => ({
    ...snapshot,
    ...full,
    copied: all,
    undoOf: all,
  }));
  const refresh = { layerId: id(1), id: id(2) };
  const grown = encodeRecord({
    ...largest,
    nodes,
    voided: Array.from({ length: 256 }, () => id(1)),
    detached: Array.from({ length: 256 }, () => ({ ...detached, ...full, refresh })),
  }).length;
  const room = GROUP_RECORD_SLOT_BYTES - groupRecordHeaderLayout.span - MAX_BASE_RECORD_BYTES;
  t.ok(grown - baseBytes <= room, `${grown - baseBytes} of ${room} bytes`);
  t.throws(() => checkRecordSize({ ...largest, volumes: [...volumes, ...volumes] }), {
    code: 'invalid',
    message: /shorter paths/,
  });
  t.end();
});

t.test('a record that does not fit is refused, and nothing is written', async (t) => {
  const folder = new MemoryFolder(new Random(4));
  const file = await GroupRecordFile.open(await folder.create('r', GROUP_RECORD_FILE_BYTES));
  await file.write(record);
  const nodes = Array.from({ length: 5000 }, () => snapshot);
  await t.rejects(file.write({ ...record, nodes }), { code: 'invalid', message: /delete snapshots/ });
  await file.close();
  t.same((await GroupRecordFile.open(await folder.open('r'))).record, record);
});
