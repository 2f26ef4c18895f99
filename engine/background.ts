/**
 * What a group does when nobody waits for it: materialises restores, fills and refreshes detached snapshots, takes unneeded layers down, and goes
 * back to direct mode. One step after the other, each in the lane, so that the applier and clients come in between.
 *
 * A disk that refuses holds this up and nothing else: it is tried again after a while, or when something was deleted.
 */
import type { Timer } from './clock.ts';
import { EngineError } from './errors.ts';
import type { GroupState, GroupVolume } from './group-state.ts';
import type { RestoreNode } from './snapshot/chain.ts';
import { restoreMapName } from './snapshot/control-effects.ts';
import { detachSome, endDetach } from './snapshot/detach.ts';
import type { DetachedSnapshot } from './snapshot/detached.ts';
import { removeDetached } from './snapshot/detached-removal.ts';
import { findUnneeded, takeDown } from './snapshot/janitor.ts';
import { bringForward } from './snapshot/materialise.ts';
import { endRefresh, refreshSome } from './snapshot/refresh.ts';
import type { RegionIndex } from './units.ts';

/** Regions restored in a step: so long others wait for the lane. */
const REGIONS_PER_STEP = 64;
/** After a refusal of a disk it is tried again after so long. */
const RETRY_MS = 1000;
/** What was refused so often in a row does not count on to end. */
const STUCK_REFUSALS = 5;

export interface BackgroundHooks {
  /** Goes to direct mode if nothing needs the log any more; whether it did anything. */
  readonly enterDirect: () => Promise<boolean>;
  /** Something that others may wait for has ended, or a disk refuses it. */
  readonly changed: () => void;
  /** Something was removed: whoever waits for space may try again. */
  readonly freed: () => void;
  readonly bug: (error: unknown) => void;
}

export class Background {
  readonly #state: GroupState;
  readonly #hooks: BackgroundHooks;
  /** Restored bytes a second at most; 0: as fast as the disk does. */
  copyBytesPerSecond = 0;
  #pokes = 0;
  #wake: (() => void) | undefined;
  #timer: Timer | undefined;
  #closing = false;
  #running: Promise<void> | undefined;
  /** Why the last step was refused, while it waits to be tried again. */
  #held: string | undefined;
  #refusals = 0;
  /** Somebody waits: nothing is paced until no restore is left. */
  #hurried = false;
  #busy = false;
  readonly #idleWaiters: (() => void)[] = [];

  constructor(state: GroupState, hooks: BackgroundHooks) {
    this.#state = state;
    this.#hooks = hooks;
  }

  get held(): string | undefined {
    return this.#held;
  }

  /** Whether a disk refuses again and again. */
  get isStuck(): boolean {
    return this.#refusals >= STUCK_REFUSALS;
  }

  /** Whether it has found nothing to do since the last poke. */
  get isIdle(): boolean {
    return !this.#busy;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** There may be something to do. */
  poke(): void {
    this.#pokes++;
    this.#busy = true;
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }

  /** As `poke`, and what was refused is tried again at once. */
  retryNow(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.poke();
  }

  /** Restores that are under way go as fast as the disk does: others wait for them. */
  hurry(): void {
    if (this.#hurried || this.#held !== undefined) return;
    this.#hurried = true;
    this.retryNow();
  }

  /** Resolves when there is nothing to do, or a disk refuses. */
  async idle(): Promise<void> {
    if (!this.#busy || this.#closing) return;
    await new Promise<void>((resolve) => this.#idleWaiters.push(resolve));
  }

  async close(): Promise<void> {
    this.#closing = true;
    this.#timer?.cancel();
    this.poke();
    this.#tellIdle();
    await this.#running;
  }

  async #run(): Promise<void> {
    while (!this.#closing) {
      const seen = this.#pokes;
      if (this.#timer === undefined && (await this.#tryStep())) continue;
      if (this.#closing) return;
      if (this.#pokes !== seen) continue;
      this.#busy = false;
      this.#tellIdle();
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  #tellIdle(): void {
    for (const resolve of this.#idleWaiters.splice(0)) resolve();
  }

  async #tryStep(): Promise<boolean> {
    try {
      const worked = await this.#step();
      this.#held = undefined;
      this.#refusals = 0;
      return worked;
    } catch (error) {
      if (this.#closing) return false;
      if (!(error instanceof EngineError)) {
        this.#hooks.bug(error);
        this.#closing = true;
        return false;
      }
      // What is kept back is for what gives space back: see `#step`.
      if (isFull(error) && findUnneeded(this.#state) !== undefined && (await this.#release())) return true;
      this.#held = error.message;
      this.#refusals++;
      this.#wait(RETRY_MS);
      this.#hooks.changed();
      return false;
    }
  }

  async #release(): Promise<boolean> {
    return await this.#state.space.release().catch(() => false);
  }

  #wait(delayMs: number): void {
    this.#timer = this.#state.clock.after(delayMs, () => {
      this.#timer = undefined;
      this.poke();
    });
  }

  /** Whether it did anything, so that there may be more. */
  async #step(): Promise<boolean> {
    // Space first: others may wait for it.
    const layer = findUnneeded(this.#state);
    if (layer !== undefined) {
      await takeDown(this.#state, layer);
      this.#hooks.freed();
      return true;
    }
    if (await removeDetached(this.#state)) {
      this.#hooks.freed();
      return true;
    }
    if (this.#state.chain.nodes.length > 0) await this.#state.space.keep();
    return (
      (await this.#restoreStep()) ||
      (await this.#refreshStep()) ||
      (await this.#detachStep()) ||
      (await this.#hooks.enterDirect())
    );
  }

  /** The oldest restore first (rule T1). */
  async #restoreStep(): Promise<boolean> {
    const [restore] = this.#state.chain.restores;
    if (restore === undefined) this.#hurried = false;
    if (restore === undefined || !restore.applied) return false;
    for (const volume of this.#state.volumes) {
      const regions = this.#nextRegions(restore, volume);
      if (regions.length === 0) continue;
      await this.#state.lane(() => bringForward(this.#state, volume, regions));
      if (this.#isPaced) {
        const bytes = regions.length * this.#state.regionBytes;
        this.#wait(Math.ceil((bytes / this.copyBytesPerSecond) * 1000));
        return false;
      }
      return true;
    }
    // What was seen outside the lane may be taken back in it: a record that could not be written.
    const isOver = () => restore.applied && restore.toComeCount === 0;
    const ended = await this.#state.lane(async () => isOver() && (await this.#endRestore(restore)));
    if (!ended) return true;
    await this.#removeMaps(restore);
    this.#tellRestored(restore);
    return true;
  }

  get #isPaced(): boolean {
    return this.copyBytesPerSecond > 0 && !this.#hurried;
  }

  #nextRegions(restore: RestoreNode, volume: GroupVolume): RegionIndex[] {
    const toCome = restore.parts[volume.index]?.toCome;
    const regions: RegionIndex[] = [];
    if (toCome === undefined) return regions;
    const most = this.#isPaced ? 1 : REGIONS_PER_STEP;
    for (let at = toCome.nextSet(0); at < toCome.length && regions.length < most; ) {
      regions.push(at);
      at = at + 1 < toCome.length ? toCome.nextSet(at + 1) : toCome.length;
    }
    return regions;
  }

  /** Nothing is to come: it leaves the chain, and its source is needed no more for it. */
  async #endRestore(restore: RestoreNode): Promise<true> {
    const { chain } = this.#state;
    const at = chain.nodes.indexOf(restore);
    chain.remove(restore);
    restore.source.users--;
    try {
      await this.#state.writeRecord(this.#state.checkpointLsn);
    } catch (error) {
      chain.putBack(restore, at);
      restore.source.users++;
      throw error;
    }
    return true;
  }

  async #removeMaps(restore: RestoreNode): Promise<void> {
    for (const volume of this.#state.volumes) {
      const part = restore.parts[volume.index];
      if (part === undefined) continue;
      await part.disk?.close();
      // What stays behind is named by nothing, and goes when the group is opened.
      await this.#state.folder.remove(restoreMapName(restore.id, volume.name)).catch(() => {});
    }
  }

  async #refreshStep(): Promise<boolean> {
    const snapshot = this.#state.detached.find((candidate) => candidate.refresh?.applied === true);
    if (snapshot === undefined) return false;
    await this.#state.lane(async () => {
      if (snapshot.refresh?.applied !== true || (await refreshSome(this.#state, snapshot))) return;
      await endRefresh(this.#state, snapshot);
      this.#tellOf(snapshot, 'refresh-completed', 'has all of its refresh now');
      this.#hooks.changed();
    });
    return true;
  }

  async #detachStep(): Promise<boolean> {
    const layer = this.#state.chain.layers.find((candidate) => candidate.detaching);
    if (layer === undefined) return false;
    return await this.#state.lane(async () => {
      if (!layer.detaching) return true;
      if (layer.name !== null && (await detachSome(this.#state, layer))) return true;
      // Whoever restores from it reads it as a layer of the chain: it stays one for so long.
      if (layer.users > 0 || layer.held !== undefined) return false;
      const snapshot = await endDetach(this.#state, layer);
      if (snapshot !== undefined) this.#tellOf(snapshot, 'detached', 'stands for itself now');
      this.#hooks.changed();
      return true;
    });
  }

  #tellRestored({ id, source }: RestoreNode): void {
    const snapshot = source.name ?? source.id;
    const message = `everything that was restored from snapshot ${snapshot} is in the volumes now`;
    this.#state.emit({ type: 'restore.completed', message, data: { id, snapshot } });
    this.#hooks.changed();
  }

  #tellOf(snapshot: DetachedSnapshot, what: string, message: string): void {
    const name = snapshot.name ?? snapshot.id;
    const data = { snapshot: name };
    this.#state.emit({ type: `snapshot.${what}`, message: `snapshot ${name} ${message}`, data });
  }
}

function isFull(error: EngineError): boolean {
  return error.errno === 'ENOSPC' || error.errno === 'EDQUOT';
}
