/** The nodes of a run, what goes on between them, and what is known of the group: how time passes, who dies and comes back. */
import type { Group, GroupOptions } from '../../../engine/group.ts';
import type { LinkView } from '../../../engine/link/link-view.ts';
import type { Links } from '../../../engine/link/links.ts';
import type { SnapshotView } from '../../../engine/snapshots.ts';
import { Random } from '../../fixtures/random.ts';
import { CELL_BYTES } from '../cells.ts';
import { Violation } from '../image.ts';
import { REGION_BYTES } from '../plan.ts';
import { Scheduler } from '../scheduler.ts';
import { History } from './history.ts';
import { LocalImages } from './local-snapshots.ts';
import { Network } from './network.ts';
import { SimNode } from './node.ts';
import type { ClusterPlan } from './plan.ts';
import { Promises } from './promises.ts';

const SECTOR_BYTES = 512;
/** What has not come about after that many steps never will. */
const LIVE_STEPS = 150_000;

/** What its operator has asked the primary, and has not been seen at the head of the log. */
export type Asked =
  | { readonly kind: 'snapshot'; readonly name: string; readonly local: boolean }
  | { readonly kind: 'refresh'; readonly id: string }
  | { readonly kind: 'restore'; readonly sourceId: string; readonly volumes: readonly number[] };

export interface FoundLink {
  readonly links: Links;
  readonly view: LinkView;
}

export class Cluster {
  readonly plan: ClusterPlan;
  readonly scheduler: Scheduler;
  readonly network: Network;
  readonly nodes: readonly SimNode[];
  readonly history: History;
  readonly trace: string[] | undefined;
  readonly promises = new Promises(this);
  /** Writes made so far through snapshots of secondaries: by node and snapshot, a map of cells for each volume. */
  readonly ownWrites = new Map<string, Map<number, number>[]>();
  readonly localImages = new LocalImages();
  /** Of the primary's operator, one at a time. */
  asked: Asked | undefined;
  controls = 0;
  names = 0;
  requests = 0;
  /** Ids of snapshots that may be gone: somebody asked for that. */
  readonly mayBeGone = new Set<string>();
  /** Ids of those whose creation was acknowledged. */
  readonly acknowledged = new Set<string>();
  /** By node: the last state at which the primary knew that it had everything. */
  readonly completeAt: number[];
  /** Nodes that have crashed: their maps of what was ever written are larger than that. */
  readonly #crashed = new Set<number>();
  /** By node: regions, as `VOLUME/REGION`, that went to the one that feeds it since it had everything: it gets them, too (rule K11). */
  readonly #owed: readonly Set<string>[];
  /** Nodes that get whatever those maps have, until they had everything once. */
  readonly #loose = new Set<number>();
  /** By node: its link was made. */
  readonly joined = new Set<number>();
  readonly #down = new Map<number, number>();
  readonly #cut = new Map<number, number>();
  #wrong: Error | undefined;
  /** Under way on the primary, by the id of each. */
  readonly verifications = new Set<string>();
  bytesShipped = 0;
  regionsMoved = 0;

  constructor(plan: ClusterPlan, verbose: boolean) {
    this.plan = plan;
    this.scheduler = new Scheduler(new Random(plan.schedule));
    this.trace = verbose ? [] : undefined;
    const report = (error: unknown): void => this.report(error);
    this.nodes = Array.from(
      { length: 1 + plan.secondaries.length },
      (_, number) => new SimNode(number, this.scheduler, plan.traits, report),
    );
    this.completeAt = this.nodes.map(() => 0);
    this.#owed = this.nodes.map(() => new Set());
    const cells = plan.volumeSectors.map((sectors) => (sectors * SECTOR_BYTES) / CELL_BYTES);
    this.history = new History(cells, REGION_BYTES / CELL_BYTES, () => this.scheduler.nowMs);
    this.network = new Network(this.scheduler, this.nodes, {
      bytes: (_, count) => {
        this.bytesShipped += count;
      },
      regions: (node, volume, regions) =>
        this.#sawRegions(
          node,
          volume,
          regions.map((one) => one.region),
        ),
    });
  }

  get primary(): SimNode {
    const [node] = this.nodes;
    if (node === undefined) throw new Error('bug: there is a primary');
    return node;
  }

  get secondaries(): readonly SimNode[] {
    return this.nodes.slice(1);
  }

  /** Number of the node that feeds it. */
  feederOf(number: number): number {
    return this.plan.secondaries[number - 1]?.feeder ?? 0;
  }

  #fedBy(number: number): readonly SimNode[] {
    return this.secondaries.filter((node) => this.feederOf(node.number) === number);
  }

  /** All links of all nodes that run. */
  links(): readonly FoundLink[] {
    const groups = this.nodes.flatMap(({ group }) => (group === undefined ? [] : [group]));
    return groups.flatMap(({ links }) => links.views().map((view) => ({ links, view })));
  }

  /** The primary's group, while it runs. */
  get group(): Group | undefined {
    return this.primary.group;
  }

  note(what: () => string): void {
    this.trace?.push(`${String(this.scheduler.steps).padStart(6)}  ${what()}`);
  }

  options(node: number): GroupOptions {
    const { memoryBytes, copyBytesPerSecond, firstLsn } = this.plan;
    return {
      memoryBytes,
      copyBytesPerSecond,
      ...(node === 0 ? { firstLsn } : {}),
      connector: this.network.connector(node),
      onEvent: (event) => this.note(() => `node ${node}: event ${event.type}: ${event.message}`),
    };
  }

  create(node: number): void {
    const { plan } = this;
    const volumes = plan.volumeSectors.map((sectors, index) => ({
      name: `v${index}`,
      sizeBytes: sectors * SECTOR_BYTES,
    }));
    const secondary = plan.secondaries[node - 1];
    const logBytes = secondary?.logBytes ?? plan.logBytes;
    const spec = { name: 'g', regionBytes: REGION_BYTES, volumes, logBytes };
    const replica = secondary && { applyDelaySeconds: secondary.applyDelaySeconds };
    this.nodes[node]?.create({ ...spec, ...(replica === undefined ? {} : { replica }) }, this.options(node));
  }

  report(error: unknown): void {
    this.#wrong ??= error instanceof Error ? error : new Error(String(error));
  }

  throwIfWrong(): void {
    if (this.#wrong !== undefined) throw this.#wrong;
  }

  /** Rule: a region that nothing has touched since its secondary had everything is not moved (invariants 5 and 6). */
  #sawRegions(node: number, volumeName: string, regions: readonly number[]): void {
    this.regionsMoved += regions.length;
    for (const { number } of this.#fedBy(node))
      for (const region of regions) this.#owed[number]?.add(`${volumeName}/${region}`);
    if (this.#loose.has(node)) return;
    const volume = Number(volumeName.slice(1));
    const may = this.history.touchedSince(this.completeAt[node] ?? 0)[volume];
    const isOwed = (region: number) => this.#owed[node]?.has(`${volumeName}/${region}`) === true;
    const extra = regions.find((region) => may?.has(region) !== true && !isOwed(region));
    this.note(() => `regions ${regions.join(' ')} of ${volumeName} go to node ${node}`);
    if (extra === undefined) return;
    const what = `region ${extra} of ${volumeName} went to node ${node}, and nothing has touched it since that had everything`;
    this.report(new Violation('5, 6 (tight)', what));
  }

  /** The link to that node is about to be made. */
  join(node: number): void {
    this.joined.add(node);
    if (this.#crashed.has(this.feederOf(node))) this.#loose.add(node);
  }

  // Time.

  async step(): Promise<boolean> {
    const any = await this.scheduler.step();
    this.observe();
    this.throwIfWrong();
    this.#passSteps();
    // Whoever is down comes back, however quiet it is.
    return any || this.#down.size > 0 || this.#cut.size > 0 || this.scheduler.busy;
  }

  async steps(count: number): Promise<void> {
    for (let left = count; left > 0; left--) if (!(await this.step())) return;
  }

  /** With all nodes up and the network whole it has to come about (invariant 8). */
  async until(what: string, condition: () => boolean, steps = LIVE_STEPS): Promise<void> {
    for (let left = steps; left > 0; left--) {
      if (condition()) return;
      if (!(await this.step())) break;
    }
    if (condition()) return;
    throw new Violation('8 (live)', `${what} does not come about; ${this.describe()}`);
  }

  /** Whether it came about in a while. */
  async attempt(condition: () => boolean, steps: number): Promise<boolean> {
    for (let left = steps; left > 0; left--) {
      if (condition()) return true;
      if (!(await this.step())) break;
    }
    return condition();
  }

  /** Where everybody stands, for people. */
  describe(): string {
    const shown = this.links().map(
      ({ view: { name, mode, state, reason, acknowledging, dcmRegions, lagBytes } }) =>
        `${name} ${mode} ${state} (${reason ?? acknowledging.reason ?? '-'}), ${dcmRegions} regions, ${lagBytes} bytes, ${acknowledging.heldRequests} held`,
    );
    const peers = this.secondaries.map((node) => {
      const state = node.port?.state();
      if (state === undefined) return `node ${node.number} ${node.isUp ? 'opening' : 'down'}`;
      const { endLsn, appliedLsn, resyncing, needs, holding, heldBack } = state;
      return `node ${node.number} at ${appliedLsn} of ${endLsn}, resyncing ${resyncing}, needs ${needs}, holding ${holding?.lsn}, ${heldBack}`;
    });
    const log = this.group?.log;
    return [`primary at ${log?.appliedLsn} of ${log?.endLsn}`, ...shown, ...peers].join('; ');
  }

  #passSteps(): void {
    for (const [node, left] of this.#down) {
      if (left > 0) this.#down.set(node, left - 1);
      else this.bringUp(node);
    }
    for (const [node, left] of this.#cut) {
      if (left > 0) this.#cut.set(node, left - 1);
      else this.mend(node);
    }
  }

  // Deaths and cuts.

  crash(number: number, power: boolean, down: number): void {
    const node = this.nodes[number];
    if (node === undefined) return;
    this.note(() => `node ${number}: ${power ? 'power cut' : 'killed'}`);
    node.die(power);
    this.network.died(number);
    // How far its secondaries are it knows as of its last record only.
    if (number === 0) this.completeAt.fill(0);
    for (const fed of this.#fedBy(number)) this.completeAt[fed.number] = 0;
    this.#crashed.add(number);
    this.#down.set(number, down);
  }

  bringUp(number: number): void {
    this.#down.delete(number);
    const node = this.nodes[number];
    if (node === undefined || node.isUp) return;
    this.note(() => `node ${number} starts`);
    node.open(this.options(number));
  }

  cut(number: number, down: number): void {
    this.note(() => `node ${number}: connections are cut`);
    this.network.cut(number);
    this.#cut.set(number, down);
  }

  mend(number: number): void {
    this.#cut.delete(number);
    this.network.mend(number);
  }

  /** Everybody is up, and reaches everybody. */
  healAll(): void {
    for (const node of this.nodes) {
      this.mend(node.number);
      this.network.slow(node.number, 1);
      if (!node.isUp) this.bringUp(node.number);
    }
  }

  /** Rule K12: the number of the last state that a secondary may show now. */
  youngest(node: SimNode): number {
    const { applyDelaySeconds = 0 } = this.plan.secondaries[node.number - 1] ?? {};
    if (applyDelaySeconds === 0) return this.history.now;
    const old = this.history.thereBy(this.scheduler.nowMs - applyDelaySeconds * 1000);
    return Math.max(old, Math.min(node.shortenedTo, this.history.now));
  }

  // What is seen after every step.

  observe(): void {
    const { group, history } = this;
    // A full ring shortens a delay, and so does an operator.
    for (const node of this.secondaries)
      if (node.thaws > 0 || node.group?.replica?.wantsRoom === true) node.shortenedTo = history.now;
    this.promises.look();
    if (group === undefined) return;
    for (const view of group.snapshots) {
      const known = history.snapshots.get(view.imageId);
      if (known !== undefined) known.name = view.name;
      else this.#sawSnapshot(view);
    }
    for (const { view } of this.links()) {
      const node = this.nodes[Number(view.name.slice(1))];
      const isEqual = view.state === 'streaming' && view.dcmRegions === 0 && view.lagBytes === 0;
      if (node === undefined || !isEqual || !this.#hasApplied(node, group.log.endLsn)) continue;
      // What is on its way to its feeder comes to it afterwards.
      if (this.nodes[this.feederOf(node.number)]?.port?.state().resyncing === true) continue;
      this.completeAt[node.number] = history.now;
      this.#loose.delete(node.number);
      this.#owed[node.number]?.clear();
    }
  }

  #hasApplied(node: SimNode, endLsn: number): boolean {
    const state = node.port?.state();
    return state !== undefined && state.appliedLsn >= endLsn && !state.resyncing && state.needs === 0;
  }

  #sawSnapshot(view: SnapshotView): void {
    const { asked, history } = this;
    const { imageId: id, name, local } = view;
    if (asked === undefined)
      throw new Violation('4', `there is a snapshot ${name} (${id}) that nobody took, or that was deleted`);
    this.asked = undefined;
    this.note(() => `${asked.kind}: ${name} is at the head, after ${history.what(history.now)}`);
    history.snapshot(id, name, local);
    if (asked.kind !== 'restore') return;
    const source = history.snapshots.get(asked.sourceId);
    if (source !== undefined) history.restore(source, asked.volumes);
  }
}
