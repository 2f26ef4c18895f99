/**
 * A volume as a snapshot shows it: a block device of its own, readable and writable.
 *
 * What is written is local to the node, and never changes the image of the snapshot at its LSN (rule S3): the first write into a region copies the rest of
 * it up into the modified store. The region's bit is durable before its writer goes on; what is written later in place is as safe as
 * on any disk, once it is flushed.
 */
import type { BlockDevice, ZeroOptions } from '../block-device.ts';
import type { DiskExtent } from '../disk/disk.ts';
import { assert, EngineError } from '../errors.ts';
import type { GroupState, GroupVolume } from '../group-state.ts';
import type { RegionIndex } from '../units.ts';
import type { Snapshot } from './control-effects.ts';
import { bringForward } from './materialise.ts';
import { refreshRegions } from './refresh.ts';
import { putRegion, readRegion, storeOf } from './region-copy.ts';
import type { RegionStore } from './region-store.ts';

export interface SnapshotHost {
  /** The snapshot as it is now: in the chain, or detached. Undefined when it is gone. */
  readonly find: () => Snapshot | undefined;
  /** Resolves once the log is applied beyond the position. */
  readonly applied: (lsn: number) => Promise<void>;
}

export class SnapshotVolume implements BlockDevice {
  readonly sizeBytes: number;
  readonly regionBytes: number;
  readonly readOnly = false;
  readonly #state: GroupState;
  readonly #volume: GroupVolume;
  readonly #host: SnapshotHost;
  readonly #label: string;
  #failure: EngineError | undefined;

  constructor(state: GroupState, volume: GroupVolume, label: string, host: SnapshotHost) {
    this.#state = state;
    this.#volume = volume;
    this.#label = label;
    this.#host = host;
    this.sizeBytes = volume.sizeBytes;
    this.regionBytes = state.regionBytes;
  }

  get failure(): string | undefined {
    return this.#failure?.message;
  }

  tryRead(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): boolean {
    this.#check(offsetBytes, lengthBytes);
    return this.#state.reader.tryRead(
      this.#volume,
      this.#snapshot(),
      target,
      targetStart,
      lengthBytes,
      offsetBytes,
    );
  }

  async read(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): Promise<void> {
    this.#check(offsetBytes, lengthBytes);
    const view = this.#snapshot();
    await this.#state.reader.read(this.#volume, view, target, targetStart, lengthBytes, offsetBytes);
    // It may have left the chain meanwhile, and what was read through it is not its any more.
    if (this.#snapshot() !== view) await this.read(target, targetStart, lengthBytes, offsetBytes);
  }

  /** Every write may have to copy: it always waits. */
  tryWrite(_source: Buffer, _sourceStart: number, lengthBytes: number, offsetBytes: number): boolean {
    this.#check(offsetBytes, lengthBytes);
    this.#checkWritable();
    return false;
  }

  async write(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): Promise<void> {
    await this.#eachRegion(offsetBytes, lengthBytes, (region, startBytes, pieceBytes) => {
      const from = sourceStart + startBytes - offsetBytes;
      return this.#writeRegion(region, startBytes, source.subarray(from, from + pieceBytes));
    });
  }

  settle(): void {
    // Nothing is taken that a killed process could lose.
  }

  /** What is written is this node's alone, and in no log (rule S3): no link has a word in it. */
  readonly holdsReplies = false;

  acknowledged(): Promise<void> {
    return Promise.resolve();
  }

  async flush(): Promise<void> {
    this.#checkWritable();
    await this.#sync(this.#snapshot().parts[this.#volume.index]?.modified);
  }

  /** What is written through a snapshot is in no log: after a failed sync it takes no more (rule L6). */
  async #sync(store: RegionStore | undefined): Promise<void> {
    try {
      await store?.sync();
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      const message = `${this.#label} takes no more writes: ${why}`;
      this.#failure ??= new EngineError('unavailable', message, { errno: 'EIO' });
      throw this.#failure;
    }
  }

  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    await this.#eachRegion(offsetBytes, lengthBytes, (region, startBytes, pieceBytes) =>
      this.#writeRegion(region, startBytes, Buffer.alloc(pieceBytes)),
    );
  }

  async writeZeroes(offsetBytes: number, lengthBytes: number, options: ZeroOptions): Promise<void> {
    if (options.fast)
      throw new EngineError('disk', 'a snapshot cannot zero faster than by writing', { errno: 'ENOTSUP' });
    await this.trim(offsetBytes, lengthBytes);
  }

  async prefetch(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.#check(offsetBytes, lengthBytes);
    await Promise.resolve();
  }

  async allocation(offsetBytes: number, lengthBytes: number, maxExtents: number): Promise<DiskExtent[]> {
    this.#check(offsetBytes, lengthBytes);
    const view = this.#snapshot();
    const { reader } = this.#state;
    const extents = await reader.extents(this.#volume, view, offsetBytes, lengthBytes, maxExtents);
    // As in `read`.
    if (this.#snapshot() === view) return extents;
    return await this.allocation(offsetBytes, lengthBytes, maxExtents);
  }

  async #eachRegion(
    offsetBytes: number,
    lengthBytes: number,
    work: (region: RegionIndex, startBytes: number, pieceBytes: number) => Promise<void>,
  ): Promise<void> {
    this.#check(offsetBytes, lengthBytes);
    const endBytes = offsetBytes + lengthBytes;
    for (let at = offsetBytes; at < endBytes; ) {
      const region = Math.floor(at / this.regionBytes);
      const stop = Math.min(endBytes, (region + 1) * this.regionBytes);
      await work(region, at, stop - at);
      at = stop;
    }
  }

  async #writeRegion(region: RegionIndex, startBytes: number, bytes: Buffer): Promise<void> {
    for (;;) {
      this.#checkWritable();
      await this.#snapshot().held;
      await this.#host.applied(this.#mustBeApplied(this.#snapshot(), region));
      if (await this.#state.lane(() => this.#writeInLane(region, startBytes, bytes))) return;
    }
  }

  /** The LSN beyond which the log has to be applied before this region of the snapshot may change. */
  #mustBeApplied(snapshot: Snapshot, region: RegionIndex): number {
    let lsn = snapshot.lsn;
    for (const restore of this.#state.chain.restores) {
      const waits = restore.source === snapshot && !restore.applied;
      if (waits && restore.parts[this.#volume.index]?.toCome.has(region)) lsn = Math.max(lsn, restore.lsn);
    }
    if (snapshot.kind === 'detached' && snapshot.refresh?.applied === false)
      lsn = Math.max(lsn, snapshot.refresh.layer.lsn);
    return lsn;
  }

  /** False when something came in between that has to be waited for. */
  async #writeInLane(region: RegionIndex, startBytes: number, bytes: Buffer): Promise<boolean> {
    const snapshot = this.#snapshot();
    const waits =
      snapshot.held !== undefined ||
      (snapshot.kind === 'layer' && !snapshot.applied) ||
      this.#mustBeApplied(snapshot, region) > snapshot.lsn;
    if (waits) return false;
    let ended: () => void = () => {};
    snapshot.writing = new Promise((resolve) => {
      ended = resolve;
    });
    try {
      await this.#release(snapshot, region);
      await this.#put(snapshot, region, startBytes, bytes);
      return true;
    } finally {
      snapshot.writing = undefined;
      ended();
    }
  }

  /** What a restore still reads here goes into the volume first (rule T3); what a refresh still brings comes first. */
  async #release(snapshot: Snapshot, region: RegionIndex): Promise<void> {
    const reads = this.#state.chain.restores.some(
      (restore) =>
        restore.source === snapshot && restore.parts[this.#volume.index]?.toCome.has(region) === true,
    );
    if (reads) await bringForward(this.#state, this.#volume, [region]);
    if (snapshot.kind === 'detached') await refreshRegions(this.#state, snapshot, this.#volume, [region]);
  }

  async #put(snapshot: Snapshot, region: RegionIndex, startBytes: number, bytes: Buffer): Promise<void> {
    const part = snapshot.parts[this.#volume.index];
    assert(part !== undefined, 'a snapshot has a part of every volume');
    const store = await storeOf(this.#state, snapshot.id, part, this.#volume, 'modified');
    if (store.map.has(region)) {
      if (!store.tryWrite(bytes, 0, bytes.length, startBytes))
        await store.write(bytes, 0, bytes.length, startBytes);
      return;
    }
    const regionStart = region * this.regionBytes;
    const content = await readRegion(this.#state, this.#volume, snapshot, region);
    bytes.copy(content, startBytes - regionStart);
    await putRegion(store, content, regionStart);
    await this.#sync(store);
    await store.add([region]);
  }

  #snapshot(): Snapshot {
    const snapshot = this.#host.find();
    if (snapshot !== undefined) return snapshot;
    throw new EngineError('unavailable', `${this.#label} is gone`, { errno: 'ESHUTDOWN' });
  }

  #checkWritable(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  #check(offsetBytes: number, lengthBytes: number): void {
    assert(
      offsetBytes >= 0 && lengthBytes >= 0 && offsetBytes + lengthBytes <= this.sizeBytes,
      'the range lies inside the snapshot',
    );
  }
}
