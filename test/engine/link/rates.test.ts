/** How far behind a secondary is, and how fast it comes closer. */
import t from 'tap';
import { Rate } from '../../../engine/link/rate.ts';
import { RecordCounts } from '../../../engine/link/record-counts.ts';
import { KIB, MIB } from '../../../engine/units.ts';
import { LinkedPair } from '../../fixtures/linked-pair.ts';
import { Random } from '../../fixtures/random.ts';

t.test('records are counted exactly where they are noted, and nearly so in between', async (t) => {
  const random = new Random(7);
  const counts = new RecordCounts(1000, 50);
  const places = [{ lsn: 1000, records: 50 }];
  let [lsn, records] = [1000, 50];
  for (let round = 0; round < 20_000; round++) {
    for (let count = random.between(1, 8); count > 0; count--) {
      lsn += random.between(1, 20);
      records++;
      places.push({ lsn, records });
    }
    counts.note(lsn, records);
  }
  t.equal(counts.from(lsn, lsn, records), 0);
  t.equal(counts.from(1000, lsn, records), records - 50);
  t.equal(counts.from(999, lsn, records), undefined, 'of what was there before nothing is known');
  const span = lsn - 1000;
  let worst = 0;
  for (let look = 0; look < 2000; look++) {
    const place = random.pick(places);
    const found = counts.from(place.lsn, lsn, records) ?? Number.NaN;
    worst = Math.max(worst, Math.abs(found - (records - place.records)));
  }
  t.ok(worst <= records / 256, `${worst} of ${records} records, over ${span} sectors`);
  const middle = places[places.length >> 1] ?? { lsn: 0, records: 0 };
  const before = counts.from(middle.lsn, lsn, records);
  counts.forget(middle.lsn);
  t.equal(counts.from(middle.lsn, lsn, records), before, 'what is asked about is kept');
  counts.forget(lsn);
  t.equal(counts.from(lsn, lsn + 10, records + 4), 4, 'what is not noted yet counts');
  t.equal(counts.from(lsn + 5, lsn + 10, records + 4), 2);
});

t.test('a rate is that of the last ten seconds', async (t) => {
  const rate = new Rate();
  t.equal(rate.perSecond(0), 0);
  rate.add(100, 0);
  t.equal(rate.perSecond(500), undefined, 'too early to tell');
  for (let ms = 100; ms < 2000; ms += 100) rate.add(100, ms);
  t.equal(rate.perSecond(2000), 1000);
  for (let ms = 2000; ms < 60_000; ms += 100) rate.add(500, ms);
  const found = rate.perSecond(60_000) ?? 0;
  t.ok(found > 4500 && found <= 5000, `${found}`);
  t.equal(rate.perSecond(80_000), 0);
  rate.add(10, 80_000);
  t.equal(rate.perSecond(80_500), undefined, 'it begins anew');
  t.equal(rate.perSecond(81_000), 10);
});

t.test('a link tells how fast a resync goes, and how long it takes', async (t) => {
  const pair = await LinkedPair.make({ regions: 40, regionBytes: 256 * KIB });
  await pair.here.write(0, 1, 40);
  await pair.here.group.links.add({ name: 'b', uri: 'nbd://b', rateBytesPerSecond: 1 * MIB });
  await pair.until(() => pair.view.regionsResynced >= 12, 'a resync under way');
  t.match(pair.view, { state: 'resync', dcmRegions: 40 - pair.view.regionsResynced });
  const { resyncedBytesPerSecond: rate = 0, secondsLeft = 0 } = pair.view;
  t.ok(rate > MIB / 2 && rate < 2 * MIB, `${rate} bytes a second`);
  // 28 regions of a quarter of what goes a second.
  t.ok(secondsLeft > 3.5 && secondsLeft < 14, `${secondsLeft} s`);
  await pair.streaming();
  t.match(pair.view, { lagRecords: 0, secondsLeft: 0, lagBytes: 0 });
});

t.test('a link tells its lag in records', async (t) => {
  const pair = await LinkedPair.make({ regions: 40 });
  await pair.here.write(0, 1);
  await pair.here.group.links.add({ name: 'b', uri: 'nbd://b' });
  await pair.streaming();
  pair.wire.up = false;
  pair.break();
  for (let region = 0; region < 30; region++) await pair.here.write(region, 2);
  await pair.here.volume().flush();
  await pair.pass(20_000);
  t.equal(pair.view.lagRecords, 30);
  t.match(pair.view, { state: 'connecting', secondsLeft: undefined, shippedBytesPerSecond: 0 });
  t.match(pair.view.waitsFor, /^the next try, in \d+ s$/);
  pair.wire.up = true;
  await pair.streaming();
  t.equal(pair.view.lagRecords, 0);
  await pair.crashHere();
  await pair.streaming();
  t.equal(pair.view.lagRecords, 0);
});
