/** A secondary that says what cannot be, or does nothing of what it is asked: the link has that, and the group has nothing of it. */
import t, { type Test } from 'tap';
import { EngineError } from '../../../engine/errors.ts';
import type { PeerState } from '../../../engine/link/peer.ts';
import type { Replica } from '../../../engine/replica/replica.ts';
import { LinkedPair } from '../../fixtures/linked-pair.ts';

const link = { name: 'b', uri: 'nbd://b' };

function replicaOf(pair: LinkedPair): Replica {
  const { replica } = pair.there.group;
  if (replica === undefined) throw new Error('it is no secondary');
  return replica;
}

/** From here on the secondary says that of itself. Returns what makes it honest again. */
function lies(pair: LinkedPair, changes: Partial<PeerState>): () => void {
  const replica = replicaOf(pair);
  const state = replica.state.bind(replica);
  Object.assign(replica, { state: () => ({ ...state(), ...changes }) });
  return () => Object.assign(replica, { state });
}

async function streaming(): Promise<LinkedPair> {
  const pair = await LinkedPair.make({ regions: 8 });
  await pair.here.write(0, 1, 8);
  await pair.here.group.links.add(link);
  await pair.streaming();
  return pair;
}

/** The primary takes writes, and once the secondary is honest again it gets them. */
async function goesOn(t: Pick<Test, 'same' | 'equal'>, pair: LinkedPair): Promise<void> {
  t.equal(pair.here.group.failure, undefined);
  await pair.here.write(2, 77);
  await pair.here.volume().flush();
  await pair.streaming();
  const { here, there } = await pair.fills();
  t.same(there, here);
}

for (const endLsn of [0, 7, 2 ** 53 - 1])
  t.test(`a full secondary whose log ends at ${endLsn}, as it says`, async (t) => {
    const pair = await streaming();
    for (let count = 0; count < 30; count++) {
      await pair.here.write(count % 8, count + 1);
      await pair.pass(100);
    }
    await pair.pass(3000);
    let honest: (() => void) | undefined;
    pair.wire.decide = (call) => {
      if (call !== 'append' || honest !== undefined) return undefined;
      honest = lies(pair, { endLsn });
      return new EngineError('in-use', 'full', { errno: 'ENOSPC' });
    };
    await pair.here.write(3, 99);
    await pair.pass(3000);
    t.ok(pair.here.told.includes('link.lost-connection') || pair.here.told.includes('link.failed'));
    t.ok((pair.view.position.logLsn ?? 0) <= pair.here.group.log.endLsn, 'the cursor is where log is');
    honest?.();
    await goesOn(t, pair);
  });

t.test('one that needs regions that there are not', async (t) => {
  const pair = await streaming();
  const replica = replicaOf(pair);
  const needs = replica.needs.bind(replica);
  const honest = lies(pair, { needs: 1 });
  Object.assign(replica, { needs: () => [{ first: 0, end: 1000 }] });
  await pair.until(() => pair.view.reason?.includes('needs regions 0 to 1000') === true, 'it is told why');
  honest();
  Object.assign(replica, { needs });
  await goesOn(t, pair);
});

t.test('one whose id no record can hold: the link fails, and the group can be opened', async (t) => {
  const pair = await LinkedPair.make({ regions: 8 });
  await pair.here.write(0, 1, 8);
  const honest = lies(pair, { memberId: 'node-b' });
  await pair.here.group.links.add(link);
  await pair.until(() => pair.view.state === 'failed', 'failed');
  t.match(pair.view.reason, /stopped because of a bug: bug: the fields of the group's record/);
  t.match(
    pair.here.events.find(({ type }) => type === 'link.failed'),
    { data: { link: 'b', stack: /group-record-codec/ } },
    'with what mends it',
  );
  honest();
  await goesOn(t, pair);
  pair.break();
  await pair.here.reopen();
  await pair.streaming();
});

t.test('one that fails at regions is tried again ever more seldom', async (t) => {
  const pair = await LinkedPair.make({ regions: 8 });
  await pair.here.write(0, 1, 8);
  pair.wire.decide = (call) =>
    call === 'syncRegions' ? new EngineError('disk', 'EIO there', { errno: 'EIO' }) : undefined;
  await pair.here.group.links.add(link);
  await pair.pass(60_000);
  t.ok(pair.wire.calls.filter((call) => call === 'begin').length < 15, String(pair.wire.calls.length));
  t.equal(pair.view.regionsResynced, 0, 'none is there durably');
  pair.wire.decide = undefined;
  await goesOn(t, pair);
  t.equal(pair.view.regionsResynced, 8);
});

t.test('one that does not answer the hand-over is left', async (t) => {
  const pair = await LinkedPair.make({ regions: 8 });
  await pair.here.write(0, 1, 8);
  let answer = () => {};
  const held = new Promise<void>((resolve) => {
    answer = resolve;
  });
  pair.wire.hold = (call) => (call === 'begin' ? held : undefined);
  await pair.here.group.links.add(link);
  await pair.pass(130_000);
  answer();
  await pair.until(() => pair.view.reason?.includes('does not answer') === true, 'it was left');
  await goesOn(t, pair);
});

t.test('a frozen one makes no rounds, and a thaw is seen at once', async (t) => {
  const pair = await streaming();
  await replicaOf(pair).freeze();
  await pair.here.write(0, 2, 3);
  await pair.pass(500);
  await pair.here.group.links.resync('b', { full: true });
  const before = pair.here.told.length;
  const holds = () => pair.wire.calls.filter((call) => call === 'hold').length;
  const held = holds();
  await pair.pass(600_000);
  t.ok(holds() - held < 10, `${holds() - held} rounds in ten minutes`);
  t.same(pair.here.told.slice(before), [], 'and nothing is told of them');
  t.match(pair.view.reason, /frozen/);
  await replicaOf(pair).thaw();
  await pair.until(() => pair.here.told.slice(before).includes('link.resync-completed'), 'it goes on', 5000);
  await goesOn(t, pair);
});

t.test('one that has failed says so', async (t) => {
  const pair = await streaming();
  t.equal(pair.view.reason, undefined);
  pair.there.folder.faults.decide = (operation, name) =>
    operation === 'sync' && name.endsWith('log.ring') ? 'EIO' : undefined;
  await pair.here.write(3, 9);
  await pair.here.volume().flush();
  await pair.until(() => pair.there.group.failure !== undefined, 'its log has failed');
  await pair.pass(5000);
  t.match(replicaOf(pair).heldBack, /^it has failed: .*log/);
});
