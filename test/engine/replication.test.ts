/** A primary's links and a real secondary, end to end. */
import t from 'tap';
import { MIB } from '../../engine/units.ts';
import { LinkedPair } from '../fixtures/linked-pair.ts';

const link = { name: 'b', uri: 'nbd://b' };

t.test('a first synchronisation moves what was written, and the log follows over two volumes', async (t) => {
  const pair = await LinkedPair.make({ regions: 8, volumes: ['v', 'w'] });
  await pair.here.write(0, 1, 3);
  await pair.here.group.links.add(link);
  await pair.streaming();
  t.same(pair.wire.regions, ['v/0', 'v/1', 'v/2']);
  for (let count = 1; count < 20; count++) {
    await pair.here.write(count % 8, count);
    await pair.here.write(count % 5, count + 20, 1, pair.here.volume('w'));
  }
  await pair.streaming();
  t.equal(pair.wire.regions.length, 3, 'nothing but the log');
  for (const name of ['v', 'w'])
    t.same(await pair.there.fills(pair.there.volume(name)), await pair.here.fills(pair.here.volume(name)));
});

t.test('what waits may be more than the whole log of the secondary', async (t) => {
  const options = { regions: 512, logBytes: 2 * MIB, secondary: { logBytes: 1 * MIB } };
  const pair = await LinkedPair.make(options);
  await pair.here.group.links.add({ ...link, limitBytes: 4 * MIB });
  await pair.streaming();
  pair.wire.up = false;
  pair.break();
  for (let count = 0; count < 330; count++) await pair.here.write(count, (count % 200) + 1);
  await pair.here.volume().flush();
  await pair.until(() => pair.view.lagBytes > 1.2 * MIB, 'more waits than the secondary has room for');
  pair.wire.up = true;
  await pair.streaming();
  t.same(await pair.there.fills(), await pair.here.fills());
  t.equal(pair.wire.regions.length, 0, 'by the log alone');
  t.equal(pair.here.told.filter((type) => type === 'link.lost-connection').length, 1);
});

t.test('L7: a secondary whose log could not take what this one has is refused by name', async (t) => {
  const pair = await LinkedPair.make({ logBytes: 8 * MIB, secondary: { logBytes: 1 * MIB } });
  await pair.here.group.links.add(link);
  await pair.until(() => pair.view.state === 'failed', 'refused');
  t.match(pair.view.reason, /its log has 1048576 bytes.*--log-size 2162688/);
  t.notOk(pair.wire.calls.includes('restart'));
});

t.test('a frozen secondary fills up, says so, and goes on', async (t) => {
  const pair = await LinkedPair.make({ regions: 1024, logBytes: 8 * MIB, secondary: { logBytes: 4 * MIB } });
  await pair.here.group.links.add({ ...link, limitBytes: 8 * MIB });
  await pair.streaming();
  await pair.there.group.replica?.freeze();
  for (let count = 0; count < 1300; count++) await pair.here.write(count % 1024, (count % 200) + 1);
  await pair.here.volume().flush();
  await pair.until(() => /full/.test(pair.view.reason ?? ''), 'full');
  await pair.pass(3000);
  t.notOk(pair.here.told.includes('link.lost-connection'));
  t.match(pair.view.reason, /full/);
  await pair.there.group.replica?.thaw();
  await pair.streaming();
  t.same(await pair.there.fills(), await pair.here.fills());
});

t.test('a node goes on when its last link is gone', async (t) => {
  const pair = await LinkedPair.make({ regions: 8 });
  await pair.here.write(0, 1, 3);
  await pair.here.group.links.add(link);
  await pair.streaming();
  await pair.here.group.links.remove('b');
  // Past the next look at how much of the log links hold.
  await pair.pass(3000);
  await pair.here.write(0, 2);
  t.same(await pair.here.fills(), [2, 1, 1, 0, 0, 0, 0, 0]);
  await pair.here.group.close();
});
