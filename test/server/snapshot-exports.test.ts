/** Exports of snapshots, and the contexts that tell what changed since one. */
import t from 'tap';
import { PAGE_REGIONS } from '../../engine/map/region-map.ts';
import * as nbd from '../../protocol/constants.ts';
import { listContexts } from '../../protocol/meta-context.ts';
import { changedExtents, contextNames, resolveContexts } from '../../server/contexts.ts';
import { Exports } from '../../server/exports.ts';
import { MAX_EXTENTS_PER_REPLY } from '../../server/limits.ts';
import { FAKE_REGION_BYTES, FakeGroup } from '../fixtures/fake-group.ts';
import { Random } from '../fixtures/random.ts';
import { serveGroup } from '../fixtures/test-server.ts';

const MIB = 1 << 20;

t.test('snapshots are exports: found, listed after the volumes, gone with their snapshot', async (t) => {
  const group = new FakeGroup('g', { v: MIB, w: MIB });
  const server = await serveGroup(t, group);
  await t.rejects(server.client({}, 'g/v@a'));
  await group.createSnapshot('a');
  await group.createSnapshot('b-1.x');
  t.strictSame(
    [...server.exports.list()].map(({ name }) => name),
    ['g/v', 'g/w', 'g/v@a', 'g/v@b-1.x', 'g/w@a', 'g/w@b-1.x'],
  );
  const client = await server.client({}, 'g/v@b-1.x');
  await client.write(Buffer.alloc(512, 7), 0);
  t.equal(group.snapshotVolume('b-1.x', 'v')?.bytes[0], 7, 'written through the snapshot');
  t.equal(group.volumes.get('v')?.bytes[0], 0);
  t.match(server.server.sessions(), [{ exportName: 'g/v@b-1.x', kernelDevice: false, readOnly: false }]);
  await client.disconnect();
  await group.deleteSnapshot('b-1.x');
  await t.rejects(server.client({}, 'g/v@b-1.x'));
  for (const name of ['g/v@', 'g/v@a@a', 'g/x@a', 'g@a', '@a', 'g/v/a'])
    t.equal(server.exports.find(name), undefined, name);
});

t.test('a list of exports makes no device, and asks a group for its snapshots once', async (t) => {
  const group = new FakeGroup('g', { v: MIB, w: MIB });
  for (const name of ['a', 'b']) await group.createSnapshot(name);
  const { snapshots } = group;
  let asked = 0;
  Object.defineProperty(group, 'snapshots', {
    get: () => {
      asked += 1;
      return snapshots;
    },
  });
  group.snapshotVolume = () => {
    throw new Error('not for a list');
  };
  const exports = new Exports();
  exports.add(group);
  const listed = [...exports.list()];
  t.equal(listed.length, 6);
  t.strictSame(listed.at(-1), { name: 'g/w@b', description: 'volume w of group g at snapshot b' });
  t.equal(asked, 1);
});

t.test('a secondary is read-only, its snapshots are not; the default export is a volume', async (t) => {
  const group = new FakeGroup('g', { v: MIB });
  group.role = 'secondary';
  await group.createSnapshot('a');
  const exports = new Exports();
  exports.add(group);
  t.ok((exports.find('')?.transmissionFlags ?? 0) & nbd.NBD_FLAG_READ_ONLY);
  t.equal(exports.find('')?.name, 'g/v');
  t.equal((exports.find('g/v@a')?.transmissionFlags ?? 0) & nbd.NBD_FLAG_READ_ONLY, 0);
});

t.test('a ticket opens an export as a kernel device of ours, until it is revoked', async (t) => {
  const group = new FakeGroup('g', { v: MIB });
  const server = await serveGroup(t, group);
  server.exports.issueTicket('@ticket', 'g/v');
  const client = await server.client({}, '@ticket');
  server.exports.revokeTicket('@ticket');
  await client.write(Buffer.alloc(1), 0);
  t.match(server.server.sessions(), [{ exportName: 'g/v', kernelDevice: true }]);
  await client.disconnect();
  await t.rejects(server.client({}, '@ticket'));
});

t.test('contexts: all snapshots of a volume, the older ones of a snapshot', async (t) => {
  const group = new FakeGroup('g', { v: MIB });
  for (const name of ['a', 'b']) await group.createSnapshot(name);
  const exports = new Exports();
  exports.add(group);
  const listed = (name: string, query: string) => listContexts(exports.find(name)?.contexts ?? [], [query]);
  t.strictSame(listed('g/v', 'tidemark:'), ['tidemark:changed:a', 'tidemark:changed:b']);
  t.strictSame(listed('g/v', 'qemu:dirty-bitmap:'), ['qemu:dirty-bitmap:a', 'qemu:dirty-bitmap:b']);
  t.strictSame(listed('g/v@b', 'tidemark:changed:'), ['tidemark:changed:a']);
  t.strictSame(listed('g/v@a', 'qemu:'), []);
  t.strictSame(contextNames({ group, volume: 'v', snapshot: undefined })[0], nbd.BASE_ALLOCATION);
});

t.test(
  'changes are told as extents, several contexts in a session, one extent when one is asked',
  async (t) => {
    const group = new FakeGroup('g', { v: MIB });
    await group.createSnapshot('a');
    await group.createSnapshot('b');
    for (const region of [1, 2, 5]) group.changed.add(region);
    const server = await serveGroup(t, group);
    const names = [nbd.BASE_ALLOCATION, 'tidemark:changed:a', 'qemu:dirty-bitmap:a'];
    for (const extendedHeaders of [false, true]) {
      const client = await server.client({ contexts: names, extendedHeaders }, 'g/v@b');
      const region = FAKE_REGION_BYTES;
      const status = await client.blockStatus(100, 6 * region);
      t.strictSame([...status.keys()], names);
      const expected = [
        { lengthBytes: region - 100, flags: 0 },
        { lengthBytes: 2 * region, flags: 1 },
        { lengthBytes: 2 * region, flags: 0 },
        { lengthBytes: region, flags: 1 },
        { lengthBytes: 100, flags: 0 },
      ];
      for (const name of names.slice(1)) t.strictSame(status.get(name), expected, name);
      const one = await client.blockStatus(region, 6 * region, { one: true });
      t.strictSame(one.get('qemu:dirty-bitmap:a'), [{ lengthBytes: 2 * region, flags: 1 }]);
      await client.disconnect();
    }
  },
);

t.test(
  'a snapshot that went away fails the request, another of its name does not answer for it',
  async (t) => {
    const group = new FakeGroup('g', { v: MIB });
    await group.createSnapshot('a');
    await group.createSnapshot('b');
    const server = await serveGroup(t, group);
    const contexts = ['tidemark:changed:a'];
    const client = await server.client({ contexts });
    await client.blockStatus(0, MIB);
    await group.renameSnapshot('a', 'c');
    await client.blockStatus(0, MIB);
    t.match(group.calls.at(-1), /^changedRuns v c - /, 'the same snapshot, by its new name');
    await group.deleteSnapshot('c');
    await group.createSnapshot('a');
    await t.rejects(client.blockStatus(0, MIB), { code: nbd.NBD_EIO, message: /deleted.*connect again/ });
    const later = await server.client({ contexts });
    await group.refreshSnapshot('a');
    await t.rejects(later.blockStatus(0, MIB), { code: nbd.NBD_EIO, message: /refreshed/ });
    t.ok((await later.readBuffer(0, 512)).equals(Buffer.alloc(512)), 'the session goes on');
    await Promise.all([client.disconnect(), later.disconnect()]);
  },
);

t.test('extents against a plain look at each byte', async (t) => {
  for (let seed = 1; seed <= 100; seed += 1) {
    const random = new Random(seed);
    const sizeBytes = random.between(1, 300) * 512 + random.below(512);
    const group = new FakeGroup('g', { v: sizeBytes });
    const since = await group.createSnapshot('a');
    const regions = Math.ceil(sizeBytes / FAKE_REGION_BYTES);
    for (let region = 0; region < regions; region += 1) if (random.chance(0.4)) group.changed.add(region);
    const offsetBytes = random.below(sizeBytes);
    const lengthBytes = random.between(1, sizeBytes - offsetBytes);
    const maxExtents = random.chance(0.5) ? random.between(1, 4) : MAX_EXTENTS_PER_REPLY;
    const maxRegions = random.chance(0.3) ? random.between(1, 5) : undefined;
    const image = { group, volume: 'v', snapshot: undefined };
    const extents = changedExtents(image, since, {
      offsetBytes,
      lengthBytes,
      regionBytes: FAKE_REGION_BYTES,
      maxExtents,
      ...(maxRegions === undefined ? {} : { maxRegions }),
    });
    let at = offsetBytes;
    for (const [index, extent] of extents.entries()) {
      t.not(extents[index - 1]?.flags, extent.flags, `seed ${seed}: neighbours differ`);
      for (const end = at + extent.lengthBytes; at < end; at += 1) {
        const changed = group.changed.has(Math.floor(at / FAKE_REGION_BYTES)) ? 1 : 0;
        if (changed !== extent.flags) t.fail(`seed ${seed}: byte ${at}`);
      }
    }
    t.ok(extents.length >= 1 && extents.length <= maxExtents, `seed ${seed}`);
    const whole = maxRegions === undefined && maxExtents === MAX_EXTENTS_PER_REPLY;
    if (whole) t.equal(at, offsetBytes + lengthBytes, `seed ${seed}: all of it`);
    else t.ok(at <= offsetBytes + lengthBytes, `seed ${seed}: no more than was asked`);
  }
});

t.test('a look goes from page to page of the maps, and no further than its extents', async (t) => {
  const regionBytes = 2;
  const sizeBytes = 3 * PAGE_REGIONS * regionBytes;
  const group = new FakeGroup('g', { v: sizeBytes });
  const since = await group.createSnapshot('a');
  const image = { group, volume: 'v', snapshot: undefined };
  for (let region = PAGE_REGIONS - 10; region < PAGE_REGIONS + 20; region += 1) group.changed.add(region);
  group.changed.add(2 * PAGE_REGIONS);
  const query = { offsetBytes: 11, lengthBytes: sizeBytes - 11, regionBytes, maxExtents: 100 };
  t.strictSame(changedExtents(image, since, query), [
    { lengthBytes: (PAGE_REGIONS - 10) * regionBytes - 11, flags: 0 },
    { lengthBytes: 30 * regionBytes, flags: 1 },
    { lengthBytes: (PAGE_REGIONS - 20) * regionBytes, flags: 0 },
    { lengthBytes: regionBytes, flags: 1 },
    { lengthBytes: (PAGE_REGIONS - 1) * regionBytes, flags: 0 },
  ]);
  t.strictSame(
    group.calls.slice(1),
    [5, PAGE_REGIONS, 2 * PAGE_REGIONS].map(
      (from, page) => `changedRuns v a - ${from} ${(page + 1) * PAGE_REGIONS}`,
    ),
  );
  group.calls.length = 0;
  changedExtents(image, since, { ...query, maxExtents: 1 });
  t.equal(group.calls.length, 1, 'all that was asked for was found in the first');
});

t.test('contexts that nobody knows select nothing', async (t) => {
  const group = new FakeGroup('g', { v: MIB });
  const image = { group, volume: 'v', snapshot: undefined };
  t.strictSame(
    resolveContexts(image, [
      { id: 1, name: 'x:y' },
      { id: 2, name: nbd.BASE_ALLOCATION },
    ]),
    [{ id: 2, kind: 'allocation' }],
  );
});
