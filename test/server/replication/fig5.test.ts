/**
 * Fig. 5 of the patent: each path through the flowchart of a volume-changing operation under replication, on two nodes in processes of their own.
 *
 *   510  active replication to the secondary?       512  no: the operation is performed
 *   520  changes that are not replicated tracked?   522  pending updates?   524  mark them   526  mark every change from now on
 *   530  mark what the operation changes            540  combine            550  replicate   552  all of it?   554  write order again
 *
 * A link has its DCM from the beginning (rule K5), so that 520 asks whether it is what the secondary is brought up by: it is when the log is not kept for it
 * any more. While the log is kept, what is pending in it stays there in its order, the restore's record comes behind it, and the secondary asks for what it
 * lacks (K10): then 524 and 526 are not needed, and it is seen in no state that was not the primary's.
 */
import t, { type Test } from 'tap';
import { lettersOf, putLetters, REGION_BYTES } from '../../fixtures/letters.ts';
import { GROUP, LINK, ProcessPair, until } from '../../fixtures/process-pair.ts';

const VOLUME = `${GROUP}/v`;
const MIB = 1024 * 1024;

const pair = await ProcessPair.start(t);
const { primary, secondary, wire } = pair;

/** Eight regions, a snapshot of ABCDEFGH that only the primary has, and after it `a` in the first. */
async function diverged(local = true): Promise<void> {
  await pair.create({ logSize: 4 * MIB, volumes: [{ name: 'v', size: 8 * REGION_BYTES }] });
  await putLetters(primary, VOLUME, { 1: 'A', 2: 'B', 3: 'C', 4: 'D', 5: 'E', 6: 'F', 7: 'G', 8: 'H' });
  await pair.link();
  await primary.control.createSnapshot(GROUP, { name: 's', local });
  await putLetters(primary, VOLUME, { 1: 'a' });
  await pair.equal();
}

/** The log is not kept for the link any more: it goes on by marks. */
async function untilTracked(): Promise<void> {
  await primary.untilLink(({ position }) => position.logLsn === null);
}

/** Regions, from 1, that went over the wire since it had carried so many. */
function moved(since: number): number[] {
  const regions = wire.regions(REGION_BYTES).slice(since);
  return [...new Set(regions)].map((region) => Number(region.replace('v/', '')) + 1).sort((a, b) => a - b);
}

/** 554: a write comes by the log, and no region goes over. */
async function orderIsResumed(t: Test): Promise<void> {
  const { regionsResynced, bytesShipped } = await pair.equal();
  await putLetters(primary, VOLUME, { 8: 'z' });
  const link = await pair.equal();
  t.equal(link.regionsResynced, regionsResynced);
  t.ok(link.bytesShipped > bytesShipped + REGION_BYTES);
  t.match(await lettersOf(secondary, VOLUME), /z$/);
}

t.test('510 no, 512: without a link the operation is performed, and nothing is tracked', async (t) => {
  await pair.create({
    logSize: 4 * MIB,
    volumes: [{ name: 'v', size: 8 * REGION_BYTES }],
  });
  const before = wire.bytes();
  await putLetters(primary, VOLUME, { 1: 'A' });
  await primary.control.createSnapshot(GROUP, { name: 's' });
  await putLetters(primary, VOLUME, { 1: 'a' });
  t.same((await primary.control.planRestore(GROUP, 's', undefined)).links, []);
  await primary.control.restore(GROUP, 's', {});
  t.equal(await lettersOf(primary, VOLUME), 'A.......');
  t.same(wire.bytes(), before);
});

t.test(
  '510 no, 512: a detached secondary keeps what it has; its DCM has what it lacks ([0046])',
  async (t) => {
    await diverged();
    await primary.control.steerLink(GROUP, LINK, 'detach');
    await untilTracked();
    await putLetters(primary, VOLUME, { 2: 'b' });
    const plan = await primary.control.planRestore(GROUP, 's', undefined);
    t.match(plan.links, [{ path: 'marked', bytes: 2 * REGION_BYTES, note: /noted/ }]);
    const before = wire.regions(REGION_BYTES).length;
    await primary.control.restore(GROUP, 's', {});
    await primary.untilLink(({ lastRestore }) => lastRestore?.path === 'marked');
    t.equal(await lettersOf(primary, VOLUME), 'ABCDEFGH');
    t.equal(await lettersOf(secondary, VOLUME), 'aBCDEFGH');
    t.equal((await primary.link()).dcmRegions, 2);
    await primary.control.steerLink(GROUP, LINK, 'resume');
    await pair.equal();
    t.equal(await lettersOf(secondary, VOLUME), 'ABCDEFGH');
    t.same(moved(before), [1, 2]);
    await orderIsResumed(t);
  },
);

t.test(
  '510 no, 512: a link that is paused before the restore has its record in the log ([0046])',
  async (t) => {
    await diverged(false);
    await primary.control.steerLink(GROUP, LINK, 'pause');
    await putLetters(primary, VOLUME, { 2: 'b' });
    const before = wire.regions(REGION_BYTES).length;
    await primary.control.restore(GROUP, 's', {});
    t.equal(await lettersOf(primary, VOLUME), 'ABCDEFGH');
    t.equal(await lettersOf(secondary, VOLUME), 'aBCDEFGH');
    await primary.control.steerLink(GROUP, LINK, 'resume');
    t.equal((await pair.equal()).lastRestore?.path, 'by reference');
    t.equal(await lettersOf(secondary, VOLUME), 'ABCDEFGH');
    t.same(moved(before), [], 'nothing but the log');
    t.equal(await lettersOf(secondary, `${VOLUME}@undo`), 'abCDEFGH', 'what was pending came before it');
  },
);

t.test('510, 520 no, 522 no: the record comes by the log, and the secondary asks for 530', async (t) => {
  await diverged();
  const before = wire.regions(REGION_BYTES).length;
  await primary.control.restore(GROUP, 's', {});
  t.equal((await pair.equal()).lastRestore?.path, 'by regions');
  t.equal(await lettersOf(secondary, VOLUME), 'ABCDEFGH');
  t.same(moved(before), [1]);
  await orderIsResumed(t);
});

t.test('510, 520 no, 522 yes: what is pending in the log stays in its order before the record', async (t) => {
  await diverged();
  const before = wire.regions(REGION_BYTES).length;
  wire.holdUp('log');
  await putLetters(primary, VOLUME, { 2: 'b', 3: 'c' });
  await primary.control.restore(GROUP, 's', {});
  await putLetters(primary, VOLUME, { 4: 'd' });
  t.equal(await lettersOf(secondary, VOLUME), 'aBCDEFGH');
  const seen = new Set<string>();
  let isOver = false;
  const reader = (async () => {
    while (!isOver) seen.add(await lettersOf(secondary, VOLUME));
  })();
  wire.letGo();
  await pair.equal();
  isOver = true;
  await reader;
  t.equal(await lettersOf(secondary, VOLUME), 'ABCdEFGH');
  t.same(moved(before), [1, 2, 3], 'what it lacks of the restore, and not what came after it');
  // What was pending is not shown by itself while regions come out of order; what was restored is never shown in part.
  const states = ['aBCDEFGH', 'abCDEFGH', 'abcDEFGH', 'ABCDEFGH', 'ABCdEFGH'];
  t.same(
    [...seen].filter((letters) => !states.includes(letters)),
    [],
    'states of the primary and no others',
  );
  t.equal(await lettersOf(secondary, `${VOLUME}@undo`), 'abcDEFGH');
  await orderIsResumed(t);
});

t.test(
  '510, 520 no, 522 yes, 524, 526, 530, 540: pending ones are marked, and all that follows',
  async (t) => {
    await diverged();
    const before = wire.regions(REGION_BYTES).length;
    wire.holdUp('log');
    await putLetters(primary, VOLUME, { 2: 'b' });
    t.equal((await primary.link()).dcmRegions, 0, '522: it is in the log');
    // The log may not be kept for the secondary any longer; and it does not get through.
    wire.lower();
    await primary.control.setLink(GROUP, LINK, { limitBytes: 1 });
    await untilTracked();
    await primary.untilLink(({ dcmRegions }) => dcmRegions === 1);
    t.pass('524');
    await putLetters(primary, VOLUME, { 6: 'f' });
    await primary.untilLink(({ dcmRegions }) => dcmRegions === 2);
    t.pass('526');
    await primary.control.restore(GROUP, 's', {});
    await primary.untilLink(({ dcmRegions }) => dcmRegions === 3);
    t.match((await primary.link()).lastRestore, { path: 'marked' }, '530, 540');
    t.equal(await lettersOf(primary, VOLUME), 'ABCDEFGH');
    t.equal(await lettersOf(secondary, VOLUME), 'aBCDEFGH');
    wire.letGo();
    wire.raise();
    await primary.control.setLink(GROUP, LINK, { limitBytes: 0 });
    await primary.control.resyncLink(GROUP, LINK, false);
    await pair.equal();
    t.equal(await lettersOf(secondary, VOLUME), 'ABCDEFGH');
    t.same(moved(before), [1, 2, 6], '550');
    await orderIsResumed(t);
  },
);

t.test('510, 520 yes, 530, 540: what is tracked already is combined with the restoration map', async (t) => {
  await diverged();
  const before = wire.regions(REGION_BYTES).length;
  // Without a connection, and past the limit.
  wire.lower();
  await primary.control.setLink(GROUP, LINK, { limitBytes: 1 });
  await putLetters(primary, VOLUME, { 5: 'e' });
  await untilTracked();
  await primary.control.setLink(GROUP, LINK, { limitBytes: 0 });
  await primary.untilLink(({ dcmRegions }) => dcmRegions === 1);
  // It is connected again, and resyncing: changes are tracked, and the secondary is being replicated to.
  wire.holdUp('regions');
  wire.raise();
  await primary.control.resyncLink(GROUP, LINK, false);
  await until(() => wire.regions(REGION_BYTES).length > before);
  await primary.control.restore(GROUP, 's', {});
  t.equal(await lettersOf(primary, VOLUME), 'ABCDEFGH');
  t.equal(await lettersOf(secondary, VOLUME), 'aBCDEFGH', 'K9: the image from before');
  wire.letGo();
  await pair.equal();
  t.equal(await lettersOf(secondary, VOLUME), 'ABCDEFGH');
  t.same(moved(before), [1, 5], '550');
  await orderIsResumed(t);
});

t.test('552 no: what is not all of it goes on with 550, until it is', async (t) => {
  // A round ends early when the log has grown by a quarter of its ring since it began, of which it looks after 16 MiB.
  const regions = 20 * 16;
  await pair.create({
    logSize: 8 * MIB,
    volumes: [
      { name: 'v', size: regions * REGION_BYTES },
      { name: 'w', size: 8 * REGION_BYTES },
    ],
  });
  const fill = (letter: string) =>
    primary.with(VOLUME, async (client) => {
      for (let at = 0; at < regions * REGION_BYTES; at += MIB)
        await client.write(Buffer.alloc(MIB, letter), at);
    });
  await fill('A');
  await pair.link();
  await primary.control.createSnapshot(GROUP, { name: 's', local: true });
  await fill('a');
  await pair.equal();
  wire.holdUp('regions');
  await primary.control.restore(GROUP, 's', {});
  const before = wire.regions(REGION_BYTES).length;
  await until(() => wire.regions(REGION_BYTES).length > before);
  for (let count = 0; count < 6; count++)
    await putLetters(primary, `${GROUP}/w`, { 1: 'B', 2: 'C', 3: 'D', 4: 'E', 5: 'F', 6: 'G', 7: 'H' });
  wire.letGo();
  await pair.equal();
  t.ok(await pair.sameBytes('v', 'w'));
  t.equal((await lettersOf(secondary, VOLUME)).replaceAll('A', ''), '');
  const { events } = await primary.control.events();
  const rounds = events.filter(({ type }) => type === 'link.resync-round').map(({ data }) => data);
  t.match(
    rounds.slice(-2),
    [{ regions }, { regions: regions - 256 }],
    'the second has what the first has left: all but 16 MiB',
  );
  t.equal(wire.regions(REGION_BYTES).length - before, regions, 'each region once');
});

t.test(
  '550 while clients write and the link streams: nothing is held up, and nothing is lost ([0034])',
  async (t) => {
    await pair.create({
      logSize: 16 * MIB,
      volumes: [
        { name: 'v', size: 8 * REGION_BYTES },
        { name: 'w', size: 8 * REGION_BYTES },
      ],
    });
    await putLetters(primary, VOLUME, { 1: 'A', 2: 'B', 3: 'C', 4: 'D' });
    await pair.link();
    await primary.control.createSnapshot(GROUP, { name: 's', local: true });
    await putLetters(primary, VOLUME, { 2: 'b', 3: 'c' });
    await pair.equal();
    // One writer of a volume that is not restored, whom nobody disturbs; one of the volume that is, who is sent away and comes back.
    let [count, writes] = [0, 0];
    let isOver = false;
    const other = primary.with(`${GROUP}/w`, async (client) => {
      for (; !isOver; count++) {
        const letter = String.fromCharCode(65 + (count % 26));
        await client.write(Buffer.alloc(4096, letter), (count % 128) * 4096);
      }
    });
    const same = (async () => {
      while (!isOver) {
        await putLetters(primary, VOLUME, { 7: 'x', 8: 'y' }).then(
          () => writes++,
          () => undefined,
        );
      }
    })();
    await until(() => count > 100 && writes > 3);
    const before = wire.regions(REGION_BYTES).length;
    wire.holdUp('regions');
    await primary.control.restore(GROUP, 's', { volume: 'v', force: true });
    t.match(await lettersOf(primary, VOLUME), /^ABCD/, 'at once');
    await until(() => wire.regions(REGION_BYTES).length > before);
    const [countThen, writesThen] = [count, writes];
    await until(() => count > countThen + 100 && writes > writesThen + 3);
    t.pass('they write on while regions are on their way');
    wire.letGo();
    await primary.untilLink(({ state, dcmRegions }) => state === 'streaming' && dcmRegions === 0);
    t.pass('it catches up under them');
    isOver = true;
    await Promise.all([other, same]);
    await pair.equal();
    t.ok(await pair.sameBytes('v', 'w'));
    t.match(await lettersOf(secondary, VOLUME), /^ABCD..xy$/);
    const [, ...others] = moved(before);
    t.ok(
      moved(before).every((region) => [2, 3, 7, 8].includes(region)) && others.length > 0,
      'regions 2 and 3, and those that were written since the snapshot',
    );
  },
);

t.test('[0080]: on a secondary nothing is restored, and nothing changes', async (t) => {
  await diverged(false);
  const refused = await secondary.served.command('restore', `${GROUP}@s`, '--force');
  t.match(refused, { status: 1, stdout: '', stderr: /secondary|replica/ });
  t.match(refused.stderr, /primary/, 'it says where to do that');
  t.equal(await lettersOf(secondary, VOLUME), 'aBCDEFGH');
  await pair.equal();
});
