import { crc32 } from 'node:zlib';
import t from 'tap';
import {
  LOG_BATCH_MAGIC,
  LOG_RECORD_WRITE,
  LOG_RECORD_ZEROES,
  logBatchHeaderLayout,
  logRecordHeaderLayout,
  logSuperblockLayout,
} from '../../../engine/formats.ts';
import {
  BATCH_HEADER_BYTES,
  BatchSealer,
  decodeRecords,
  type FoundHeader,
  HeaderReader,
  isBodyIntact,
  MAX_BATCH_BYTES,
  RECORD_HEADER_BYTES,
  sectorsOf,
  writeRecordHeader,
} from '../../../engine/log/record.ts';
import { GROUP_ID } from '../../fixtures/logs.ts';
import { Random } from '../../fixtures/random.ts';

const IDENTITY = { groupId: GROUP_ID, generation: 7 };
const LSNS = [0, 1, 2 ** 32 - 1, 2 ** 32, 2 ** 44 - 1, 2 ** 44, 2 ** 53 - 2 ** 20, 2 ** 53 - 20];

/** A sealed batch with one write of `payload`, at `start` of a larger buffer. */
function batch(lsn: number, payload: Buffer, start = 0): { bytes: Buffer; crc: number } {
  const lengthBytes = BATCH_HEADER_BYTES + RECORD_HEADER_BYTES + payload.length;
  const bytes = Buffer.alloc(start + sectorsOf(lengthBytes) * 512, 0xee);
  writeRecordHeader(bytes, start + BATCH_HEADER_BYTES, LOG_RECORD_WRITE, 0, 3, 4096, payload.length);
  payload.copy(bytes, start + BATCH_HEADER_BYTES + RECORD_HEADER_BYTES);
  const sealer = new BatchSealer(IDENTITY, 0xdeadbeef);
  sealer.run = 0xfedcba98;
  sealer.seal(bytes, start, lengthBytes, 1, 0, lsn, lsn);
  return { bytes, crc: sealer.crc };
}

function headerOf(bytes: Buffer, lsn: number, start = 0): FoundHeader {
  const header = new HeaderReader(IDENTITY).read(bytes, start, lsn);
  if (header === undefined) throw new Error('no header');
  return header;
}

t.test('sizes are those of the tables', async (t) => {
  t.same([BATCH_HEADER_BYTES, RECORD_HEADER_BYTES, logSuperblockLayout.span], [64, 16, 80]);
});

t.test('a header written by hand is what its layout says, at any LSN', async (t) => {
  for (const lsn of LSNS) {
    const { bytes, crc } = batch(lsn, Buffer.from('payload'), 24);
    const fields = logBatchHeaderLayout.decode(bytes, 24);
    t.same(fields, {
      crc,
      bodyCrc: crc32(bytes.subarray(24 + 64)),
      magic: LOG_BATCH_MAGIC,
      version: 1,
      flags: 0,
      lsn: BigInt(lsn),
      durableLsn: BigInt(lsn),
      groupTag: Buffer.from('0011223344556677', 'hex'),
      generation: 7,
      run: 0xfedcba98,
      chain: 0xdeadbeef,
      sectors: 1,
      lengthBytes: 64 + 16 + 7,
      records: 1,
    });
    t.equal(crc, crc32(bytes.subarray(28, 24 + 64)));
    const again = Buffer.alloc(64);
    logBatchHeaderLayout.encode(fields, again);
    t.ok(again.equals(bytes.subarray(24, 24 + 64)));
    t.ok(
      bytes.subarray(24 + 87).every((byte) => byte === 0),
      'the rest of the sector is zeroes',
    );
    const header = headerOf(bytes, lsn, 24);
    t.match(header, { crc, lsn, durableLsn: lsn, chain: 0xdeadbeef, sectors: 1, records: 1 });
    t.ok(isBodyIntact(bytes, 24, header));
  }
});

t.test('records written by hand are what their layout says', async (t) => {
  const random = new Random(5);
  for (let round = 0; round < 200; round++) {
    const fields = {
      kind: random.pick([LOG_RECORD_WRITE, LOG_RECORD_ZEROES]),
      flags: random.below(2),
      volumeIndex: random.below(65536),
      lengthBytes: random.below(2 ** 32),
      offsetBytes: BigInt(random.below(2 ** 53)),
    };
    const expected = Buffer.alloc(16);
    logRecordHeaderLayout.encode(fields, expected);
    const bytes = Buffer.alloc(19, 0xee);
    const { kind, flags, volumeIndex, offsetBytes, lengthBytes } = fields;
    writeRecordHeader(bytes, 3, kind, flags, volumeIndex, Number(offsetBytes), lengthBytes);
    t.ok(bytes.subarray(3).equals(expected), `seed 5, round ${round}`);
  }
});

t.test('any flipped bit is noticed: in the header by the header, in the body by the body', async (t) => {
  const { bytes } = batch(77, Buffer.alloc(600, 9));
  const header = headerOf(bytes, 77);
  t.equal(bytes.length, 1024);
  for (let byte = 0; byte < bytes.length; byte++) {
    for (const bit of [0, 7]) {
      bytes[byte] = (bytes[byte] ?? 0) ^ (1 << bit);
      const read = new HeaderReader(IDENTITY).read(bytes, 0, 77);
      if (byte < 64) t.equal(read, undefined, `header byte ${byte}`);
      else if (isBodyIntact(bytes, 0, header)) t.fail(`body byte ${byte}`);
      bytes[byte] = (bytes[byte] ?? 0) ^ (1 << bit);
    }
  }
});

t.test('a header of another place, group, generation or version', async (t) => {
  const { bytes } = batch(1000, Buffer.from('x'));
  const read = (identity: typeof IDENTITY, lsn: number) => new HeaderReader(identity).read(bytes, 0, lsn);
  t.ok(read(IDENTITY, 1000));
  t.equal(read(IDENTITY, 1001), undefined);
  t.equal(read({ ...IDENTITY, generation: 8 }, 1000), undefined);
  t.equal(read({ ...IDENTITY, groupId: GROUP_ID.replace('00', '01') }, 1000), undefined);
  t.equal(read({ ...IDENTITY, groupId: GROUP_ID.replace('4455', '4454') }, 1000), undefined);
  bytes.writeUInt16LE(2, 12);
  bytes.writeUInt32LE(crc32(bytes.subarray(4, 64)), 0);
  t.throws(() => read(IDENTITY, 1000), { code: 'unsupported', message: /version 2/ });
});

t.test('lengths that cannot be are no header, whatever the checksum says', async (t) => {
  const { bytes } = batch(5, Buffer.from('x'));
  const set = (sectors: number, lengthBytes: number) => {
    bytes.writeUInt32LE(sectors, 52);
    bytes.writeUInt32LE(lengthBytes, 56);
    bytes.writeUInt32LE(crc32(bytes.subarray(4, 64)), 0);
    return new HeaderReader(IDENTITY).read(bytes, 0, 5);
  };
  t.ok(set(1, 64));
  t.equal(set(1, 63), undefined);
  t.equal(set(0, 0), undefined);
  t.equal(set(2, 512), undefined);
  t.equal(set(1, 513), undefined);
  t.ok(set(MAX_BATCH_BYTES / 512, MAX_BATCH_BYTES));
  t.equal(set(MAX_BATCH_BYTES / 512 + 1, MAX_BATCH_BYTES + 512), undefined);
});

t.test('records that are intact and make no sense are corrupt', async (t) => {
  const { bytes } = batch(5, Buffer.alloc(100));
  const header = headerOf(bytes, 5);
  t.match(decodeRecords(bytes, 0, header).records, [
    { volumeIndex: 3, offsetBytes: 4096, lengthBytes: 100, zeroes: false, mayPunch: false, dataStart: 80 },
  ]);
  const corrupt = (changed: Partial<FoundHeader>, at?: number, value = 0) => {
    const copy = Buffer.from(bytes);
    if (at !== undefined) copy[at] = value;
    t.throws(() => decodeRecords(copy, 0, { ...header, ...changed }), { code: 'corrupt' });
  };
  corrupt({ records: 0 });
  corrupt({ records: 2 });
  corrupt({ lengthBytes: header.lengthBytes - 1 });
  corrupt({ lengthBytes: header.lengthBytes + 1 });
  corrupt({}, 64, 3);
  corrupt({}, 68, 0);
  corrupt({}, 68, 101);
  corrupt({}, 71, 255);
});
