/**
 * The secondary's side of a resync: it holds at an LSN and takes regions out of order there (rules K7, K8), while readers get the guard (K9).
 *
 * When it holds, all below is in the volumes and the checkpoint is there (L3), so that no replay puts older bytes over a region that has come. Which
 * round it holds for is in memory alone: a primary that comes back asks again.
 */
import { EngineError } from '../errors.ts';
import type { ReplicaRecord } from '../group-record.ts';
import type { GroupState, GroupVolume, RecordChanges } from '../group-state.ts';
import type { RegionContent } from '../link/peer.ts';
import type { Layer } from '../snapshot/chain.ts';
import { bringForward } from '../snapshot/materialise.ts';
import { preserve } from '../snapshot/preserve.ts';
import { eachRegion, isZero } from '../snapshot/region-copy.ts';
import type { Lsn, RegionIndex } from '../units.ts';
import { takeLayer } from './between-batches.ts';
import { syncedVolumes } from './lacking.ts';
import type { Needs } from './needs.ts';
import { replicaOf, writeReplica } from './replica-record.ts';

export interface Hold {
  readonly session: number;
  readonly roundId: string;
  readonly lsn: Lsn;
  /** It stands there, and takes regions. */
  reached: boolean;
}

export class Resync {
  readonly #state: GroupState;
  readonly #needs: Needs;
  hold: Hold | undefined;
  /** What has come since the guard was taken, or the group was opened. */
  readonly received = { regions: 0, bytes: 0 };
  /** Regions that have come since the last sync, by number of the volume, and how often a volume's sync had failed before. */
  readonly #unsynced = new Map<number, Set<RegionIndex>>();
  #losses = 0;

  constructor(state: GroupState, needs: Needs) {
    this.#state = state;
    this.#needs = needs;
  }

  /** The applier stands at the hold, and the checkpoint too. Throws `unavailable`, `disk`, when there can be no guard. In the lane. */
  async reach(hold: Hold): Promise<void> {
    await this.guard(hold.lsn, () => ({}));
    if (this.hold !== hold) return;
    hold.reached = true;
    this.#unsynced.clear();
    this.#losses = this.#state.volumeLosses;
  }

  /** Has a guard at `lsn`, where the applier and the checkpoint stand, unless regions came out of order before; `changes` are written with it. In the lane. */
  async guard(lsn: Lsn, changes: () => RecordChanges): Promise<void> {
    const replica = replicaOf(this.#state);
    if (replica.resync !== null) return;
    this.received.regions = 0;
    this.received.bytes = 0;
    if (replica.oldImage !== null) {
      await this.#keepGuard(lsn, changes);
      return;
    }
    if (await this.#state.space.isShort())
      throw new EngineError(
        'unavailable',
        'there is no room to keep what readers see during a resynchronisation: free space on the disk of the secondary',
        { errno: 'ENOSPC' },
      );
    const withGuard = (layer: Layer): RecordChanges => {
      const more = changes();
      return { ...more, replica: { ...(more.replica ?? replica), resync: { guardId: layer.id } } };
    };
    this.#state.shownImage = await takeLayer(this.#state, lsn, { name: null, users: 1 }, withGuard);
    this.#state.emit({
      type: 'resync.started',
      message:
        'regions come out of order from here on: readers see the volumes as they are now until all have come',
      data: { lsn },
    });
  }

  /** Readers have the image from before the resync before this one, and get what is there neither before this one is complete (rule K12). */
  async #keepGuard(lsn: Lsn, changes: () => RecordChanges): Promise<void> {
    const more = changes();
    const replica = more.replica ?? replicaOf(this.#state);
    await this.#state.writeRecord(lsn, {
      ...more,
      replica: { ...replica, resync: replica.oldImage, oldImage: null },
    });
  }

  /** Throws `unavailable` unless it holds for that round. */
  check(session: number, roundId: string): void {
    const { hold } = this;
    if (hold?.reached === true && hold.session === session && hold.roundId === roundId) return;
    throw new EngineError('unavailable', `this node does not hold for round ${roundId}`);
  }

  /** In the lane. Throws `invalid`, `disk`. */
  async write(volume: GroupVolume, contents: readonly RegionContent[]): Promise<void> {
    const state = this.#state;
    const byRegion = new Map(contents.map((content) => [content.region, content.bytes]));
    for (const { region, bytes } of contents) this.#judge(volume, region, bytes);
    const regions = [...byRegion.keys()].sort((a, b) => a - b);
    await bringForward(state, volume, regions);
    await preserve(state, volume, regions);
    // Whom this node feeds gets them in no record (rule K11).
    for (const tracker of state.trackers) tracker.noteReceived(volume.index, regions);
    let unsynced = this.#unsynced.get(volume.index);
    if (unsynced === undefined) {
      unsynced = new Set();
      this.#unsynced.set(volume.index, unsynced);
    }
    volume.unsynced = true;
    await eachRegion(state, regions, (region) => this.#put(volume, region, byRegion.get(region)));
    for (const region of regions) unsynced.add(region);
    this.#count(regions.length, [...byRegion.values()]);
  }

  #count(regions: number, contents: readonly (Buffer | undefined)[]): void {
    const { counters } = this.#state;
    const bytes = contents.reduce((sum, content) => sum + (content?.length ?? 0), 0);
    counters.regionsResynced += regions;
    counters.bytesReceived += bytes;
    this.received.regions += regions;
    this.received.bytes += bytes;
  }

  #judge(volume: GroupVolume, region: RegionIndex, bytes: Buffer | undefined): void {
    const count = this.#state.regionCount(volume);
    if (!Number.isSafeInteger(region) || region < 0 || region >= count)
      throw new EngineError('invalid', `volume ${volume.name} has ${count} regions, and no region ${region}`);
    const lengthBytes = this.#state.bytesOf(volume, region);
    if (bytes === undefined || bytes.length === lengthBytes) return;
    const what = `region ${region} of volume ${volume.name} has ${lengthBytes} bytes, not ${bytes.length}`;
    throw new EngineError('invalid', what);
  }

  async #put(volume: GroupVolume, region: RegionIndex, bytes: Buffer | undefined): Promise<void> {
    const offsetBytes = region * this.#state.regionBytes;
    if (bytes === undefined || isZero(bytes)) {
      await volume.disk.punch(offsetBytes, this.#state.bytesOf(volume, region));
      return;
    }
    await this.#state.markWritten(volume, [{ first: region, end: region + 1 }]);
    if (!volume.disk.tryWrite(bytes, 0, bytes.length, offsetBytes))
      await volume.disk.write(bytes, 0, bytes.length, offsetBytes);
  }

  /**
   * What has come is durable, and needed no more. Rejects with `disk` when a volume has lost what came since the last sync: then it has to come again
   * (rule L6). In the lane.
   */
  async sync(): Promise<void> {
    const state = this.#state;
    try {
      // The marks first: of a region that is there and not marked nobody would know that those whom this node feeds lack it.
      for (const tracker of state.trackers) await tracker.flush();
      await syncedVolumes(state);
      if (state.volumeLosses !== this.#losses)
        throw new EngineError('disk', 'a sync of a volume has failed since the last one', { errno: 'EIO' });
      for (const volume of state.volumes)
        await this.#needs.clear(volume, [...(this.#unsynced.get(volume.index) ?? [])]);
    } finally {
      this.#unsynced.clear();
      this.#losses = state.volumeLosses;
    }
  }

  /**
   * The volumes are what the primary's were at the hold, unless something is needed still: whether they are. Readers of one that applies late keep what they
   * see until `show` (rule K12). In the lane.
   */
  async complete(): Promise<boolean> {
    const state = this.#state;
    await this.sync();
    if (this.#needs.count > 0) return false;
    const { resync, needs, applyDelaySeconds } = replicaOf(state);
    const changes = { resync: null, needs: { version: needs.version, volumes: [] } };
    const keeps = resync !== null && applyDelaySeconds > 0;
    if (keeps) await writeReplica(state, state.checkpointLsn, { ...changes, oldImage: resync });
    else await this.#showVolumes(resync, changes);
    await this.#needs.forget();
    const message = keeps
      ? 'everything has come: readers keep the image from before until what has come is as old as the delay'
      : 'everything has come: readers see the volumes again';
    state.emit({ type: 'resync.completed', message, data: { lsn: state.checkpointLsn } });
    return true;
  }

  /** Rule K12: readers get the volumes, after a resync that is complete; with `changes` of the record besides. In the lane. */
  async show(changes: Partial<ReplicaRecord> = {}): Promise<void> {
    const state = this.#state;
    await this.#showVolumes(replicaOf(state).oldImage, { ...changes, oldImage: null });
    const message = 'readers see the volumes again, as they are after the resynchronisation';
    state.emit({ type: 'resync.shown', message, data: { lsn: state.checkpointLsn } });
  }

  /** One durable write, and then in one go. The guard is needed no more. */
  async #showVolumes(shown: ReplicaRecord['resync'], changes: Partial<ReplicaRecord>): Promise<void> {
    const state = this.#state;
    const guard = state.chain.layers.find((layer) => layer.id === shown?.guardId);
    if (guard !== undefined) guard.users--;
    try {
      await writeReplica(state, state.checkpointLsn, changes);
    } catch (error) {
      if (guard !== undefined) guard.users++;
      throw error;
    }
    state.shownImage = undefined;
  }
}
