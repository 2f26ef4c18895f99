/** Makes a run of several nodes: does what the plan says, step by step, and checks what has to hold. */
import { EngineError } from '../../../engine/errors.ts';
import type { Group } from '../../../engine/group.ts';
import { LOG_SECTOR_BYTES } from '../../../engine/units.ts';
import type { Volume } from '../../../engine/volume.ts';
import { CELL_BYTES, cellValue, putCell } from '../cells.ts';
import { Violation } from '../image.ts';
import { reactions } from '../scheduler.ts';
import { beginCheck, imageOf, showsOneState } from './checks.ts';
import { Cluster } from './cluster.ts';
import type { RecordedSnapshot } from './history.ts';
import { changeThere, hasNoOther } from './local-snapshots.ts';
import type { SimNode } from './node.ts';
import type { ClusterOperation, ClusterPlan } from './plan.ts';
import { beginVerify } from './verify.ts';

/** How long is waited for a request that something may hold up. */
const HELD_STEPS = 2000;
/** Share of the log that may be written and not durable, and nobody waits for a sync. */
const UNSYNCED = 1 / 8;
/** The log takes no zeroes and no control record when it is fuller than that, so that what is asked for is seen at once. */
const ROOMY = 0.5;

type ControlName = 'snapshot' | 'delete' | 'rename' | 'refresh' | 'detach' | 'restore';

export class ClusterWorld {
  readonly cluster: Cluster;

  constructor(plan: ClusterPlan, verbose: boolean) {
    this.cluster = new Cluster(plan, verbose);
  }

  async run(): Promise<void> {
    const { cluster } = this;
    for (const node of cluster.nodes) cluster.create(node.number);
    await cluster.until('all groups', () => cluster.nodes.every((node) => node.group !== undefined));
    for (const [index, operation] of cluster.plan.operations.entries()) {
      await this.#join(index);
      await this.#do(operation);
      await reactions();
      cluster.observe();
      cluster.throwIfWrong();
      await cluster.steps(operation.steps);
    }
    cluster.healAll();
    await cluster.until('all groups', () => cluster.nodes.every((node) => node.group !== undefined));
    await this.#join(Number.POSITIVE_INFINITY);
    await this.#finish();
  }

  /** Makes the links whose time has come. */
  async #join(index: number): Promise<void> {
    const { cluster } = this;
    for (const [
      at,
      { joinsAt, mode, onLost = 'go-on', onFull, limitBytes, rateBytesPerSecond },
    ] of cluster.plan.secondaries.entries()) {
      const number = at + 1;
      const feeder = cluster.feederOf(number);
      const group = cluster.nodes[feeder]?.group;
      if (joinsAt > index || cluster.joined.has(number) || group === undefined) continue;
      if (feeder !== 0 && !cluster.joined.has(feeder)) continue;
      cluster.join(number);
      // Nobody waits for whom a secondary feeds.
      const acknowledging = feeder === 0 ? { mode, onLost } : {};
      const settings = { ...acknowledging, onFull, limitBytes, rateBytesPerSecond };
      const spec = { name: `n${number}`, uri: `sim:${number}`, ...settings };
      cluster.note(() => `link ${spec.name} is made: ${JSON.stringify(spec)}`);
      const written = group.mode === 'direct' ? cluster.history.now : 0;
      await this.#ended(`link add ${spec.name}`, group.links.add(spec));
      // What was written directly before is durable with it.
      cluster.history.durable = Math.max(cluster.history.durable, written);
    }
  }

  /** Waits until a promise of a process has settled, or that process has died. Throws what is no refusal. */
  async #ended<T>(
    what: string,
    promise: Promise<T>,
    steps = Number.POSITIVE_INFINITY,
  ): Promise<T | undefined> {
    const { cluster } = this;
    const { life } = cluster.primary;
    let settled = false;
    let value: T | undefined;
    promise.then(
      (result) => {
        settled = true;
        value = result;
      },
      (error: unknown) => {
        settled = true;
        cluster.note(() => `${what}: ${error instanceof Error ? error.message : error}`);
        if (!(error instanceof EngineError)) cluster.report(error);
      },
    );
    const isOver = (): boolean => settled || cluster.primary.life !== life;
    if (steps === Number.POSITIVE_INFINITY) await cluster.until(what, isOver);
    else await cluster.attempt(isOver, steps);
    return value;
  }

  async #do(operation: ClusterOperation): Promise<void> {
    const { cluster } = this;
    switch (operation.op) {
      case 'write':
        this.#write(operation);
        return;
      case 'trim':
        this.#trim(operation);
        return;
      case 'flush':
        this.#flush();
        return;
      case 'check': {
        const node = cluster.nodes[operation.node];
        if (node?.group !== undefined) beginCheck(cluster, node);
        return;
      }
      case 'crash':
        await this.#crash(operation);
        return;
      case 'cut':
        if (operation.node < cluster.nodes.length) cluster.cut(operation.node, operation.down);
        return;
      case 'slow':
        cluster.network.slow(operation.node, operation.factor);
        return;
      case 'freeze':
      case 'thaw':
        await this.#freeze(operation.op, operation.node);
        return;
      case 'local-snapshot':
        await this.#localSnapshot(operation.node);
        return;
      case 'change-there':
        await this.#changeThere(operation);
        return;
      case 'snapshot-write':
        await this.#snapshotWrite(operation);
        return;
      case 'pause':
      case 'resume':
        await this.#pauseOrResume(operation.op, operation.pick);
        return;
      case 'verify':
        await this.#ended('a look for a link', beginVerify(cluster, operation.pick));
        return;
      case 'mode':
        await this.#setMode(operation);
        return;
      case 'equal':
        await this.#equal();
        return;
      default:
        this.#control(operation);
    }
  }

  // Clients of the primary.

  #write({ volume, cell, cells }: { volume: number; cell: number; cells: number }): void {
    const { cluster } = this;
    const device = cluster.group?.volumes.get(`v${volume}`);
    if (device === undefined) return;
    const number = ++cluster.requests;
    const bytes = Buffer.alloc(cells * CELL_BYTES);
    const values = new Int32Array(cells);
    for (let index = 0; index < cells; index++) {
      values[index] = cellValue(number, cell + index);
      putCell(bytes, index, values[index] ?? 0);
    }
    const what = `write #${number} of v${volume} ${cell}+${cells}`;
    this.#refusable(what, () => {
      if (!device.tryWrite(bytes, 0, bytes.length, cell * CELL_BYTES)) return;
      cluster.history.write(volume, cell, values, what);
      cluster.note(() => `${what} is state ${cluster.history.now}`);
      device.settle();
      this.#acknowledge(what, device, Promise.resolve());
    });
  }

  /** What was logged by now is acknowledged once the work is done, and when links let it. What is no request of its own is said of all that is there. */
  #acknowledge(what: string, device: Volume, work: Promise<unknown>, done: () => void = () => {}): void {
    const { cluster } = this;
    const { life } = cluster.primary;
    const state = cluster.history.now;
    const lsn = cluster.group?.log.endLsn ?? 0;
    let asked = cluster.promises.holders();
    const acknowledged = work.then(() => {
      asked = cluster.promises.holders();
      return device.holdsReplies ? device.acknowledged() : undefined;
    });
    acknowledged.then(
      () => {
        if (life !== cluster.primary.life) return;
        done();
        cluster.promises.acknowledged(what, state, lsn, asked);
      },
      (error: unknown) => this.#refused(what, error),
    );
  }

  #refusable(what: string, work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#refused(what, error);
    }
  }

  #refused(what: string, error: unknown): void {
    this.cluster.note(() => `${what}: ${error instanceof Error ? error.message : error}`);
    if (!(error instanceof EngineError)) this.cluster.report(error);
  }

  #trim({ volume, cell, cells }: { volume: number; cell: number; cells: number }): void {
    const { cluster } = this;
    const { group, history } = cluster;
    const device = group?.volumes.get(`v${volume}`);
    if (group === undefined || device === undefined || group.mode !== 'logged' || !isRoomy(group)) return;
    // A disk that holds up writers has it wait, or much that is not durable, and nobody here could tell when it is logged.
    const { endLsn, durableLsn, sizeBytes } = group.log;
    const isWaited = (endLsn - durableLsn) * LOG_SECTOR_BYTES > sizeBytes * UNSYNCED;
    if (cluster.plan.traits.tryRefusal > 0 || isWaited) return;
    const before = group.log.endLsn;
    const number = ++cluster.requests;
    const what = `trim #${number} of v${volume} ${cell}+${cells}`;
    const trimming = device.trim(cell * CELL_BYTES, cells * CELL_BYTES);
    // With room, and nobody who waits, the log takes it at once.
    history.write(volume, cell, new Int32Array(cells), what);
    this.#acknowledge(what, device, trimming);
    cluster.note(() => `${what} is state ${history.now}, log ${before} to ${group.log.endLsn}`);
  }

  #flush(): void {
    const { cluster } = this;
    const { group, history } = cluster;
    const number = history.now;
    const device = group?.volumes.get('v0');
    if (group === undefined || device === undefined) return;
    const all = group.mode === 'logged' ? [device] : [...group.volumes.values()];
    this.#acknowledge('a flush', device, Promise.all(all.map((one) => one.flush())), () => {
      history.durable = Math.max(history.durable, number);
    });
  }

  // The primary's operator.

  #control(operation: Extract<ClusterOperation, { op: ControlName }>): void {
    const { cluster } = this;
    const { group } = cluster;
    if (group === undefined || cluster.controls > 0 || !isRoomy(group) || group.mode !== 'logged') return;
    if (operation.op === 'snapshot') {
      const name = `s${++cluster.names}`;
      const { local } = operation;
      cluster.asked = { kind: 'snapshot', name, local };
      this.#follow(`snapshot ${name}`, group.createSnapshot(name, { local }), ({ imageId }) => {
        cluster.acknowledged.add(imageId);
      });
      return;
    }
    const snapshot = this.#pick(group, operation.pick);
    if (snapshot === undefined) return;
    const { id, name } = snapshot;
    switch (operation.op) {
      case 'delete':
        cluster.mayBeGone.add(id);
        this.#follow(`delete ${name}`, group.deleteSnapshot(name), () => {});
        return;
      case 'rename':
        this.#follow(`rename ${name}`, group.renameSnapshot(name, `r${++cluster.names}`), () => {});
        return;
      case 'detach':
        this.#follow(`detach ${name}`, group.detachSnapshot(name), () => {});
        return;
      case 'refresh':
        cluster.asked = { kind: 'refresh', id };
        cluster.mayBeGone.add(id);
        this.#follow(`refresh ${name}`, group.refreshSnapshot(name, { force: true }), () => {});
        return;
      case 'restore':
        this.#restore(group, snapshot, operation.volume);
        return;
    }
  }

  #restore(group: Group, { id, name }: RecordedSnapshot, volume: number | null): void {
    const { cluster } = this;
    const view = group.snapshots.find((one) => one.imageId === id);
    const all = view?.undoOf?.map((one) => Number(one.slice(1))) ?? [...cluster.plan.volumeSectors.keys()];
    const volumes = volume === null ? all : [volume % cluster.plan.volumeSectors.length];
    cluster.asked = { kind: 'restore', sourceId: id, volumes };
    for (const one of group.snapshots) if (one.name === 'undo') cluster.mayBeGone.add(one.imageId);
    const options = volume === null ? {} : { volume: `v${volumes[0]}` };
    const asked = cluster.promises.holders();
    this.#follow(`restore of ${name}`, group.restore(name, options), ({ undo }) => {
      cluster.history.durable = Math.max(cluster.history.durable, this.#restoredAt);
      // The record lies at the LSN of its undo snapshot.
      cluster.promises.acknowledged('the restore', this.#restoredAt, undo.lsn + 1, asked);
    });
  }

  /** Number of the state that the last restore made. */
  get #restoredAt(): number {
    const { history } = this.cluster;
    for (let number = history.now; number >= 0; number--)
      if (history.what(number).startsWith('restore')) return number;
    return 0;
  }

  #follow<T>(what: string, promise: Promise<T>, done: (value: T) => void): void {
    const { cluster } = this;
    const { life } = cluster.primary;
    cluster.controls++;
    const end = (act: () => void): void => {
      if (life !== cluster.primary.life) return;
      cluster.controls--;
      cluster.observe();
      // What was refused never came to the head of the log.
      if (cluster.controls === 0) cluster.asked = undefined;
      act();
    };
    promise.then(
      (value) => end(() => done(value)),
      (error: unknown) => end(() => this.#refused(what, error)),
    );
  }

  #pick(group: Group, pick: number): RecordedSnapshot | undefined {
    const views = group.snapshots;
    const view = views[pick % Math.max(1, views.length)];
    return view && this.cluster.history.snapshots.get(view.imageId);
  }

  async #pauseOrResume(op: 'pause' | 'resume', pick: number): Promise<void> {
    const all = this.cluster.links();
    const found = all[pick % Math.max(1, all.length)];
    if (found === undefined) return;
    const { links, view } = found;
    await this.#ended(`${op} ${view.name}`, links[op](view.name));
  }

  async #setMode({ pick, mode, onLost }: Extract<ClusterOperation, { op: 'mode' }>): Promise<void> {
    const { links } = this.cluster.group ?? {};
    const views = links?.views() ?? [];
    const view = views[pick % Math.max(1, views.length)];
    if (links === undefined || view === undefined) return;
    await this.#ended(`link set ${view.name} to ${mode}, ${onLost}`, links.set(view.name, { mode, onLost }));
  }

  // Snapshots and secondaries.

  async #snapshotWrite(operation: Extract<ClusterOperation, { op: 'snapshot-write' }>): Promise<void> {
    const { cluster } = this;
    const { volume, cell, cells } = operation;
    const node = cluster.nodes[operation.node];
    const group = node?.group;
    if (node === undefined || group === undefined || cluster.controls > 0) return;
    const snapshot = this.#pick(group, operation.pick);
    const device = snapshot && group.snapshotVolume(snapshot.name, `v${volume}`);
    if (snapshot === undefined || device === undefined) return;
    const number = ++cluster.requests;
    const bytes = Buffer.alloc(cells * CELL_BYTES);
    const own = this.#ownOf(node, snapshot);
    for (let index = 0; index < cells; index++) putCell(bytes, index, cellValue(number, cell + index));
    cluster.note(
      () => `write #${number} through ${snapshot.name} of node ${node.number}: v${volume} ${cell}+${cells}`,
    );
    // From here on it may be there; what somebody sees who looks meanwhile says nothing.
    if (node.number === 0)
      for (let at = cell; at < cell + cells; at++)
        snapshot.modified[volume]?.add(Math.floor(at / cluster.history.regionCells));
    node.ownWrites.begun++;
    const writing = device.write(bytes, 0, bytes.length, cell * CELL_BYTES).then(() => device.flush());
    const done = await this.#ended(
      'a write through a snapshot',
      writing.then(() => true),
    );
    node.ownWrites.ended++;
    // Who has it open keeps it open through a refresh: the write may be in what it is now.
    const now = group.snapshots.find(({ name }) => name === snapshot.name);
    if (now !== undefined && now.imageId !== snapshot.id) node.unsure.add(now.imageId);
    if (done !== true) return;
    for (let index = 0; index < cells; index++)
      own[volume]?.set(cell + index, cellValue(number, cell + index));
  }

  #ownOf(node: SimNode, snapshot: RecordedSnapshot): Map<number, number>[] {
    if (node.number === 0) return snapshot.own;
    const key = `${node.number} ${snapshot.id}`;
    const known = this.cluster.ownWrites.get(key) ?? snapshot.own.map(() => new Map<number, number>());
    this.cluster.ownWrites.set(key, known);
    return known;
  }

  async #freeze(op: 'freeze' | 'thaw', number: number): Promise<void> {
    const node = this.cluster.nodes[number];
    if (node?.group?.replica === undefined) return;
    if (op === 'thaw') await this.#ended(op, this.#thaw(node), HELD_STEPS);
    else await this.#ended(op, node.group.replica.freeze(), HELD_STEPS);
  }

  async #thaw(node: SimNode): Promise<void> {
    const { life } = node;
    node.thaws++;
    await node.group?.replica?.thaw().finally(() => {
      if (life !== node.life) return;
      this.cluster.observe();
      node.thaws--;
    });
  }

  async #localSnapshot(number: number): Promise<void> {
    const { cluster } = this;
    const group = number === 0 ? undefined : cluster.nodes[number]?.group;
    if (group === undefined) return;
    await this.#ended(
      'a local snapshot',
      group.createSnapshot(`l${++cluster.names}`, { local: true }),
      HELD_STEPS,
    );
  }

  async #changeThere({
    node: number,
    what,
    pick,
  }: Extract<ClusterOperation, { op: 'change-there' }>): Promise<void> {
    const node = this.cluster.nodes[number];
    if (node !== undefined) await this.#ended(`${what} there`, changeThere(node, what, pick), HELD_STEPS);
  }

  async #crash({ node, power, down }: { node: number; power: boolean; down: number }): Promise<void> {
    const { cluster } = this;
    if (node >= cluster.nodes.length || !cluster.nodes[node]?.isUp) return;
    // Before its first link the group may be in direct mode, of which the other simulator knows more.
    if (node === 0 && cluster.group?.mode !== 'logged') return;
    cluster.observe();
    cluster.crash(node, power, down);
    if (node !== 0) return;
    cluster.controls = 0;
    cluster.asked = undefined;
    cluster.verifications.clear();
    await cluster.until('a primary that starts', () => cluster.group !== undefined);
    await this.#afterCrash(power);
  }

  /** The primary shows some prefix of what it had, and no secondary is ahead of it (rule K1). */
  async #afterCrash(power: boolean): Promise<void> {
    const { cluster } = this;
    const { history } = cluster;
    const found = await this.#ended('a look at the primary', imageOf(cluster, cluster.primary));
    if (found === undefined) return;
    history.cutBack(found, !power);
    cluster.note(() => `the primary is at state ${history.now} (${history.what(history.now)})`);
    for (const node of cluster.secondaries)
      if (node.shownAt > history.now)
        throw new Violation(
          '3 (K1)',
          `node ${node.number} showed state ${node.shownAt}, and the primary has only ${history.now} now`,
        );
    history.durable = history.now;
    const views = cluster.group?.snapshots ?? [];
    for (const snapshot of history.snapshots.values()) {
      if (views.some((view) => view.imageId === snapshot.id)) continue;
      if (cluster.acknowledged.has(snapshot.id) && !cluster.mayBeGone.has(snapshot.id))
        throw new Violation('4', `snapshot ${snapshot.name} was acknowledged, and is gone`);
      if (!cluster.mayBeGone.has(snapshot.id)) history.snapshots.delete(snapshot.id);
    }
  }

  /** Everybody is up, every link streams, and every secondary shows what the primary has (invariants 3, 6 and 8). */
  async #equal(): Promise<void> {
    const { cluster } = this;
    cluster.healAll();
    await cluster.until('all groups', () => cluster.nodes.every((node) => node.group !== undefined));
    // A secondary that stands may be what a link waits for, and with it the operator.
    if (cluster.group?.volumes.get('v0')?.holdsReplies === true) await this.#thawAll();
    await cluster.until('an end of what the operator asked', () => cluster.controls === 0);
    await this.#thawAll();
    const isEqual = (): boolean => {
      const end = cluster.group?.log.endLsn ?? Number.POSITIVE_INFINITY;
      const streaming = cluster
        .links()
        .every(({ view }) => view.state === 'streaming' && view.dcmRegions === 0);
      return streaming && [...cluster.joined].every((number) => this.#hasAll(number, end));
    };
    // A link may be detached again while it catches up, where that is its policy.
    const stopped = () =>
      cluster.links().filter(({ view: { state } }) => state === 'paused' || state === 'detached');
    do {
      for (const { links, view } of stopped())
        await this.#ended(`resume ${view.name}`, links.resume(view.name));
      await cluster.until('that all secondaries have everything', () => isEqual() || stopped().length > 0);
    } while (stopped().length > 0);
    for (const number of cluster.joined) await this.#checkEqual(number);
  }

  async #thawAll(): Promise<void> {
    for (const node of this.cluster.secondaries)
      if (node.group?.replica !== undefined) await this.#ended('thaw', this.#thaw(node));
  }

  #hasAll(number: number, endLsn: number): boolean {
    const { nodes, primary } = this.cluster;
    const node = nodes[number];
    const replica = node?.group?.replica;
    if (node === undefined || replica === undefined || replica.shows.image !== 'volumes') return false;
    const { resyncing, needs, appliedLsn } = replica.state();
    return !resyncing && needs === 0 && appliedLsn >= endLsn && hasNoOther(primary, node);
  }

  async #checkEqual(number: number): Promise<void> {
    const { cluster } = this;
    const node = cluster.nodes[number];
    const found = node && (await this.#ended('a look at a secondary', imageOf(cluster, node)));
    if (node === undefined || found === undefined) return;
    showsOneState(cluster, node, found);
    const { history } = cluster;
    if (history.find(found, history.now) === undefined)
      throw new Violation(
        '3, 6 (equal)',
        `node ${number} has everything, and shows ${node.shownAt} instead of ${history.now}: ${history.nearest(found, history.now)}`,
      );
    node.shownAt = history.now;
  }

  async #finish(): Promise<void> {
    const { cluster } = this;
    await this.#equal();
    await cluster.until('an end of all verifications', () => cluster.verifications.size === 0);
    // Where nothing was damaged, and nobody disturbs it, a comparison comes to its end.
    for (const [pick] of (cluster.group?.links.views() ?? []).entries()) {
      await this.#ended('a look for a link', beginVerify(cluster, pick));
      await cluster.until('an end of the last verifications', () => cluster.verifications.size === 0);
    }
    for (const node of cluster.nodes) beginCheck(cluster, node);
    await cluster.steps(500);
    for (const node of [...cluster.nodes].reverse())
      if (node.group !== undefined) await this.#ended(`close of node ${node.number}`, node.group.close());
  }
}

function isRoomy({ log }: Group): boolean {
  return log.usedBytes < log.sizeBytes * ROOMY;
}
