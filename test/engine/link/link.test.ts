/** A link at work: its connections, what its operator asks meanwhile, and what it is told. */
import t from 'tap';
import { EngineError } from '../../../engine/errors.ts';
import type { PeerSession } from '../../../engine/link/peer.ts';
import { MIB } from '../../../engine/units.ts';
import { GroupBench } from '../../fixtures/group-bench.ts';
import { LinkedPair } from '../../fixtures/linked-pair.ts';

const link = { name: 'b', uri: 'nbd://b' };

/** A session that answers nothing, until it is closed. */
function mute(): { readonly session: PeerSession; readonly isClosed: () => boolean } {
  let isClosed = false;
  let fail: (error: unknown) => void = () => {};
  const never = new Promise<never>((_, reject) => {
    fail = reject;
  });
  never.catch(() => {});
  const answer = () => never;
  const session: PeerSession = {
    closed: new Promise(() => {}),
    state: answer,
    begin: answer,
    restart: answer,
    append: answer,
    sync: answer,
    hold: answer,
    writeRegions: answer,
    syncRegions: answer,
    release: answer,
    needs: answer,
    beginVerify: answer,
    content: answer,
    checksums: answer,
    endVerify: answer,
    close: () => {
      isClosed = true;
      fail(new EngineError('unavailable', 'closed'));
    },
  };
  return { session, isClosed: () => isClosed };
}

t.test('a connection that nobody waits for any more is closed when it comes', async (t) => {
  const opened: (() => void)[] = [];
  const made: ReturnType<typeof mute>[] = [];
  const connect = () =>
    new Promise<PeerSession>((resolve) => {
      opened.push(() => {
        const one = mute();
        made.push(one);
        resolve(one.session);
      });
    });
  const bench = await GroupBench.make({ logBytes: 1 * MIB, group: { connector: { connect } } });
  const { links } = bench.group;
  await links.add(link);
  await bench.pass(100);
  await links.pause('b');
  await bench.pass(100);
  await links.resume('b');
  await bench.pass(100);
  t.equal(opened.length, 2);
  for (const open of opened) {
    open();
    await bench.pass(50);
  }
  t.same(
    made.map(({ isClosed }) => isClosed()),
    [true, false],
    'the second is the one that is used',
  );
  await links.remove('b');
  t.same(
    made.map(({ isClosed }) => isClosed()),
    [true, true],
  );
  await bench.group.close();
});

t.test('a link is removed while an overflow waits for a stalled applier', async (t) => {
  const pair = await LinkedPair.make({ regions: 64 });
  await pair.here.write(0, 1, 8);
  await pair.here.group.links.add(link);
  await pair.streaming();
  const release = pair.here.folder.hold('write', 'v.img');
  await pair.here.write(3, 9);
  await pair.here.volume().flush();
  await pair.until(() => pair.view.lagBytes === 0, 'the secondary has it');
  pair.here.cut();
  pair.break();
  pair.here.folder.faults.decide = (operation, name) =>
    operation === 'write' && name.endsWith('v.img') ? 'ENOSPC' : undefined;
  release();
  await pair.here.open();
  await pair.until(() => pair.here.group.stall !== undefined, 'it stalls');
  await pair.here.group.links.detach('b');
  await pair.pass(1000);
  let isRemoved = false;
  void pair.here.group.links.remove('b').then(() => {
    isRemoved = true;
  });
  for (let step = 0; step < 50 && !isRemoved; step++) await pair.here.pass(100);
  t.ok(isRemoved);
  t.same(pair.here.group.links.views(), []);
});

t.test('the lag is that of the log that is there, also after a start, and its limit holds', async (t) => {
  const pair = await LinkedPair.make({ regions: 8 });
  await pair.here.write(0, 1, 8);
  await pair.here.group.links.add({ ...link, limitSeconds: 10 });
  await pair.streaming();
  pair.wire.up = false;
  pair.break();
  await pair.here.write(3, 9);
  await pair.here.volume().flush();
  await pair.pass(100);
  await pair.crashHere();
  await pair.pass(5000);
  t.ok(pair.view.lagSeconds > 4, `${pair.view.lagSeconds}`);
  await pair.until(() => pair.view.position.logLsn === null, 'it holds nothing any more', 20_000);
});

t.test('on-full detach is told', async (t) => {
  const pair = await LinkedPair.make({ regions: 64 });
  await pair.here.group.links.add({ ...link, onFull: 'detach', limitBytes: 65_536 });
  await pair.streaming();
  pair.wire.up = false;
  pair.break();
  for (let count = 0; count < 40; count++) await pair.here.write(count, 1);
  await pair.here.volume().flush();
  await pair.until(() => pair.view.state === 'detached', 'detached');
  await pair.until(() => pair.here.told.includes('link.detached'), 'and told');
  t.ok(pair.here.told.includes('link.overflow'));
});

t.test('another rate counts at once for a round that waits', async (t) => {
  const pair = await LinkedPair.make({ regions: 8 });
  await pair.here.write(0, 1, 8);
  await pair.here.group.links.add({ ...link, rateBytesPerSecond: 1 });
  await pair.until(() => pair.wire.regions.length > 0, 'regions are sent');
  await pair.pass(60_000);
  t.equal(pair.view.state, 'resync', 'eight regions take hours');
  await pair.here.group.links.set('b', { rateBytesPerSecond: 0 });
  await pair.until(() => pair.view.state === 'streaming', 'it goes on', 5000);
});

t.test('a small ring takes what is large, though little of it could be freed', async (t) => {
  const pair = await LinkedPair.make({
    regions: 512,
    logBytes: 4 * MIB,
    secondary: { regions: 512, logBytes: 1 * MIB + 65_536, replica: {} },
  });
  await pair.here.write(0, 1, 2);
  await pair.here.group.links.add(link);
  await pair.streaming();
  for (let region = 0; region < 25; region++) await pair.here.write(region, 2);
  await pair.here.volume().flush();
  await pair.streaming();
  await pair.pass(5000);
  await pair.here.write(100, 7, 255);
  await pair.here.volume().flush();
  await pair.streaming();
  const { here, there } = await pair.fills();
  t.same(there, here);
});
