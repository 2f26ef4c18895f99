/** A primary and its secondary are compared by checksums, over a link between disks in memory. */
import t, { type Test } from 'tap';
import { EngineError } from '../../../engine/errors.ts';
import { CHECKSUM_BYTES } from '../../../engine/link/peer.ts';
import { KIB, MIB } from '../../../engine/units.ts';
import { REGION } from '../../fixtures/group-bench.ts';
import { type LinkedOptions, LinkedPair } from '../../fixtures/linked-pair.ts';
import { flip, found, layersOf, verified } from '../../fixtures/verified.ts';

const link = { name: 'b', uri: 'nbd://b' };

/** In step, with regions 0 to 2 of each volume written. */
async function streaming(options: LinkedOptions = {}, settings: object = {}): Promise<LinkedPair> {
  const pair = await LinkedPair.make({ regions: 16, volumes: ['v', 'w'], ...options });
  for (const name of pair.here.group.volumes.keys()) await pair.here.write(0, 1, 3, pair.here.volume(name));
  await pair.here.group.links.add({ ...link, ...settings });
  await pair.streaming();
  pair.wire.regions.length = 0;
  pair.wire.calls.length = 0;
  return pair;
}

/** Neither side keeps anything of it. */
async function gone(t: Test, pair: LinkedPair): Promise<void> {
  t.equal(await layersOf(pair, pair.here), 0, 'no layer here');
  t.equal(await layersOf(pair, pair.there), 0, 'no layer there');
  t.same(pair.there.group.replica?.state().verifying, undefined);
}

t.test('two equal sides: what has content is compared, by nothing but checksums', async (t) => {
  const pair = await streaming();
  await pair.here.write(9, 7);
  const view = await verified(pair);
  t.match(view, { state: 'done', regionsDiffering: 0, marked: false, waitsFor: undefined });
  t.same(found(view), { v: [4, []], w: [3, []] });
  t.ok(view.lsn !== undefined && view.lsn < pair.here.group.log.endLsn);
  t.equal(view.checksumBytes, (10 + 3) * CHECKSUM_BYTES, 'with those of the blank regions between');
  t.same([view.done, view.total], [32, 32]);
  t.same(pair.wire.regions, [], 'no region moved');
  t.ok(pair.here.told.includes('link.verified'));
  await gone(t, pair);
});

t.test(
  'a byte that has changed underneath is found, in that region and no other; marked, it is mended',
  async (t) => {
    const pair = await streaming();
    flip(pair.there, REGION + 17, 'w');
    const view = await verified(pair);
    t.match(view, { state: 'done', regionsDiffering: 1, marked: false });
    t.same(found(view), { v: [3, []], w: [3, [1]] });
    await pair.pass(2000);
    t.same(pair.wire.regions, [], 'it was not asked to be mended');
    t.equal(pair.view.dcmRegions, 0);
    const marked = await verified(pair, { mark: true });
    t.match(marked, { regionsDiffering: 1, marked: true });
    await pair.streaming();
    t.same(pair.wire.regions, ['w/1']);
    t.match(await verified(pair), { state: 'done', regionsDiffering: 0 });
    const { here, there } = await pair.fills();
    t.same(there, here);
    await gone(t, pair);
  },
);

t.test('what lies on either side where nobody has ever written differs, too', async (t) => {
  const pair = await streaming();
  flip(pair.there, 12 * REGION);
  flip(pair.here, 14 * REGION + 5);
  t.same(found(await verified(pair)), { v: [5, [12, 14]], w: [3, []] });
  await verified(pair, { mark: true });
  await pair.streaming();
  t.same(found(await verified(pair)), { v: [4, []], w: [3, []] });
});

t.test('a wrong --assume-equal is found', async (t) => {
  const pair = await LinkedPair.make({ regions: 16 });
  await pair.here.write(0, 1, 3);
  await pair.here.write(8, 2);
  await pair.here.group.links.add({ ...link, assumeEqual: true });
  await pair.streaming();
  t.same(pair.wire.regions, [], 'nothing was copied');
  t.same(found(await verified(pair)), { v: [4, [0, 1, 2, 8]] });
  t.same(found(await verified(pair, { mark: true })), { v: [4, [0, 1, 2, 8]] });
  await pair.streaming();
  t.same(pair.wire.regions, ['v/0', 'v/1', 'v/2', 'v/8']);
  t.match(await verified(pair), { regionsDiffering: 0 });
});

t.test('what is written meanwhile is no difference, on either side', async (t) => {
  const pair = await streaming({ regions: 64 });
  await pair.here.write(0, 3, 64);
  await pair.here.volume().flush();
  await pair.streaming();
  let checksums = 0;
  let fill = 10;
  // Before each answer everything is another one here, and then there.
  pair.wire.hold = (call) => {
    if (call !== 'checksums' || checksums++ > 3) return undefined;
    return (async () => {
      for (let region = 0; region < 64; region += 3) await pair.here.write(region, fill);
      fill++;
      await pair.here.volume().flush();
      await pair.here.turns(2000);
      await pair.there.group.settled();
    })();
  };
  const before = pair.there.group.replica?.state().appliedLsn ?? 0;
  const view = await verified(pair, { rateBytesPerSecond: 64 * KIB });
  pair.wire.hold = undefined;
  t.match(view, { state: 'done', regionsDiffering: 0 });
  t.same(found(view), { v: [64, []], w: [3, []] });
  t.ok(checksums > 3);
  await pair.streaming();
  const { horizonLsn = 0 } = pair.there.group.replica?.state() ?? {};
  t.ok(horizonLsn > before + 500, 'much was written meanwhile');
  await gone(t, pair);
});

t.test('a short last region, large regions, and a trimmed one', async (t) => {
  const regionBytes = 512 * KIB;
  const volumeBytes = 5 * regionBytes - 3 * 512;
  const options = { regionBytes, volumeBytes, logBytes: 16 * MIB, secondary: { logBytes: 16 * MIB } };
  const pair = await LinkedPair.make(options);
  await pair.here.put(pair.here.volume(), Buffer.alloc(volumeBytes, 5), 0);
  await pair.here.group.links.add(link);
  await pair.streaming();
  await pair.here.volume().trim(regionBytes, regionBytes);
  await pair.streaming();
  t.same(found(await verified(pair)), { v: [4, []] }, 'what was trimmed has no content');
  flip(pair.there, volumeBytes - 1);
  // Of a large region the second piece counts, too.
  flip(pair.there, 3 * regionBytes - 1);
  t.same(found(await verified(pair, { mark: true })), { v: [4, [2, 4]] });
  await pair.streaming();
  t.same(found(await verified(pair)), { v: [4, []] });
});

t.test('snapshots and restores around it change nothing in what is compared', async (t) => {
  const pair = await streaming();
  await pair.here.group.createSnapshot('s');
  await pair.here.write(1, 9, 4);
  await pair.here.write(5, 8, 1, pair.here.snapshot('s'));
  await pair.streaming();
  let restored: Promise<unknown> | undefined;
  pair.wire.hold = (call) => {
    if (call !== 'content' || restored !== undefined) return undefined;
    restored = pair.here.group.restore('s');
    return pair.here.turns(2000);
  };
  t.match(await verified(pair), { state: 'done', regionsDiffering: 0 });
  await restored;
  pair.wire.hold = undefined;
  await pair.streaming();
  t.match(await verified(pair), { state: 'done', regionsDiffering: 0 });
  t.same(
    pair.here.group.snapshots.map(({ name }) => name),
    ['s', 'undo'],
  );
});

t.test(
  'a resync is waited for; a link that does not stream, or a frozen secondary, is refused or told',
  async (t) => {
    const pair = await streaming();
    await pair.here.group.links.detach('b');
    await t.rejects(pair.here.group.links.verify('b'), {
      code: 'in-use',
      message: /detached: resume it first/,
    });
    await pair.here.write(0, 4, 8);
    pair.wire.up = false;
    await pair.here.group.links.resume('b');
    await pair.pass(100);
    await t.rejects(pair.here.group.links.verify('b'), {
      code: 'unavailable',
      message: /not connected: nobody answers/,
    });
    await t.rejects(pair.here.group.links.verify('c'), { code: 'not-found' });
    await t.rejects(pair.here.group.links.verify('b', { rateBytesPerSecond: -1 }), { code: 'invalid' });
    await t.rejects(pair.there.group.links.verify('b'), { code: 'unsupported', message: /on its primary/ });
    pair.wire.up = true;
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    pair.wire.hold = (call) => (call === 'release' ? held : undefined);
    await pair.until(() => pair.wire.calls.includes('release'), 'a round');
    const verification = await pair.here.group.links.verify('b');
    await t.rejects(pair.here.group.links.verify('b'), { code: 'in-use', message: /is being verified/ });
    await pair.pass(500);
    t.match(verification.view, { state: 'running', waitsFor: 'the link to stream' });
    t.match(pair.here.group.operations, [
      { kind: 'verify', target: 'b', done: 0, total: 32, unit: 'regions', waitsFor: 'the link to stream' },
    ]);
    release();
    await pair.until(() => verification.isOver, 'its end');
    t.match(verification.view, { state: 'done', regionsDiffering: 0 });
    t.same(pair.here.group.operations, []);

    await pair.there.group.replica?.freeze();
    t.match(await verified(pair), { state: 'failed', error: { message: /frozen.*thaw it first/ } });
    await pair.there.group.replica?.thaw();
    // Frozen when it has begun already: it waits, and says for what.
    pair.wire.hold = (call) => (call === 'append' ? pair.there.group.replica?.freeze() : undefined);
    const frozen = await pair.here.group.links.verify('b');
    await pair.until(() => /frozen: see thaw/.test(frozen.view.waitsFor ?? ''), 'the reason');
    pair.wire.hold = undefined;
    await pair.there.group.replica?.thaw();
    await pair.until(() => frozen.isOver, 'its end');
    t.match(frozen.view, { state: 'done', regionsDiffering: 0 });
    await gone(t, pair);
  },
);

t.test('a secondary that lags by choice is waited for', async (t) => {
  const pair = await streaming({ secondary: { replica: { applyDelaySeconds: 20 } } });
  await pair.here.write(4, 4);
  const verification = await pair.here.group.links.verify('b');
  await pair.until(() => /delayed/.test(verification.view.waitsFor ?? ''), 'the reason');
  await pair.here.write(4, 5);
  await pair.until(() => verification.isOver, 'its end', 120_000);
  t.match(verification.view, { state: 'done', regionsDiffering: 0 });
  await gone(t, pair);
});

t.test(
  'a record that comes in the middle of a resync has no image there: there is another one',
  async (t) => {
    const pair = await streaming();
    await pair.here.group.createSnapshot('s', { local: true });
    await pair.here.write(1, 9, 4);
    await pair.streaming();
    pair.wire.calls.length = 0;
    let restored: Promise<unknown> | undefined;
    // The secondary lacks the snapshot that is restored from, and asks for regions, when the record comes.
    pair.wire.hold = (call) => {
      if (call !== 'beginVerify' || restored !== undefined) return undefined;
      restored = pair.here.group.restore('s');
      return restored.then(() => {});
    };
    t.match(await verified(pair), { state: 'done', regionsDiffering: 0 });
    await restored;
    t.equal(pair.wire.calls.filter((call) => call === 'beginVerify').length, 2);
    pair.wire.hold = undefined;
    await pair.streaming();
    t.match(await verified(pair), { state: 'done', regionsDiffering: 0 });
  },
);

t.test('a lost connection ends it, at any moment, and it can be done again', async (t) => {
  for (const call of ['beginVerify', 'append', 'content', 'checksums', 'endVerify']) {
    const pair = await streaming();
    let broken = false;
    pair.wire.hold = (name) => {
      if (name !== call || broken) return undefined;
      broken = true;
      pair.break('the cable is out');
      return undefined;
    };
    const view = await verified(pair);
    t.ok(broken, call);
    if (call !== 'endVerify')
      t.match(
        view,
        { state: 'failed', error: { code: 'unavailable', message: /the cable is out; verify again/ } },
        call,
      );
    pair.wire.hold = undefined;
    await pair.streaming();
    t.match(await verified(pair), { state: 'done', regionsDiffering: 0 }, call);
    await gone(t, pair);
  }
});

t.test(
  'what was found before the connection was lost is told, and marked where that was asked for',
  async (t) => {
    const pair = await streaming();
    flip(pair.there, 5);
    pair.wire.decide = (call) => {
      if (call !== 'content' || !pair.wire.calls.includes('checksums')) return undefined;
      return new EngineError('disk', 'a bad sector', { errno: 'EIO' });
    };
    const view = await verified(pair, { mark: true });
    t.match(view, { state: 'failed', regionsDiffering: 1, marked: true, error: { message: /bad sector/ } });
    t.ok(pair.here.told.includes('link.verify-failed'));
    pair.wire.decide = undefined;
    await pair.streaming();
    t.same(pair.wire.regions, ['v/0']);
  },
);

t.test('marks are durable: a crash right after it loses none', async (t) => {
  const pair = await streaming();
  flip(pair.there, 5);
  pair.wire.decide = (call) =>
    call === 'hold' ? new EngineError('in-use', 'no round now', { errno: 'ENOSPC' }) : undefined;
  t.match(await verified(pair, { mark: true }), { marked: true });
  await pair.crashHere();
  t.equal(pair.view.dcmRegions, 1);
  await t.rejects(async () => pair.here.group.links.verification('b'), { code: 'not-found' });
  pair.wire.decide = undefined;
  await pair.streaming();
  t.match(await verified(pair), { regionsDiffering: 0 });
});

t.test('cancelling, pausing and removing the link end it', async (t) => {
  for (const how of ['cancel', 'pause', 'remove'] as const) {
    const pair = await streaming({ regions: 64 });
    await pair.here.write(0, 3, 64);
    await pair.streaming();
    const { links } = pair.here.group;
    const verification = await links.verify('b', { rateBytesPerSecond: 8 * KIB });
    await pair.until(() => verification.view.done > 0, 'a step');
    if (how === 'cancel') links.verification('b').cancel();
    else await links[how]('b');
    await pair.until(() => verification.isOver, how);
    t.match(verification.view, { state: 'failed', regionsDiffering: 0 }, how);
    t.ok(verification.view.done < verification.view.total);
    if (how === 'cancel') t.match(verification.view.error?.message, /was cancelled/);
    t.equal(await layersOf(pair, pair.there), 0, how);
    await pair.here.group.close();
  }
});

t.test('the pace is kept', async (t) => {
  const pair = await streaming({ regions: 64, volumes: ['v'] });
  await pair.here.write(0, 3, 64);
  await pair.streaming();
  const from = pair.here.clock.nowMs();
  await verified(pair, { rateBytesPerSecond: 64 * KIB });
  const seconds = (pair.here.clock.nowMs() - from) / 1000;
  t.ok(seconds > 3.5 && seconds < 6, `${seconds} s for 256 KiB at 64 KiB a second`);
});

t.test('after a crash of either side in the middle nothing of it is left', async (t) => {
  for (const side of ['here', 'there'] as const) {
    const pair = await streaming();
    let reached = false;
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    pair.wire.hold = (call) => {
      if (call !== 'checksums') return undefined;
      reached = true;
      return held;
    };
    await pair.here.group.links.verify('b');
    await pair.until(() => reached, 'both images');
    await pair.pass(2000);
    t.equal(pair.there.durableRecord().nodes.length, 1, 'there is one in the record');
    pair.wire.hold = undefined;
    if (side === 'here') await pair.crashHere();
    else {
      pair.there.cut();
      pair.break();
      await pair.there.open();
    }
    // What was asked of the other side is never answered.
    release();
    await pair.streaming();
    await gone(t, pair);
    t.match(await verified(pair), { state: 'done', regionsDiffering: 0 });
  }
});

t.test('a group that closes ends it', async (t) => {
  for (const side of ['here', 'there'] as const) {
    const pair = await streaming({ regions: 64 });
    await pair.here.write(0, 3, 64);
    await pair.streaming();
    const verification = await pair.here.group.links.verify('b', { rateBytesPerSecond: 64 * KIB });
    await pair.until(() => verification.view.done > 0, 'a step');
    await pair[side].group.close();
    await pair.until(() => verification.isOver, side);
    t.equal(verification.view.state, 'failed');
  }
});

t.test('the image of a verification is its session’s, and asked for within bounds', async (t) => {
  const pair = await streaming();
  const { replica } = pair.there.group;
  if (replica === undefined) throw new Error('no secondary');
  let reached = false;
  let release = () => {};
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  pair.wire.hold = (call) => {
    if (call !== 'checksums') return undefined;
    reached = true;
    return held;
  };
  const verification = await pair.here.group.links.verify('b');
  await pair.until(() => reached, 'both images');
  const { id } = replica.state().verifying ?? { id: '' };
  const session = 1;
  t.equal((await replica.checksums(session, id, 'v', 0, 2)).length, 2 * CHECKSUM_BYTES);
  for (const [first, end] of [
    [0, 0],
    [-1, 1],
    [0, 17],
    [16, 17],
    [0.5, 1],
    [0, 5000],
    [Number.NaN, 1],
  ] as const) {
    await t.rejects(replica.checksums(session, id, 'v', first, end), { code: 'invalid' });
    await t.rejects(replica.content(session, id, 'v', first, end), { code: 'invalid' });
  }
  await t.rejects(replica.checksums(session, id, 'x', 0, 1), { code: 'not-found' });
  for (const [number, other] of [
    [session, 'another'],
    [session + 1, id],
  ] as const) {
    await t.rejects(replica.checksums(number, other, 'v', 0, 1), { code: 'unavailable' });
    await t.rejects(replica.content(number, other, 'v', 0, 1), { code: 'unavailable' });
  }
  await t.rejects(replica.beginVerify(session + 1, 'x'), { code: 'unavailable' });
  release();
  pair.wire.hold = undefined;
  await pair.until(() => verification.isOver, 'its end');
  t.match(verification.view, { state: 'done', regionsDiffering: 0 });
  await t.rejects(replica.checksums(session, id, 'v', 0, 1), { code: 'unavailable' });
  await gone(t, pair);
});

t.test('without room for an image on either disk it is refused, and says whose', async (t) => {
  for (const [side, whose] of [
    ['here', /^the disk has no room/],
    ['there', /^the disk of the secondary has no room/],
  ] as const) {
    const pair = await LinkedPair.make({ regions: 16 });
    const { folder } = pair[side];
    await pair.here.write(0, 1, 3);
    // There was no room for what is kept back, either.
    folder.faults.decide = (operation, name) =>
      operation === 'create' && name === 'reserve' ? 'ENOSPC' : undefined;
    await pair.here.group.links.add(link);
    await pair.streaming();
    folder.faults.spaceSectors = folder.usedSectors() + 16;
    t.match(await verified(pair), { state: 'failed', error: { errno: 'ENOSPC', message: whose } });
    t.notOk(pair.wire.calls.includes('content'));
    folder.faults.spaceSectors = Number.POSITIVE_INFINITY;
    t.match(await verified(pair), { state: 'done', regionsDiffering: 0 });
  }
});
