import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { allowedWrites, copyRate } from '../../scripts/lib/bench-copies.ts';

t.test('what the disk allows: writes without copies bound it, or the copies do', async (t) => {
  const near = (value: number, wanted: number, what: string): void => {
    t.ok(Math.abs(value / wanted - 1) < 0.01, `${what}: ${value} for ${wanted}`);
  };
  near(allowedWrites(1000, 1e9, 5000, 10), 50_000, 'a disk of no cost');
  // 2000 copies into 10,000 regions: so many random writes hit as many different ones.
  near(allowedWrites(10_000, 200, 1e9, 10), 10_000 * Math.log(1 / (1 - 0.2)), 'nothing but copies');
  const both = allowedWrites(1000, 500, 2000, 10);
  t.ok(both > 15_000 && both < 20_000, `copies first, then none are left: ${both}`);
});

t.test('copies are counted until nothing is left, and the copy goes', async (t) => {
  const folder = t.testdir();
  const source = join(folder, 'source');
  writeFileSync(source, Buffer.alloc(100 * 64 * 1024, 1));
  const rate = copyRate(source, join(folder, 'target'), 100 * 64 * 1024, 60, 1);
  t.ok(Number.isFinite(rate) && rate > 0, `${rate} copies a second`);
  // Else the second run would be refused.
  copyRate(source, join(folder, 'target'), 100 * 64 * 1024, 60, 1);
});
