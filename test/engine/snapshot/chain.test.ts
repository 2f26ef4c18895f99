import t from 'tap';
import { RegionMap } from '../../../engine/map/region-map.ts';
import {
  Chain,
  type DetachedImage,
  Layer,
  type LayerPart,
  type Place,
  RestoreNode,
  samePlace,
  type View,
} from '../../../engine/snapshot/chain.ts';
import type { RegionStore } from '../../../engine/snapshot/region-store.ts';
import { Random } from '../../fixtures/random.ts';

const REGIONS = 4;

/** A store that keeps a number for each region, in place of bytes. */
class FakeStore {
  readonly map = new RegionMap(REGIONS);
  readonly values = Array<number>(REGIONS).fill(0);

  /** What the chain looks at of a store is its map. */
  get asStore(): RegionStore {
    return this as unknown as RegionStore;
  }

  put(region: number, value: number): void {
    this.values[region] = value;
    this.map.set(region);
  }
}

const storeOf = (store: RegionStore | undefined): FakeStore | undefined =>
  store as unknown as FakeStore | undefined;

interface Pending {
  readonly lsn: number;
  readonly region: number;
  readonly value: number;
}

/**
 * What the engine does to a chain, with a number in place of each region's bytes, beside a model that keeps the whole image of everybody who
 * looks. A write is logged, and applied later; a node joins at once, and is applied in its turn.
 */
class World {
  readonly chain = new Chain();
  readonly raw = Array<number>(REGIONS).fill(0);
  readonly queue: (Pending | Layer | readonly [Layer, RestoreNode])[] = [];
  head = Array<number>(REGIONS).fill(0);
  readonly images = new Map<View, number[]>();
  readonly #toCome = new Map<RestoreNode, RegionMap>();
  #lsn = 0;
  #value = 0;

  look(region: number, view: View): number {
    return this.#at(this.chain.locate(0, region, view), region);
  }

  #at({ store, lsns }: Place, region: number): number {
    let value = store === undefined ? (this.raw[region] ?? 0) : (storeOf(store)?.values[region] ?? 0);
    for (const entry of this.queue) {
      if (!('value' in entry) || entry.region !== region) continue;
      for (let at = 0; at < lsns.length; at += 2)
        if (entry.lsn > (lsns[at] ?? 0) && entry.lsn < (lsns[at + 1] ?? 0)) value = entry.value;
    }
    return value;
  }

  write(region: number): void {
    const entry = { lsn: ++this.#lsn, region, value: ++this.#value };
    this.queue.push(entry);
    this.head[region] = entry.value;
  }

  #layer(lsn: number): Layer {
    const part: LayerPart = {
      preserved: undefined,
      modified: undefined,
      copied: undefined,
      changed: new RegionMap(REGIONS),
    };
    const layer = new Layer({ id: `${lsn}`, lsn, name: 's', createdAt: '', local: false }, [part]);
    layer.recordedName = 's';
    this.chain.append(layer);
    this.images.set(layer, [...this.head]);
    return layer;
  }

  snapshot(): void {
    this.queue.push(this.#layer(++this.#lsn));
  }

  /** Through the snapshot, which is applied. */
  modify(layer: Layer, region: number): void {
    const part = layer.parts[0];
    if (part === undefined || !layer.applied) return;
    this.#release(layer, region);
    part.modified ??= new FakeStore().asStore;
    storeOf(part.modified)?.put(region, ++this.#value);
    const image = this.images.get(layer);
    if (image !== undefined) image[region] = this.#value;
  }

  /** What restores still read there comes first (rule T3). A restore that is not applied makes writers wait. */
  #release(source: View, region: number): void {
    for (const restore of this.chain.restores)
      if (restore.source === source && this.#toCome.get(restore)?.has(region)) this.bringForward(region);
  }

  isRead(source: View, region: number): boolean {
    return this.chain.restores.some(
      (restore) => restore.source === source && !restore.applied && this.#toCome.get(restore)?.has(region),
    );
  }

  restore(source: Layer | DetachedImage, regions: readonly number[]): void {
    const lsn = ++this.#lsn;
    const undo = this.#layer(lsn);
    const toCome = new RegionMap(REGIONS);
    for (const region of regions) toCome.set(region);
    const part = { toCome, durable: undefined, disk: undefined, total: toCome.count };
    const node = new RestoreNode(`r${lsn}`, lsn, source, [part]);
    source.users++;
    this.chain.append(node);
    this.#toCome.set(node, toCome);
    this.queue.push([undo, node]);
    const image = this.images.get(source);
    this.head = this.head.map((value, region) => (toCome.has(region) ? (image?.[region] ?? 0) : value));
  }

  applyOne(): void {
    const entry = this.queue[0];
    if (entry === undefined) return;
    if ('value' in entry) {
      this.bringForward(entry.region);
      this.#preserve(entry.region, this.chain.nodes.length);
      this.queue.shift();
      this.raw[entry.region] = entry.value;
      return;
    }
    this.queue.shift();
    if ('kind' in entry) entry.applied = true;
    else for (const node of entry) node.applied = true;
  }

  #preserve(region: number, before: number): void {
    const at = this.chain.receiver(before);
    const layer = this.chain.nodes[at];
    if (layer?.kind !== 'layer' || this.chain.isPreserved(0, region, at, before)) return;
    const part = layer.parts[0];
    if (part === undefined) return;
    part.preserved ??= new FakeStore().asStore;
    storeOf(part.preserved)?.put(region, this.raw[region] ?? 0);
    this.chain.noteChanged(0, [region], at);
  }

  bringForward(region: number): void {
    for (const restore of [...this.chain.restores]) {
      const toCome = this.#toCome.get(restore);
      if (!restore.applied || !toCome?.has(region)) continue;
      this.#preserve(region, this.chain.nodes.indexOf(restore));
      this.raw[region] = this.#at(this.chain.locate(0, region, restore.source), region);
      toCome.clear(region);
      if (toCome.count > 0) continue;
      this.chain.remove(restore);
      restore.source.users--;
    }
  }

  /** Takes a name away, and the layers down that nobody needs. */
  drop(layer: Layer): void {
    if (!layer.applied) return;
    layer.name = null;
    layer.recordedName = null;
    this.images.delete(layer);
  }

  janitor(): void {
    for (const layer of this.chain.layers) {
      if (!layer.applied || layer.needed) continue;
      const own = this.chain.nodes.indexOf(layer);
      const at = this.chain.receiver(own);
      const older = this.chain.nodes[at];
      const from = storeOf(layer.parts[0]?.preserved);
      for (const run of from?.map.runs() ?? [])
        for (let region = run.first; region < run.end; region++) {
          const part = older?.kind === 'layer' ? older.parts[0] : undefined;
          if (part === undefined || this.chain.isPreserved(0, region, at, own)) continue;
          part.preserved ??= new FakeStore().asStore;
          storeOf(part.preserved)?.put(region, from?.values[region] ?? 0);
        }
      this.chain.remove(layer);
      return;
    }
  }
}

function step(world: World, random: Random): void {
  const layers = world.chain.layers.filter((layer) => layer.name !== null);
  const region = random.below(REGIONS);
  switch (random.below(9)) {
    case 0:
      world.snapshot();
      return;
    case 1: {
      if (layers.length === 0) return;
      const regions = Array.from({ length: REGIONS }, (_, index) => index).filter(() => random.chance(0.6));
      world.restore(random.pick(layers), regions);
      return;
    }
    case 2: {
      if (layers.length === 0) return;
      const layer = random.pick(layers);
      if (!world.isRead(layer, region)) world.modify(layer, region);
      return;
    }
    case 3:
      world.bringForward(region);
      return;
    case 4:
      if (layers.length > 3) world.drop(random.pick(layers));
      world.janitor();
      return;
    case 5:
    case 6:
      world.applyOne();
      return;
    default:
      world.write(region);
  }
}

t.test('look-ups against whole images, at random', async (t) => {
  let restores = 0;
  for (let seed = 1; seed <= 400; seed++) {
    const random = new Random(seed);
    const world = new World();
    for (let at = 0; at < 120; at++) {
      step(world, random);
      restores = Math.max(restores, world.chain.restores.length);
      for (let region = 0; region < REGIONS; region++) {
        const head = world.look(region, undefined);
        if (head !== world.head[region]) throw new Error(`seed ${seed}, step ${at}: head, region ${region}`);
        for (const [view, image] of world.images)
          if (world.look(region, view) !== image[region])
            throw new Error(`seed ${seed}, step ${at}: snapshot ${view?.id}, region ${region}`);
      }
    }
  }
  t.ok(restores >= 3, `up to ${restores} restores pending at once`);
});

t.test('the running maps have whatever is preserved from a snapshot on', async (t) => {
  for (let seed = 1; seed <= 100; seed++) {
    const random = new Random(seed);
    const world = new World();
    for (let at = 0; at < 100; at++) step(world, random);
    const { nodes, layers } = world.chain;
    for (const layer of layers)
      for (let region = 0; region < REGIONS; region++) {
        const kept = world.chain.isPreserved(0, region, nodes.indexOf(layer), nodes.length);
        if (kept && !layer.parts[0]?.changed.has(region))
          throw new Error(`seed ${seed}: ${layer.id} ${region}`);
      }
  }
  t.pass();
});

t.test('two looks are the same when they find the same place with the same records over it', async (t) => {
  const store = new FakeStore().asStore;
  const at = (lsns: number[], from?: RegionStore): Place => ({ store: from, lsns });
  t.ok(samePlace(at([-1, 5]), at([-1, 5])));
  t.notOk(samePlace(at([-1, 5]), at([-1, 6])));
  t.notOk(samePlace(at([-1, 5]), at([-1, 5, 6, 9])));
  t.notOk(samePlace(at([], store), at([])));
  t.ok(samePlace(at([], store), at([], store)));
});

t.test('a layer that has left is nowhere, and a node comes back to its place', async (t) => {
  const world = new World();
  world.snapshot();
  world.snapshot();
  const [first] = world.chain.layers;
  if (first === undefined) throw new Error('no layer');
  world.chain.remove(first);
  t.same(world.chain.locate(0, 0, first), { store: undefined, lsns: [] });
  world.chain.putBack(first, 0);
  t.equal(world.chain.layers[0], first);
  t.throws(() => world.chain.append(first), /order/);
});
