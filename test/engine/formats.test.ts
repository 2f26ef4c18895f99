import { crc32 } from 'node:zlib';
import t from 'tap';
import {
  GROUP_RECORD_MAGIC,
  groupRecordHeaderLayout,
  isSealed,
  MAX_ZONES,
  mapActivityLayout,
  mapHeaderLayout,
  mapSectorLayout,
  STORE_MAGIC,
  seal,
  spoil,
  storeHeaderLayout,
} from '../../engine/formats.ts';
import { decodeHeaders, encodeActivity, encodeHeaders, encodeSectors } from '../../engine/map/map-format.ts';
import { RegionMap } from '../../engine/map/region-map.ts';
import { GIB, KIB } from '../../engine/units.ts';

// The bytes are spelled out as docs/formats.md has them, so that a change of a declaration cannot pass unseen.

t.test('sizes are those of the tables', async (t) => {
  t.same(
    [
      groupRecordHeaderLayout.span,
      mapHeaderLayout.span,
      mapActivityLayout.span,
      mapSectorLayout.span,
      storeHeaderLayout.span,
      MAX_ZONES,
    ],
    [32, 64, 512, 512, 64, 3968],
  );
});

t.test("the record's header", async (t) => {
  const bytes = Buffer.alloc(32);
  const fields = {
    crc: 1,
    version: 2,
    magic: GROUP_RECORD_MAGIC,
    sequence: 3n,
    payloadBytes: 4,
    reserved: 5,
  };
  groupRecordHeaderLayout.encode(fields, bytes);
  t.equal(
    bytes.toString('hex'),
    '01000000020000005444' + '4d4b47525000030000000000000004000000' + '05000000',
  );
});

const identity = {
  volumeId: '00112233-4455-6677-8899-aabbccddeeff',
  sizeBytes: 4 * GIB,
  regionBytes: 64 * KIB,
};

t.test("the map's headers", async (t) => {
  const bytes = encodeHeaders(identity, 1);
  t.equal(bytes.length, 8192);
  for (const slot of [0, 1]) {
    const header = bytes.subarray(slot * 4096, slot * 4096 + 64);
    t.equal(header.readUInt32LE(0), crc32(header.subarray(4)));
    t.equal(header.readUInt32LE(4), 1);
    t.equal(header.toString('latin1', 8, 16), 'TDMKMAP\0');
    t.equal(header.readBigUInt64LE(16), BigInt(slot + 1));
    t.equal(header.toString('hex', 24, 40), '00112233445566778899aabbccddeeff');
    t.equal(header.readBigUInt64LE(40), 4n * 1024n ** 3n);
    t.equal(header.readUInt32LE(48), 65536);
    t.equal(header.readUInt32LE(52), 1024);
    t.equal(header.readUInt32LE(56), 1);
  }
  t.equal(decodeHeaders(bytes, identity)?.sequence, 2n);
});

t.test('a header of a later version is refused', async (t) => {
  const bytes = encodeHeaders(identity, 0);
  bytes.writeUInt32LE(2, 4096 + 4);
  seal(bytes.subarray(4096, 4096 + 64));
  t.throws(() => decodeHeaders(bytes, identity), { code: 'unsupported', message: /version 2/ });
});

t.test('activity and sectors of the map', async (t) => {
  const activity = Buffer.alloc(512);
  encodeActivity(activity, 64, (zone) => zone === 9);
  t.ok(isSealed(activity));
  t.equal(activity.toString('latin1', 8, 16), 'TDMKACT\0');
  t.same([activity[16], activity[17], activity[18]], [0, 2, 0]);

  const map = new RegionMap(65536);
  map.set(4032 + 8 * 3 + 5);
  map.set(4031);
  const sectors = Buffer.alloc(1024);
  encodeSectors(sectors, map, 0);
  t.equal(sectors.readUInt32LE(0), crc32(sectors.subarray(4, 512)));
  t.equal(sectors.readUInt32LE(4), 1);
  t.equal(sectors[511], 0x80, 'the last bit of the first sector');
  t.equal(sectors.readUInt32LE(516), 2);
  t.equal(sectors[512 + 8 + 3], 0x20);
});

t.test("a store's header", async (t) => {
  const bytes = Buffer.alloc(64);
  const ownerId = Buffer.alloc(16, 0xaa);
  const volumeId = Buffer.alloc(16, 0xbb);
  const fields = {
    crc: 0,
    version: 1,
    magic: STORE_MAGIC,
    ownerId,
    volumeId,
    volumeBytes: 0x0102030405060708n,
    regionBytes: 0x00010000,
    reserved: 0,
  };
  storeHeaderLayout.encode(fields, bytes);
  t.equal(
    bytes.toString('hex'),
    `0000000001000000${'54444d4b53544f00'}${'aa'.repeat(16)}${'bb'.repeat(16)}08070605040302010000010000000000`,
  );
  seal(bytes);
  t.equal(isSealed(bytes), true);
  spoil(bytes);
  t.equal(isSealed(bytes), false);
});
