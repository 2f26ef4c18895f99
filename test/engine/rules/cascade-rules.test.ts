/** Rule K11, a cascade: a primary (node 0), its secondary (1), and a secondary of that (2). */
import t, { type Test } from 'tap';
import { EngineError } from '../../../engine/errors.ts';
import type { Announcement } from '../../../engine/link/peer.ts';
import { type ChainOptions, LinkedChain } from '../../fixtures/linked-chain.ts';
import { Random } from '../../fixtures/random.ts';

type State = readonly (readonly number[])[];

/** What the primary has shown, state by state; and that the others show these, each no earlier one than before. */
class Story {
  readonly #chain: LinkedChain;
  readonly #states: State[] = [];
  readonly #shown: number[];

  constructor(chain: LinkedChain) {
    this.#chain = chain;
    this.#shown = chain.nodes.map(() => 0);
    this.#states.push(
      [...chain.node(0).group.volumes.keys()].map(() => Array(chain.node(0).regions).fill(0)),
    );
  }

  async write(region: number, fill: number, volume = 0): Promise<void> {
    const names = [...this.#chain.node(0).group.volumes.keys()];
    await this.#chain.node(0).write(region, fill, 1, this.#chain.node(0).volume(names[volume]));
    const last = this.#states.at(-1) ?? [];
    this.#states.push(
      last.map((fills, at) =>
        at === volume ? fills.map((old, index) => (index === region ? fill : old)) : fills,
      ),
    );
  }

  async restored(): Promise<void> {
    this.#states.push(await this.#chain.fills(0));
  }

  /** Undefined where a node shows nothing now. */
  async look(number: number): Promise<string | undefined> {
    let fills: number[][];
    try {
      fills = await this.#chain.fills(number);
    } catch (error) {
      if (error instanceof EngineError && error.code === 'unavailable') return undefined;
      throw error;
    }
    const text = JSON.stringify(fills);
    const from = this.#shown[number] ?? 0;
    const at = this.#states.findIndex((state, index) => index >= from && JSON.stringify(state) === text);
    if (at < 0) return `node ${number} shows ${text}, which is no state from ${from} on`;
    this.#shown[number] = at;
    return undefined;
  }
}

interface Told {
  readonly chain: LinkedChain;
  readonly story: Story;
  /** All secondaries show one state of the primary, and no earlier one than before. */
  readonly look: () => Promise<void>;
}

async function told(t: Pick<Test, 'equal'>, options: ChainOptions = {}): Promise<Told> {
  const chain = await LinkedChain.make({ regions: 8, volumes: ['v', 'w'], ...options });
  const story = new Story(chain);
  const look = async (): Promise<void> => {
    for (let number = 1; number < chain.nodes.length; number++) {
      const wrong = await story.look(number);
      if (wrong !== undefined) t.equal(wrong, undefined);
    }
  };
  return { chain, story, look };
}

/** All in step, with regions 0 and 1 of each volume written. */
async function inStep(t: Pick<Test, 'equal'>, options: ChainOptions = {}): Promise<Told> {
  const all = await told(t, options);
  for (const volume of [0, 1]) for (const region of [0, 1]) await all.story.write(region, 2, volume);
  await all.chain.link();
  await all.chain.inStep(all.look);
  all.chain.forget();
  return all;
}

async function equal(t: Pick<Test, 'same' | 'equal'>, { chain, look }: Told, what = ''): Promise<void> {
  await chain.inStep(look);
  const primary = await chain.fills(0);
  for (let number = 1; number < chain.nodes.length; number++)
    t.same(await chain.fills(number), primary, `${what} node ${number}`);
}

/** What a link says before its first try has ended. */
const NOT_YET = 'it has not been connected yet';

const sorted = (regions: readonly string[]): string[] => [...regions].sort();

/** The primary lets go of the log for node 1, which has to be resynchronised: its log begins anew. Regions 2 to 5 of v are written meanwhile. */
async function overflow({ chain, story }: Told): Promise<void> {
  chain.break(1, false);
  for (let count = 0; count < 12; count++) await story.write(2 + (count % 4), count + 10);
  await chain.node(0).volume().flush();
  await chain.node(0).group.links.set('to-1', { limitBytes: 1 });
  await chain.until(() => chain.view(1).position.logLsn === null, 'an overflow');
  await chain.node(0).group.links.set('to-1', { limitBytes: 0 });
  // Its place in the log is gone.
  for (let count = 0; count < 80; count++) await story.write(5, count + 1);
  await chain.node(0).group.settled();
  await chain.pass(1500);
}

t.test('K11: what a secondary gets it passes on, through its own log', async (t) => {
  const all = await inStep(t, { count: 4 });
  const { chain, story } = all;
  for (let count = 0; count < 20; count++) {
    await story.write(count % 8, count + 3, count % 2);
    await chain.pass(20);
  }
  await equal(t, all);
  for (const number of [1, 2, 3]) t.same(chain.wire(number).regions, [], `no region went to node ${number}`);
  const ids = chain.nodes.map((bench) => (bench.durableRecord() as unknown as { memberId: string }).memberId);
  t.match(chain.node(3).group.replica?.upstream, { memberId: ids[2], path: [ids[1], ids[0]] });
  t.equal(chain.node(3).group.id, chain.node(0).group.id);
});

t.test('K11: the first synchronisation comes from the middle, while clients write', async (t) => {
  const all = await told(t);
  const { chain, story, look } = all;
  for (const region of [0, 1, 2]) await story.write(region, 2);
  await chain.linkTo(2);
  await chain.pass(500);
  t.match(chain.view(2), { state: 'connecting', reason: /has not met its own primary/ });
  t.same(chain.wire(2).calls, []);
  await chain.linkTo(1);
  let count = 0;
  const writing = async (): Promise<void> => {
    await look();
    if (count++ < 100) await story.write(4 + (count % 4), count, count % 2);
  };
  await chain.until(() => count > 100 && chain.isInStep, 'all in step', writing);
  await equal(t, all);
  t.same(sorted([...new Set(chain.wire(2).regions)]).slice(0, 3), ['v/0', 'v/1', 'v/2']);
  t.notOk(chain.wire(2).regions.includes('v/3'), 'what nobody wrote is not copied');
});

t.test(
  'K11: where the log of the middle begins anew, the last gets what it lacks, and no more',
  async (t) => {
    const all = await inStep(t);
    const { chain } = all;
    await overflow(all);
    chain.break(1, true);
    await equal(t, all);
    t.ok(chain.wire(1).calls.includes('restart'));
    t.ok(chain.node(1).told.includes('link.overflow'));
    t.ok(chain.wire(2).calls.includes('restart'));
    for (const number of [1, 2])
      t.same(
        sorted(chain.wire(number).regions),
        ['v/2', 'v/3', 'v/4', 'v/5'],
        `to node ${number}, each once`,
      );
  },
);

t.test('K11: the same where the last lacks what the middle had not shipped', async (t) => {
  const all = await inStep(t);
  const { chain, story } = all;
  chain.break(2, false);
  await story.write(7, 70, 1);
  await chain.until(() => chain.view(1).lagBytes === 0, 'the middle has it');
  await overflow(all);
  chain.break(1, true);
  await chain.until(() => chain.view(1).state === 'streaming', 'the middle is whole', all.look);
  chain.break(2, true);
  await equal(t, all);
  t.same(sorted(chain.wire(2).regions), ['v/2', 'v/3', 'v/4', 'v/5', 'w/7']);
});

t.test('K11: a node that is being resynchronised serves no resync, and says so', async (t) => {
  const all = await inStep(t);
  const { chain, look } = all;
  let release = () => {};
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  await overflow(all);
  chain.wire(1).hold = (call) => (call === 'syncRegions' ? held : undefined);
  chain.break(1, true);
  await chain.until(() => chain.wire(1).calls.includes('syncRegions'), 'regions have come', look);
  await chain.pass(2000);
  await look();
  t.match(chain.view(2), { state: 'resync', reason: /is being resynchronised itself/ });
  t.notOk(chain.wire(2).calls.includes('hold'), 'no round');
  release();
  chain.wire(1).hold = undefined;
  await equal(t, all);
  t.ok(chain.wire(2).calls.includes('hold'));
});

t.test('K11: what the middle gets again, whatever it had, the last gets again', async (t) => {
  const all = await inStep(t);
  const { chain } = all;
  await chain.node(0).group.links.resync('to-1', { full: true });
  await chain.until(() => chain.wire(1).regions.length === 16, 'all regions', all.look);
  await equal(t, all);
  t.equal(chain.wire(2).regions.length, 16);
  t.notOk(chain.wire(2).calls.includes('restart'), 'beside the log');
});

t.test('K11: an overflow of a link of the middle', async (t) => {
  const all = await inStep(t);
  const { chain, story } = all;
  chain.break(2, false);
  for (let count = 0; count < 12; count++) await story.write(2 + (count % 3), count + 10);
  await chain.until(() => chain.view(1).lagBytes === 0, 'the middle has it');
  await chain.node(1).group.links.set('to-2', { limitBytes: 1 });
  await chain.until(() => chain.view(2).position.logLsn === null, 'an overflow');
  await story.write(6, 60);
  await chain.until(() => chain.view(2).dcmRegions === 4, 'what follows is marked');
  await chain.node(1).group.links.set('to-2', { limitBytes: 0 });
  await chain.crash(1);
  chain.break(2, true);
  await equal(t, all);
  t.same(sorted(chain.wire(2).regions), ['v/2', 'v/3', 'v/4', 'v/6']);
  t.same(chain.wire(1).regions, []);
});

t.test('K11: a restore that all hold the snapshot of goes through as its record', async (t) => {
  const all = await inStep(t);
  const { chain, story } = all;
  await chain.node(0).group.createSnapshot('s');
  for (const region of [1, 2, 3]) await story.write(region, 9);
  await chain.inStep(all.look);
  await chain.node(0).group.restore('s');
  await story.restored();
  await equal(t, all);
  for (const number of [1, 2]) {
    t.same(chain.wire(number).regions, []);
    await chain.until(() => chain.view(number).lastRestore?.path === 'by reference', 'told');
  }
});

t.test(
  'K11: of a restore that none can do by reference each gets the regions from the one above',
  async (t) => {
    const all = await inStep(t);
    const { chain, story, look } = all;
    await chain.node(0).group.createSnapshot('s', { local: true });
    for (const region of [1, 2, 3]) await story.write(region, 9);
    await chain.inStep(look);
    await chain.node(0).group.restore('s');
    await story.restored();
    for (let count = 0; count < 30; count++) {
      await story.write(5 + (count % 2), count + 1);
      await chain.pass(100);
      await look();
    }
    await equal(t, all);
    for (const number of [1, 2])
      t.same(sorted([...new Set(chain.wire(number).regions)]), ['v/1', 'v/2', 'v/3'], `to node ${number}`);
    t.equal(chain.view(2).lastRestore?.path, 'by regions');
  },
);

for (const without of [1, 2])
  t.test(`K11: a restore that only node ${without} lacks the snapshot of`, async (t) => {
    const all = await inStep(t);
    const { chain, story, look } = all;
    // It has another one of that name: the primary's is absent there.
    await chain.node(without).group.createSnapshot('s', { local: true });
    await chain.node(0).group.createSnapshot('s');
    for (const region of [1, 2, 3]) await story.write(region, 9);
    await chain.inStep(look);
    await chain.node(0).group.restore('s');
    await story.restored();
    for (let count = 0; count < 10; count++) {
      await story.write(2 + (count % 4), count + 1, 1);
      await chain.pass(100);
      await look();
    }
    await equal(t, all);
    t.same(sorted([...new Set(chain.wire(without).regions)]), ['v/1', 'v/2', 'v/3']);
    if (without === 2) t.same(chain.wire(1).regions, []);
  });

t.test('K11: the last may be ahead of the middle, whose round waits until it is there', async (t) => {
  const all = await inStep(t);
  const { chain, story, look } = all;
  const middle = chain.node(1).group;
  await middle.replica?.freeze();
  await story.write(4, 40);
  await chain.until(() => chain.view(2).lagBytes === 0 && chain.view(1).lagBytes === 0, 'all have it', look);
  await chain.until(() => chain.node(2).group.replica?.state().heldBack === null, 'applied');
  await chain.pass(500);
  t.not((await chain.fills(1))[0]?.[4], 40);
  t.equal((await chain.fills(2))[0]?.[4], 40, 'it is ahead');
  await middle.links.resync('to-2', { full: true });
  await chain.pass(2000);
  t.match(chain.view(2), { state: 'resync', reason: /has not applied yet what its secondary has: frozen/ });
  t.same(chain.wire(2).regions, []);
  await story.write(5, 50);
  await chain.until(() => chain.view(1).lagBytes === 0, 'the middle has more than that');
  await middle.replica?.thaw();
  await equal(t, all);
  t.equal(chain.wire(2).regions.length, 16);
});

t.test('K11: a frozen middle gives a new secondary what it shows', async (t) => {
  const all = await told(t);
  const { chain, story, look } = all;
  for (const region of [0, 1]) await story.write(region, 2);
  await chain.linkTo(1);
  await chain.until(() => chain.view(1).state === 'streaming', 'the middle is whole');
  await chain.until(() => chain.node(1).group.replica?.state().resyncing === false, 'whole');
  await chain.node(1).group.replica?.freeze();
  for (let count = 0; count < 20; count++) await story.write(4, count + 1);
  await chain.until(() => chain.view(1).lagBytes === 0, 'the middle has it');
  await chain.linkTo(2);
  await chain.until(() => chain.view(2).state === 'streaming' && chain.view(2).lagBytes === 0, 'fed', look);
  await chain.until(() => chain.node(2).group.replica?.state().heldBack === null, 'applied', look);
  await chain.pass(500);
  t.equal((await chain.fills(2))[0]?.[4], 20, 'and the log, which it applies by itself');
  await chain.node(1).group.replica?.thaw();
  await equal(t, all);
});

t.test('K11: regions that came are marked before they count as there', async (t) => {
  let during = 0;
  for (let cut = 1; cut < 140; cut += 6) {
    const all = await inStep(t, { seed: cut, volumes: ['v'] });
    const { chain } = all;
    await overflow(all);
    const isOver = chain.node(1).cutAt(cut);
    chain.break(1, true);
    await chain.pass(6000);
    if (isOver()) during++;
    await chain.crash(1);
    await equal(t, all, `cut ${cut}`);
  }
  t.ok(during > 8, `${during} in the middle of it`);
});

t.test('K11: nodes die at any moment, while clients write and restore', async (t) => {
  for (let seed = 1; seed <= 8; seed++) {
    const random = new Random(seed * 77);
    const all = await inStep(t, { seed });
    const { chain, story, look } = all;
    await chain.node(0).group.createSnapshot('s', { local: random.chance(0.5) });
    for (let step = 0; step < 40; step++) {
      const what = random.below(10);
      if (what < 6) await story.write(random.below(8), 1 + random.below(200), random.below(2));
      else if (what === 6 && step > 5) {
        await chain.node(0).group.restore('s');
        await story.restored();
      } else if (what === 7) await chain.crash(1 + random.below(2));
      else if (what === 8) chain.break(1 + random.below(2));
      else await chain.node(1).group.links.resync('to-2', { full: true });
      await chain.pass(20 * random.below(20));
      await look();
    }
    await equal(t, all, `seed ${seed}`);
    for (const { group } of chain.nodes.reverse()) await group.close();
  }
});

t.test('K11: a log that is cut is cut for those whom it feeds', async (t) => {
  for (const isFrozen of [true, false]) {
    const all = await inStep(t);
    const { chain, story } = all;
    const [middle, last] = [chain.node(1).group.replica, chain.node(2).group.replica];
    await middle?.freeze();
    if (isFrozen) await last?.freeze();
    const cutLsn = middle?.state().horizonLsn ?? 0;
    await story.write(4, 40);
    await chain.until(() => chain.view(2).lagBytes === 0 && chain.view(1).lagBytes === 0, 'all have it');
    await chain.pass(500);
    const { endLsn } = chain.node(2).group.log;
    t.ok(endLsn > cutLsn);
    chain.break(1, false);
    // Its primary comes back without what it had said was durable.
    await middle?.begin(announcedTo(chain, { durableLsn: cutLsn }));
    t.equal(chain.node(1).group.log.endLsn, cutLsn);
    if (isFrozen) {
      await chain.until(() => chain.node(2).group.log.endLsn === cutLsn, 'the last is cut as well');
      await chain.until(() => chain.view(2).dcmRegions === 16, 'all is marked');
    } else await chain.until(() => /diverged/.test(chain.view(2).reason ?? ''), 'the last has diverged');
    if (isFrozen) {
      await last?.thaw();
      await middle?.thaw();
      chain.break(1, true);
      await equal(t, all);
    } else t.match(chain.view(2).reason, /diverged: it shows records up to LSN/);
  }
});

/** What the primary's link says to node 1, changed. */
function announcedTo(chain: LinkedChain, changes: Partial<Announcement>): Announcement {
  const { group, spec, regionBytes } = chain.node(0);
  const record = chain.node(0).durableRecord() as unknown as {
    generation: Announcement['origin']['generation'];
    memberId: string;
  };
  const view = chain.view(1);
  return {
    protocol: 1,
    origin: { groupId: group.id, generation: record.generation },
    linkId: view.id,
    linkName: view.name,
    memberId: record.memberId,
    path: [],
    regionBytes,
    volumes: spec.volumes.map(({ name, sizeBytes = 0 }) => ({ name, sizeBytes })),
    durableLsn: group.log.durableLsn,
    named: { lsn: 0, snapshots: [] },
    ...changes,
  };
}

t.test('K11: loops, and who is fed by two, are refused by name, and nothing changes', async (t) => {
  const all = await inStep(t, { count: 4 });
  const { chain } = all;
  const rows: [number, string, string, RegExp][] = [
    [1, 'self', 'n:1', /leads back to this node/],
    [1, 'up', 'n:0', /is a primary/],
    [2, 'loop', 'n:1', /feeds this one.*in a loop.*another one/],
    [3, 'long-loop', 'n:1', /feeds this one.*in a loop.*another one/],
    [0, 'second', 'n:2', /takes the writes of another primary, by its link to-2: remove that link first/],
    [1, 'skip', 'n:3', /takes the writes of another primary, by its link to-3/],
  ];
  const rolesOf = (number: number) => {
    const { id, replica, links } = chain.node(number).durableRecord() as unknown as {
      id: string;
      replica: object | null;
      links: readonly { readonly name: string }[];
    };
    return { id, replica, links: links.map(({ name }) => name) };
  };
  const before = chain.nodes.map((_, number) => rolesOf(number));
  for (const [from, name, uri, reason] of rows) {
    const { links } = chain.node(from).group;
    const view = () => links.views().find((each) => each.name === name);
    await links.add({ name, uri });
    const isRefused = () => ![undefined, NOT_YET].includes(view()?.reason);
    await chain.until(isRefused, `${name} is refused`);
    t.match(view()?.reason, reason, name);
    await links.remove(name);
  }
  for (const [number, roles] of before.entries())
    t.same(rolesOf(number), roles, `node ${number} is as it was`);
  await equal(t, all);
});

t.test('K11: a secondary refuses who is below it, and a chain without end', async (t) => {
  const { chain } = await inStep(t);
  const own = (chain.node(1).durableRecord() as unknown as { memberId: string }).memberId;
  const begin = async (changes: Partial<Announcement>) =>
    await chain.node(1).group.replica?.begin(announcedTo(chain, changes));
  const path = ['a', own];
  await t.rejects(begin({ path }), { code: 'invalid', message: /in a loop/ });
  const long = Array.from({ length: 16 }, (_, at) => `${at}`);
  await t.rejects(begin({ path: long }), {
    code: 'invalid',
    message: /17 nodes above.*higher up/,
  });
});

t.test('K11: nobody waits for what a secondary passes on', async (t) => {
  const { chain } = await inStep(t);
  const { links } = chain.node(1).group;
  for (const mode of ['memory', 'sync'] as const)
    await t.rejects(links.set('to-2', { mode }), /mode|secondary/);
  t.equal(chain.view(2).mode, 'async');
});
