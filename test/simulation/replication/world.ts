/** Makes a run of several nodes: does what the plan says, step by step, and checks what has to hold. */
import { EngineError } from '../../../engine/errors.ts';
import type { Group } from '../../../engine/group.ts';
import { LOG_SECTOR_BYTES } from '../../../engine/units.ts';
import { CELL_BYTES, cellValue, putCell } from '../cells.ts';
import { Violation } from '../image.ts';
import { reactions } from '../scheduler.ts';
import { beginCheck, imageOf, showsOneState } from './checks.ts';
import { Cluster } from './cluster.ts';
import type { RecordedSnapshot } from './history.ts';
import type { SimNode } from './node.ts';
import type { ClusterOperation, ClusterPlan } from './plan.ts';

/** How long is waited for a request that something may hold up. */
const HELD_STEPS = 2000;
/** Share of the log that may be written and not durable, and nobody waits for a sync. */
const UNSYNCED = 1 / 8;
/** The log takes no zeroes and no control record when it is fuller than that, so that what is asked for is seen at once. */
const ROOMY = 0.5;

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
      { joinsAt, mode, onFull, limitBytes, rateBytesPerSecond },
    ] of cluster.plan.secondaries.entries()) {
      const number = at + 1;
      const feeder = cluster.feederOf(number);
      const group = cluster.nodes[feeder]?.group;
      if (joinsAt > index || cluster.joined.has(number) || group === undefined) continue;
      if (feeder !== 0 && !cluster.joined.has(feeder)) continue;
      cluster.join(number);
      const spec = { name: `n${number}`, uri: `sim:${number}`, mode, onFull, limitBytes, rateBytesPerSecond };
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
      case 'snapshot-write':
        await this.#snapshotWrite(operation);
        return;
      case 'pause':
      case 'resume':
        await this.#pauseOrResume(operation.op, operation.pick);
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
      this.#settle(device);
    });
  }

  /** What is answered may wait for a secondary. */
  #settle(device: { settle?: () => unknown }): void {
    const settled = device.settle?.();
    if (settled instanceof Promise) settled.catch((error: unknown) => this.#refused('settle', error));
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
    trimming.catch((error: unknown) => this.#refused(what, error));
    // With room, and nobody who waits, the log takes it at once.
    history.write(volume, cell, new Int32Array(cells), what);
    cluster.note(() => `${what} is state ${history.now}, log ${before} to ${group.log.endLsn}`);
  }

  #flush(): void {
    const { cluster } = this;
    const { group, history } = cluster;
    const { life } = cluster.primary;
    const number = history.now;
    const device = group?.volumes.get('v0');
    if (group === undefined || device === undefined) return;
    const all = group.mode === 'logged' ? [device] : [...group.volumes.values()];
    Promise.all(all.map((one) => one.flush())).then(
      () => {
        if (life !== cluster.primary.life) return;
        history.durable = Math.max(history.durable, number);
        cluster.note(() => `a flush was acknowledged: state ${number} is durable`);
      },
      (error: unknown) => this.#refused('flush', error),
    );
  }

  // The primary's operator.

  #control(
    operation: Extract<ClusterOperation, { op: 'snapshot' | 'delete' | 'rename' | 'refresh' | 'restore' }>,
  ): void {
    const { cluster } = this;
    const { group } = cluster;
    if (group === undefined || cluster.controls > 0 || !isRoomy(group) || group.mode !== 'logged') return;
    if (operation.op === 'snapshot') {
      const name = `s${++cluster.names}`;
      const { local } = operation;
      cluster.asked = { kind: 'snapshot', name, local };
      this.#follow(`snapshot ${name}`, group.createSnapshot(name, { local }), ({ id }) => {
        cluster.acknowledged.add(id);
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
    const view = group.snapshots.find((one) => one.id === id);
    const all = view?.undoOf?.map((one) => Number(one.slice(1))) ?? [...cluster.plan.volumeSectors.keys()];
    const volumes = volume === null ? all : [volume % cluster.plan.volumeSectors.length];
    cluster.asked = { kind: 'restore', sourceId: id, volumes };
    for (const one of group.snapshots) if (one.name === 'undo') cluster.mayBeGone.add(one.id);
    const options = volume === null ? {} : { volume: `v${volumes[0]}` };
    this.#follow(`restore of ${name}`, group.restore(name, options), () => {
      cluster.history.durable = Math.max(cluster.history.durable, this.#restoredAt);
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
    return view && this.cluster.history.snapshots.get(view.id);
  }

  async #pauseOrResume(op: 'pause' | 'resume', pick: number): Promise<void> {
    const all = this.cluster.links();
    const found = all[pick % Math.max(1, all.length)];
    if (found === undefined) return;
    const { links, view } = found;
    await this.#ended(`${op} ${view.name}`, links[op](view.name));
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
    if (now !== undefined && now.id !== snapshot.id) node.unsure.add(now.id);
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
    const { cluster } = this;
    const replica = cluster.nodes[number]?.group?.replica;
    if (replica !== undefined) await this.#ended(op, replica[op](), HELD_STEPS);
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
      if (views.some((view) => view.id === snapshot.id)) continue;
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
    await cluster.until('an end of what the operator asked', () => cluster.controls === 0);
    for (const node of cluster.secondaries)
      if (node.group?.replica !== undefined) await this.#ended('thaw', node.group.replica.thaw());
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

  #hasAll(number: number, endLsn: number): boolean {
    const state = this.cluster.nodes[number]?.port?.state();
    return state !== undefined && !state.resyncing && state.needs === 0 && state.appliedLsn >= endLsn;
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
    for (const view of node.group?.snapshots ?? [])
      if (!view.local && !history.snapshots.has(view.id))
        throw new Violation('4', `node ${number} has a snapshot ${view.name} that the primary never had`);
  }

  async #finish(): Promise<void> {
    const { cluster } = this;
    await this.#equal();
    for (const node of cluster.nodes) beginCheck(cluster, node);
    await cluster.steps(500);
    for (const node of [...cluster.nodes].reverse())
      if (node.group !== undefined) await this.#ended(`close of node ${node.number}`, node.group.close());
  }
}

function isRoomy({ log }: Group): boolean {
  return log.usedBytes < log.sizeBytes * ROOMY;
}
