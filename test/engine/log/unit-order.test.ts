import t from 'tap';
import { LogBatch } from '../../../engine/log/record.ts';
import { inVolumeOrder, type Piece } from '../../../engine/log/unit-order.ts';
import { Random } from '../../fixtures/random.ts';

const SIZE = 500;

function piece(offsetBytes: number, lengthBytes: number, value: number): Piece {
  const batch = new LogBatch(value, value + 1);
  const record = {
    batch,
    volumeIndex: 0,
    offsetBytes,
    lengthBytes,
    zeroes: false,
    mayPunch: false,
    dataStart: 0,
  };
  return { record, bytes: Buffer.alloc(lengthBytes, value) };
}

function applied(pieces: readonly Piece[]): Buffer {
  const bytes = Buffer.alloc(SIZE);
  for (const { record, bytes: from } of pieces) from.copy(bytes, record.offsetBytes);
  return bytes;
}

t.test('the outcome is that of the order of the log', async (t) => {
  for (let seed = 1; seed <= 500; seed++) {
    const random = new Random(seed);
    const most = random.pick([3, 20, 200]);
    const pieces = Array.from({ length: random.between(0, 40) }, (_, index) => {
      const offsetBytes = random.below(SIZE);
      return piece(offsetBytes, random.between(1, Math.min(most, SIZE - offsetBytes)), index + 1);
    });
    const before = [...pieces];
    const ordered = inVolumeOrder(pieces);
    if (!applied(ordered).equals(applied(pieces))) throw new Error(`seed ${seed}`);
    if (pieces.some((one, index) => one !== before[index]))
      throw new Error(`seed ${seed}: the input was changed`);
  }
  t.pass();
});

t.test('what does not overlap is in the order of the volume; what is covered is left out', async (t) => {
  const offsets = (pieces: Piece[]) =>
    inVolumeOrder(pieces).map(({ record }) => [record.offsetBytes, record.batch.lsn]);
  t.same(offsets([piece(30, 10, 1), piece(10, 10, 2), piece(20, 10, 3)]), [
    [10, 2],
    [20, 3],
    [30, 1],
  ]);
  t.same(offsets([piece(10, 10, 1), piece(10, 10, 2), piece(5, 20, 3)]), [[5, 3]]);
  t.same(offsets([piece(0, 20, 1), piece(10, 20, 2), piece(0, 5, 3)]), [
    [0, 1],
    [10, 2],
    [0, 3],
  ]);
  t.same(offsets([]), []);
});
