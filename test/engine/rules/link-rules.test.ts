/** The rules K1 to K13 of the design, each by its name, as far as they are a primary's. */
import t, { type Test } from 'tap';
import { MIB } from '../../../engine/units.ts';
import { type LinkedOptions, LinkedPair } from '../../fixtures/linked-pair.ts';

const link = { name: 'b', uri: 'nbd://b' };

/** In step, with regions 0 and 1 of each volume written. */
async function streaming(options: LinkedOptions = {}, settings: object = {}): Promise<LinkedPair> {
  const pair = await LinkedPair.make({ regions: 8, volumes: ['v', 'w'], ...options });
  for (const name of pair.here.group.volumes.keys()) await pair.here.write(0, 1, 2, pair.here.volume(name));
  await pair.here.group.links.add({ ...link, ...settings });
  await pair.streaming();
  pair.wire.regions.length = 0;
  pair.wire.calls.length = 0;
  return pair;
}

async function equal(t: Pick<Test, 'same'>, pair: LinkedPair, what = ''): Promise<void> {
  await pair.streaming();
  const { here, there } = await pair.fills();
  t.same(there, here, what);
}

t.test('K1: only what is durable here is shipped', async (t) => {
  const pair = await streaming();
  const release = pair.here.folder.hold('sync', 'log.ring');
  await pair.here.write(3, 9);
  // It looks.
  await pair.here.group.links.resync('b');
  await pair.pass(500);
  t.notOk(pair.wire.calls.includes('append'));
  release();
  await equal(t, pair);
  t.ok(pair.wire.calls.includes('append'));
});

t.test('K3: the cursor moves when the secondary has the log durably', async (t) => {
  const pair = await streaming();
  const { baseLsn } = pair.view.position;
  let release = () => {};
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  pair.wire.hold = (call) => (call === 'sync' ? held : undefined);
  await pair.here.write(3, 9);
  await pair.pass(500);
  t.ok(pair.wire.calls.includes('append'), 'it has been received');
  t.same(pair.view.position, { baseLsn, logLsn: baseLsn });
  release();
  pair.wire.hold = undefined;
  await equal(t, pair);
  t.ok((pair.view.position.logLsn ?? 0) > baseLsn);
});

t.test(
  'K5: a link has its DCM from the beginning: what is written before it was ever met is marked',
  async (t) => {
    const pair = await LinkedPair.make({ regions: 8 });
    pair.wire.up = false;
    await pair.here.write(0, 1, 2);
    await pair.here.group.links.add(link);
    t.equal(pair.view.dcmRegions, 2);
    await pair.here.write(4, 2);
    await pair.here.group.settled();
    t.equal(pair.view.dcmRegions, 3);
    await pair.crashHere();
    t.equal(pair.view.dcmRegions, 3);
    pair.wire.up = true;
    await equal(t, pair);
    t.same(pair.wire.regions, ['v/0', 'v/1', 'v/4']);
  },
);

t.test('K5: marks are durable before the checkpoint passes', async (t) => {
  let marked = 0;
  for (let cut = 1; cut < 80; cut++) {
    const pair = await streaming({ seed: cut, volumes: ['v'] });
    await pair.here.group.links.detach('b');
    await pair.until(() => pair.view.position.logLsn === null, 'nothing is kept');
    pair.here.cutAt(cut);
    for (let region = 2; region < 8; region++) await pair.here.write(region, cut).catch(() => {});
    await pair.here
      .volume()
      .flush()
      .catch(() => {});
    await pair.here.pass(3000, 50);
    await pair.crashHere();
    await pair.here.pass(100);
    marked = Math.max(marked, pair.view.dcmRegions);
    await pair.here.group.links.resume('b');
    await equal(t, pair, `cut ${cut}`);
  }
  t.equal(marked, 6);
});

t.test('K6: what a link may hold no longer becomes marks, with what restores have moved', async (t) => {
  const pair = await streaming({ logBytes: 1 * MIB, regions: 64 });
  await pair.here.group.createSnapshot('s');
  await pair.here.write(2, 7, 3);
  await equal(t, pair);
  pair.wire.up = false;
  pair.break();
  await pair.here.group.restore('s');
  for (let count = 0; count < 200; count++) await pair.here.write(40 + (count % 5), (count % 100) + 1);
  await pair.here.volume().flush();
  await pair.until(() => pair.view.position.logLsn === null, 'overflow');
  t.ok(pair.here.told.includes('link.overflow'));
  t.equal(pair.view.dcmRegions, 8, 'three of the restore, five that were written');
  const { endLsn } = pair.here.group.log;
  await pair.here.group.settled();
  await pair.pass(3000);
  for (let count = 0; count < 60; count++) await pair.here.write(50, count + 1);
  await pair.here.volume().flush();
  await pair.pass(3000);
  t.ok(pair.here.durableTailLsn() > endLsn - 1200, 'the log is let go of');
  pair.wire.up = true;
  pair.wire.regions.length = 0;
  await equal(t, pair);
  t.same(
    pair.wire.regions,
    [2, 3, 4, 40, 41, 42, 43, 44, 50].map((region) => `v/${region}`),
    'each once, and no other',
  );
});

t.test('K6: the marks are durable before the log is let go of', async (t) => {
  let overflows = 0;
  for (let cut = 1; cut <= 40; cut++) {
    const pair = await streaming({ seed: cut, volumes: ['v'] });
    pair.wire.up = false;
    pair.break();
    for (let count = 0; count < 30; count++) await pair.here.write(2 + (count % 6), (count % 100) + 1);
    await pair.here.volume().flush();
    // A checkpoint has passed what waits: it is not applied again after the cut.
    await pair.here.pass(3000, 50);
    pair.here.cutAt(cut);
    await pair.here.group.links.set('b', { limitBytes: 1 }).catch(() => {});
    await pair.here.pass(1500, 50);
    if (pair.here.told.includes('link.overflow')) overflows++;
    await pair.crashHere();
    pair.wire.up = true;
    await equal(t, pair, `cut ${cut}`);
  }
  t.ok(overflows > 0 && overflows < 40, `${overflows} before the cut`);
});

t.test(
  'K6: a link that is told to block holds the writers, and one that is told to detach is detached',
  async (t) => {
    for (const onFull of ['block', 'detach'] as const) {
      const pair = await streaming({ regions: 64 }, { onFull, limitBytes: 64 * 1024 });
      pair.wire.up = false;
      pair.break();
      for (let count = 0; count < 40; count++) await pair.here.write(count, 5);
      await pair.here.volume().flush();
      await pair.pass(3000);
      if (onFull === 'block') {
        t.ok(pair.here.told.includes('link.blocks'));
        t.not(pair.view.position.logLsn, null);
      } else {
        t.equal(pair.view.state, 'detached');
        t.equal(pair.view.position.logLsn, null);
        await pair.crashHere();
        t.equal(pair.view.state, 'detached', 'it stays so');
        await pair.here.group.links.resume('b');
      }
      pair.wire.up = true;
      await equal(t, pair, onFull);
    }
  },
);

t.test(
  'K7: what is written during a round belongs to the next, and what it marks is not cleared by this one',
  async (t) => {
    const pair = await streaming();
    await pair.here.group.links.resync('b', { full: true });
    let writes = 0;
    pair.wire.hold = (call) => {
      if (call !== 'syncRegions' || writes++ > 0) return undefined;
      return pair.here
        .write(0, 77)
        .then(() => pair.here.group.links.resync('b', { full: true }))
        .then(() => {});
    };
    await equal(t, pair);
    t.equal(pair.wire.calls.filter((call) => call === 'hold').length, 2);
    t.equal(pair.wire.regions.filter((region) => region === 'v/0').length, 2);
  },
);

t.test('K7: a connection that breaks in the middle of a round costs a copy, and nothing else', async (t) => {
  const calls = ['hold', 'restart', 'writeRegions', 'syncRegions', 'release', 'append', 'sync'];
  for (const at of calls)
    for (const side of ['connection', 'secondary', 'primary'] as const) {
      const pair = await streaming({ seed: calls.indexOf(at) + 1 });
      pair.wire.up = false;
      pair.break();
      await pair.here.group.links.detach('b');
      for (let region = 0; region < 5; region++) await pair.here.write(region, region + 3);
      await pair.here.volume().flush();
      await pair.until(() => pair.view.position.logLsn === null, 'marks');
      for (let count = 0; count < 80; count++) await pair.here.write(7, count + 1);
      await pair.here.group.settled();
      await pair.pass(1500);
      t.ok(pair.here.durableTailLsn() > pair.view.position.baseLsn, 'its place in the log is gone');
      await pair.here.group.links.resume('b');
      let hit = false;
      pair.wire.hold = (call) => {
        if (call !== at || hit) return undefined;
        hit = true;
        if (side === 'secondary') pair.there.cut();
        else if (side === 'primary') pair.here.cut();
        pair.break();
        return undefined;
      };
      pair.wire.up = true;
      await pair.until(() => hit, at);
      if (side === 'secondary') await pair.there.open();
      if (side === 'primary') await pair.here.open();
      await pair.here.write(6, 99);
      await equal(t, pair, `${side} at ${at}`);
    }
});

t.test('K10: a snapshot that the secondary holds is restored by reference: no region travels', async (t) => {
  const pair = await streaming();
  await pair.here.group.createSnapshot('s');
  await pair.here.write(1, 9, 4);
  await pair.streaming();
  await pair.here.group.restore('s');
  await equal(t, pair);
  await pair.until(() => pair.view.lastRestore?.path !== 'pending', 'told');
  t.equal(pair.view.lastRestore?.path, 'by reference');
  t.same(pair.wire.regions, []);
});

t.test('K10: of one that was written on the primary, what was written travels', async (t) => {
  const pair = await streaming();
  await pair.here.group.createSnapshot('s');
  await pair.here.write(1, 9, 4);
  await pair.streaming();
  await pair.here.write(6, 8, 1, pair.here.snapshot('s'));
  await pair.here.write(2, 8, 1, pair.here.snapshot('s', 'w'));
  await pair.here.group.restore('s');
  await equal(t, pair);
  t.same(pair.wire.regions, ['v/6', 'w/2']);
  t.equal(pair.view.lastRestore?.path, 'by regions');
});

t.test(
  'K10: of one that the secondary has not, the restoration map travels, while clients write',
  async (t) => {
    const pair = await streaming({ regions: 16 });
    await pair.here.group.createSnapshot('s', { local: true });
    await pair.here.write(1, 9, 4);
    await pair.streaming();
    await pair.here.group.restore('s');
    for (let count = 0; count < 20; count++) {
      await pair.here.write(8 + (count % 4), count + 1);
      await pair.pass(100);
    }
    await equal(t, pair);
    t.same(pair.wire.regions, ['v/1', 'v/2', 'v/3', 'v/4']);
    t.equal(pair.view.lastRestore?.path, 'by regions');
  },
);
