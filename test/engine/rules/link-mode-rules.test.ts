/** Rule K4: when a write is acknowledged, in each mode of a link, and while the link is not in it. */
import t, { type Test } from 'tap';
import { EngineError } from '../../../engine/errors.ts';
import { type LinkedOptions, LinkedPair } from '../../fixtures/linked-pair.ts';

const link = { name: 'b', uri: 'nbd://b' };

interface Answer {
  now: 'waits' | 'acknowledged' | EngineError;
}

function follow(promise: Promise<unknown>): Answer {
  const answer: Answer = { now: 'waits' };
  promise.then(
    () => {
      answer.now = 'acknowledged';
    },
    (error: EngineError) => {
      answer.now = error;
    },
  );
  return answer;
}

/** Writes as a server does: what was taken is answered when it may be. */
async function acknowledgedWrite(pair: LinkedPair, region: number, fill: number): Promise<void> {
  const volume = pair.here.volume();
  await pair.here.write(region, fill);
  if (volume.holdsReplies) await volume.acknowledged();
}

function write(pair: LinkedPair, region: number, fill: number): Answer {
  return follow(acknowledgedWrite(pair, region, fill));
}

function flush(pair: LinkedPair): Answer {
  const volume = pair.here.volume();
  return follow(volume.flush().then(() => (volume.holdsReplies ? volume.acknowledged() : undefined)));
}

/** Holds calls to the secondary of one kind, until the returned function is called. */
function holdCalls(pair: LinkedPair, name: string): () => void {
  let release = () => {};
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  pair.wire.hold = (call) => (call === name ? held : undefined);
  return () => {
    pair.wire.hold = undefined;
    release();
  };
}

async function streaming(settings: object, options: LinkedOptions = {}): Promise<LinkedPair> {
  const pair = await LinkedPair.make({ regions: 8, ...options });
  await pair.here.write(0, 1, 2);
  await pair.here.group.links.add({ ...link, ...settings });
  await pair.streaming();
  pair.wire.calls.length = 0;
  return pair;
}

async function acknowledged(
  t: Pick<Test, 'equal'>,
  pair: LinkedPair,
  answer: Answer,
  what = '',
): Promise<void> {
  await pair.until(() => answer.now !== 'waits', `an answer: ${what}`);
  t.equal(answer.now, 'acknowledged', what);
}

/** What the secondary has durably of the log, whatever becomes of it. */
async function durableThere(pair: LinkedPair): Promise<number> {
  pair.there.cut();
  pair.break();
  await pair.there.open();
  return pair.there.group.replica?.state().endLsn ?? 0;
}

t.test('K4: async acknowledges what is logged here', async (t) => {
  const pair = await streaming({});
  pair.wire.up = false;
  pair.break();
  t.equal(pair.here.volume().holdsReplies, false);
  const answer = write(pair, 2, 5);
  await pair.here.turns();
  t.equal(answer.now, 'acknowledged');
  t.match(pair.view.acknowledging, { inMode: true, heldRequests: 0 });
});

t.test('K4: memory waits until it is durable here and received there', async (t) => {
  const pair = await streaming({ mode: 'memory' });
  const syncHere = pair.here.folder.hold('sync', 'log.ring');
  const answer = write(pair, 2, 5);
  await pair.pass(200);
  t.equal(answer.now, 'waits', 'not durable here');
  const append = holdCalls(pair, 'append');
  syncHere();
  await pair.pass(200);
  t.equal(answer.now, 'waits', 'not received there');
  pair.there.folder.hold('sync', 'log.ring');
  append();
  await acknowledged(t, pair, answer);
  const { endLsn } = pair.here.group.log;
  t.ok((await durableThere(pair)) < endLsn, 'and it is not durable there');
});

t.test('K4: sync waits until it is durable on both, and so does a flush', async (t) => {
  const pair = await streaming({ mode: 'sync' });
  const syncThere = holdCalls(pair, 'sync');
  const answers = [write(pair, 2, 5), flush(pair)];
  await pair.pass(300);
  t.ok(pair.wire.calls.includes('append'), 'it has been received');
  t.same(
    answers.map(({ now }) => now),
    ['waits', 'waits'],
  );
  t.match(pair.view.acknowledging, { inMode: true, heldRequests: 2 });
  t.ok(pair.view.acknowledging.heldSeconds >= 0.2);
  t.equal((await pair.here.fills())[2], 5, 'readers see it');
  syncThere();
  for (const answer of answers) await acknowledged(t, pair, answer);
  t.match(pair.view.acknowledging, { inMode: true, heldRequests: 0, heldSeconds: 0 });
  const { endLsn } = pair.here.group.log;
  t.equal(await durableThere(pair), endLsn);
});

t.test('K4: no time has to pass, and many writers share syncs', async (t) => {
  const pair = await streaming({ mode: 'sync' });
  const trace = pair.here.watch();
  const answers = Array.from({ length: 32 }, (_, at) => write(pair, at % 8, 9));
  await pair.here.turns(2000);
  t.ok(
    answers.every(({ now }) => now === 'acknowledged'),
    'the clocks stand',
  );
  const syncs = trace.filter((entry) => entry === 'sync log.ring').length;
  t.ok(syncs > 0 && syncs <= 2, `${syncs} syncs here`);
  t.ok(pair.wire.calls.filter((call) => call === 'sync').length <= 2);
});

t.test(
  'K4: a control record and an import return when their records are where the mode wants them',
  async (t) => {
    const pair = await streaming({ mode: 'sync', onLost: 'block' });
    await acknowledged(t, pair, follow(pair.here.group.createSnapshot('s')));
    const syncThere = holdCalls(pair, 'sync');
    const changes = [
      follow(pair.here.group.createSnapshot('r')),
      follow(pair.here.group.refreshSnapshot('s')),
      follow(pair.here.group.renameSnapshot('r', 'q')),
      follow(pair.here.group.restore('s')),
    ];
    await pair.pass(300);
    t.ok(
      changes.every(({ now }) => now === 'waits'),
      'held',
    );
    t.same(
      pair.here.group.snapshots.map(({ name }) => name).sort(),
      ['q', 's', 'undo'],
      'none waits for the one before it',
    );
    syncThere();
    for (const change of changes) await acknowledged(t, pair, change);
    const image = await pair.here.folder.create('image', pair.here.volume().sizeBytes);
    await image.write(Buffer.alloc(8192, 3), 0, 8192, 0);
    const again = holdCalls(pair, 'sync');
    const importing = follow(pair.here.group.import('v', image));
    await pair.pass(300);
    t.equal(importing.now, 'waits');
    again();
    await acknowledged(t, pair, importing);
  },
);

t.test('K4: of two links, both have to have it', async (t) => {
  const pair = await streaming({ mode: 'sync' });
  // It leads to the same copy of the group, and is refused there: so it never streams.
  await pair.here.group.links.add({ name: 'c', uri: 'nbd://c', mode: 'memory', onLost: 'block' });
  const answer = write(pair, 2, 5);
  await pair.pass(500);
  const { endLsn } = pair.here.group.log;
  t.ok((pair.view.position.logLsn ?? 0) >= endLsn, 'one has it');
  t.equal(answer.now, 'waits');
  t.match(
    pair.here.group.links.views().map(({ acknowledging }) => acknowledging),
    [
      { inMode: true, heldRequests: 0 },
      { inMode: false, heldRequests: 1 },
    ],
  );
  const syncThere = holdCalls(pair, 'sync');
  await pair.here.group.links.set('c', { onLost: 'go-on' });
  await acknowledged(t, pair, answer, 'a link that lets go on holds nobody');
  const next = write(pair, 3, 6);
  await pair.pass(300);
  t.equal(next.now, 'waits', 'and the other one does');
  syncThere();
  await acknowledged(t, pair, next);
  await pair.here.group.links.set('c', { onLost: 'block' });
  const last = write(pair, 4, 7);
  await pair.pass(300);
  t.equal(last.now, 'waits');
  await pair.here.group.links.remove('c');
  await acknowledged(t, pair, last, 'a link that is removed holds nobody');
});

t.test('K4: while a link is lost, go-on acknowledges as async does', async (t) => {
  const pair = await streaming({ mode: 'sync' });
  const syncThere = holdCalls(pair, 'sync');
  const before = write(pair, 2, 5);
  await pair.pass(100);
  t.equal(before.now, 'waits');
  pair.wire.up = false;
  pair.break();
  syncThere();
  const meanwhile = write(pair, 3, 6);
  await pair.here.turns();
  t.same([before.now, meanwhile.now], ['acknowledged', 'acknowledged']);
  t.match(pair.view.acknowledging, { inMode: false, reason: 'it is not connected', heldRequests: 0 });
  t.notOk(pair.here.told.includes('link.holding'));
  pair.wire.up = true;
  await pair.streaming();
  t.match(pair.view.acknowledging, { inMode: true });
});

t.test('K4: while a link is lost, block holds writers, and nobody else', async (t) => {
  const pair = await streaming({ mode: 'sync', onLost: 'block' });
  pair.wire.up = false;
  pair.break();
  const answers = [write(pair, 2, 5), write(pair, 3, 6), flush(pair)];
  await pair.pass(2000);
  t.ok(answers.every(({ now }) => now === 'waits'));
  t.same((await pair.here.fills()).slice(2, 4), [5, 6], 'readers go on');
  t.match(pair.view.acknowledging, { inMode: false, reason: 'it is not connected', heldRequests: 3 });
  t.equal(pair.here.told.filter((type) => type === 'link.holding').length, 1);
  pair.wire.up = true;
  for (const answer of answers) await acknowledged(t, pair, answer);
  t.equal(pair.here.told.filter((type) => type === 'link.released').length, 1);
  await pair.streaming();
  const { here, there } = await pair.fills();
  t.same(there, here);
});

t.test('K4: a link that is resynchronised is not in its mode', async (t) => {
  for (const onLost of ['go-on', 'block'] as const) {
    const pair = await streaming({ mode: 'memory', onLost });
    const release = holdCalls(pair, 'writeRegions');
    await pair.here.group.links.resync('b', { full: true });
    await pair.until(() => pair.wire.calls.includes('writeRegions'), 'a round');
    const answer = write(pair, 2, 5);
    await pair.pass(500);
    t.equal(answer.now, onLost === 'go-on' ? 'acknowledged' : 'waits');
    t.match(pair.view.acknowledging, { inMode: false, reason: /resynchronised/ });
    release();
    await acknowledged(t, pair, answer, onLost);
    await pair.streaming();
    t.match(pair.view.acknowledging, { inMode: true });
  }
});

t.test('K4: the first synchronisation holds the writers of a link that blocks', async (t) => {
  const pair = await LinkedPair.make({ regions: 8 });
  await pair.here.write(0, 1, 2);
  pair.wire.up = false;
  await pair.here.group.links.add({ ...link, mode: 'sync', onLost: 'block' });
  const answer = write(pair, 4, 9);
  await pair.pass(1000);
  t.equal(answer.now, 'waits');
  pair.wire.up = true;
  await acknowledged(t, pair, answer);
  await pair.streaming();
  t.equal((await pair.fills()).there[0]?.[4], 9);
});

t.test('K4: a secondary without room is not lost, and its link is not in its mode', async (t) => {
  for (const onLost of ['go-on', 'block'] as const) {
    const pair = await streaming({ mode: 'sync', onLost });
    const full = new EngineError('in-use', 'the log there is full', { errno: 'ENOSPC' });
    pair.wire.decide = (call) => (call === 'append' ? full : undefined);
    const answer = write(pair, 2, 5);
    await pair.pass(1000);
    t.equal(answer.now, onLost === 'go-on' ? 'acknowledged' : 'waits');
    t.match(pair.view.acknowledging, { inMode: false, reason: 'the log there is full' });
    pair.wire.decide = undefined;
    await acknowledged(t, pair, answer, onLost);
  }
});

t.test('K4: after a restore that may need regions, nothing counts before they are there', async (t) => {
  for (const local of [true, false]) {
    const pair = await streaming({ mode: 'sync', onLost: 'block' });
    await acknowledged(t, pair, follow(pair.here.group.createSnapshot('s', { local })));
    await acknowledged(t, pair, write(pair, 1, 9));
    await pair.streaming();
    await pair.pass(2000);
    const frozen = pair.there.group.replica?.freeze();
    await pair.there.turns();
    await frozen;
    const [forecast] = pair.here.group.links.forecastRestore(pair.here.group.planRestore('s'));
    t.match(forecast?.note, local ? /writers are held until the resync is over/ : undefined);
    const restore = follow(pair.here.group.restore('s'));
    await pair.pass(500);
    const answer = write(pair, 5, 7);
    await pair.pass(2000);
    const { endLsn } = pair.here.group.log;
    t.ok((pair.view.position.logLsn ?? 0) >= endLsn, 'the secondary has all of it in its log');
    t.same([restore.now, answer.now], local ? ['waits', 'waits'] : ['acknowledged', 'acknowledged']);
    if (local) t.match(pair.view.acknowledging, { inMode: false, reason: /come to the restore/ });
    const thawed = pair.there.group.replica?.thaw();
    await pair.there.turns();
    await thawed;
    for (const one of [restore, answer]) await acknowledged(t, pair, one);
    const state = pair.there.group.replica?.state();
    t.match(state, { resyncing: false, needs: 0 }, 'what it lacked is there');
    await pair.streaming();
    const { here, there } = await pair.fills();
    t.same(there, here);
    t.equal(pair.view.lastRestore?.path, local ? 'by regions' : 'by reference');
  }
});

t.test('K4: settings that change hold and release at once', async (t) => {
  const pair = await streaming({ mode: 'sync', onLost: 'block' });
  const { links } = pair.here.group;
  pair.wire.up = false;
  pair.break();
  for (const [release, again] of [
    [{ onLost: 'go-on' }, { onLost: 'block' }],
    [{ mode: 'async' }, { mode: 'memory' }],
  ] as const) {
    const answer = write(pair, 2, 5);
    await pair.pass(200);
    t.equal(answer.now, 'waits');
    await links.set('b', release);
    await pair.here.turns();
    t.equal(answer.now, 'acknowledged');
    const free = write(pair, 3, 5);
    await pair.here.turns();
    t.equal(free.now, 'acknowledged');
    await links.set('b', again);
  }
  const last = write(pair, 4, 5);
  await pair.pass(200);
  t.equal(last.now, 'waits');
  pair.wire.up = true;
  await acknowledged(t, pair, last);
});

t.test('K4: a stricter mode does not count what the other one had', async (t) => {
  const pair = await streaming({ mode: 'memory', onLost: 'block' });
  const syncThere = holdCalls(pair, 'sync');
  await acknowledged(t, pair, write(pair, 2, 5));
  pair.wire.up = false;
  pair.break();
  await pair.here.group.links.set('b', { mode: 'sync' });
  const answer = flush(pair);
  await pair.pass(500);
  t.equal(answer.now, 'waits');
  pair.wire.up = true;
  syncThere();
  await acknowledged(t, pair, answer);
});

t.test('K4: nobody stops a link that holds writers meanwhile', async (t) => {
  const pair = await streaming({ mode: 'sync', onLost: 'block' });
  const { links } = pair.here.group;
  const refusal = { code: 'in-use', message: /would hold all writers.*--on-lost go-on/ };
  await t.rejects(links.pause('b'), refusal);
  await t.rejects(links.detach('b'), refusal);
  t.equal(pair.view.state, 'streaming');
  await links.set('b', { onLost: 'go-on' });
  await links.pause('b');
  await t.rejects(links.set('b', { onLost: 'block' }), refusal);
  t.match(pair.view, { onLost: 'go-on', state: 'paused', acknowledging: { inMode: false } });
  await t.rejects(links.set('b', { onLost: 'block', onFull: 'detach' }), { code: 'invalid' });
  await links.set('b', { mode: 'async', onLost: 'block' });
  await links.resume('b');
});

t.test('K4: closing refuses whoever is held, and acknowledges nobody', async (t) => {
  const pair = await streaming({ mode: 'sync', onLost: 'block' });
  pair.wire.up = false;
  pair.break();
  const answers = [write(pair, 2, 5), flush(pair), follow(pair.here.group.createSnapshot('s'))];
  await pair.pass(300);
  t.ok(answers.every(({ now }) => now === 'waits'));
  const closing = follow(pair.here.group.close());
  await pair.until(() => closing.now !== 'waits', 'closed');
  t.equal(closing.now, 'acknowledged', 'the group is closed well');
  for (const { now } of answers) t.match(now, { code: 'unavailable', errno: 'ESHUTDOWN' });
});

t.test('K4: a primary that was killed holds until its link streams', async (t) => {
  const pair = await streaming({ mode: 'sync', onLost: 'block' });
  pair.wire.up = false;
  await pair.crashHere();
  const answers = [write(pair, 2, 5), flush(pair)];
  await pair.pass(2000);
  t.ok(answers.every(({ now }) => now === 'waits'));
  pair.wire.up = true;
  for (const answer of answers) await acknowledged(t, pair, answer);
  const { endLsn } = pair.here.group.log;
  t.equal(await durableThere(pair), endLsn);
});

t.test('K4: a log that fails refuses whoever waits', async (t) => {
  const pair = await streaming({ mode: 'sync', onLost: 'block' });
  pair.here.watch((operation, name) =>
    operation === 'sync' && name.endsWith('log.ring') ? 'EIO' : undefined,
  );
  const answer = write(pair, 2, 5);
  await pair.pass(300);
  t.match(answer.now, { code: 'unavailable' });
});

t.test('K4: a link that comes back far behind lets writers go on until it has caught up', async (t) => {
  const MIB = 1024 * 1024;
  const pair = await streaming(
    { mode: 'sync' },
    { regions: 1024, logBytes: 16 * MIB, secondary: { regions: 1024, logBytes: 16 * MIB } },
  );
  pair.wire.up = false;
  pair.break();
  for (let at = 0; at < 1024; at += 64) await pair.here.write(at, 7, 64);
  await pair.here.volume().flush();
  const release = holdCalls(pair, 'append');
  pair.wire.up = true;
  await pair.until(() => pair.view.state === 'streaming', 'a connection');
  t.match(pair.view.acknowledging, { inMode: false, reason: /still to get what is logged/ });
  const answer = write(pair, 2, 5);
  await pair.here.turns();
  t.equal(answer.now, 'acknowledged');
  release();
  await pair.until(() => pair.view.acknowledging.inMode, 'it has caught up');
  const syncThere = holdCalls(pair, 'sync');
  const later = write(pair, 3, 5);
  await pair.pass(300);
  t.equal(later.now, 'waits');
  syncThere();
  await acknowledged(t, pair, later);
});
