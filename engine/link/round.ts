/**
 * One round of a resync (rule K7): the regions that the DCM has are copied from an image of the group at one LSN, at which the secondary holds
 * meanwhile.
 *
 *   1. the shipping of the log ends where the log ends now, and there a control record makes the image: a layer of no name, that the round needs. A secondary
 *      that feeds others takes it without a record, where it comes to stand (`feeder.ts`);
 *   2. the secondary is told to apply up to there, and to hold;
 *   3. the barrier here: all records below are marked, and from there on they come through the log, durably in one write;
 *   4. the secondary's log reaches that point, or begins anew there;
 *   5. it says that it holds;
 *   6. the regions go over, and each bit is cleared when the secondary has its region durably and nobody has marked it again;
 *   7. it is released. It is consistent there if nothing is left.
 */
import { EngineError } from '../errors.ts';
import type { GroupState, GroupVolume } from '../group-state.ts';
import type { RegionMap } from '../map/region-map.ts';
import type { Layer } from '../snapshot/chain.ts';
import { isZero } from '../snapshot/region-copy.ts';
import { LOG_SECTOR_BYTES, type Lsn, MIB, type RegionIndex } from '../units.ts';
import type { RoundImage } from './feeder.ts';
import type { LinkState } from './link-state.ts';
import { Pace } from './pace.ts';
import type { PeerSession, PeerState, RegionContent } from './peer.ts';
import { isFull, type Shipping } from './shipping.ts';

/** Regions that go over in one call, in bytes, or one; and calls under way. */
const STEP_BYTES = 1 * MIB;
const FLIGHT_BYTES = 8 * MIB;
/** What is sent before its bits are cleared at the latest, in bytes; and after so long: what counts as moved is what is durable there. */
const SYNC_BYTES = 16 * MIB;
const SYNC_MS = 1000;
/** What a region of zeroes counts for in both, which costs next to nothing: so that they are bounded all the same. */
const ZERO_REGION_BYTES = 4096;
/** A round ends early when the log since it began takes such a share of the ring: the secondary has to take that, too. */
const RING_SHARE = 1 / 4;

export interface RoundHost {
  /** See `Feeder.begin`. The layer is needed from then on, until `end`. */
  readonly begin: (roundId: string) => Promise<RoundImage>;
  readonly end: (layer: Layer) => void;
  /** Resolves when the record is durable, and applied. Rejects when the connection is over before. */
  readonly applied: (lsn: Lsn) => Promise<void>;
  /** Resolves with what the secondary said last, once that holds. Rejects when the connection is over before. */
  readonly peer: (holds: (peer: PeerState) => boolean) => Promise<PeerState>;
  /** Resolves when the secondary has the log durably up to there. Rejects when the connection is over before. */
  readonly shipped: (lsn: Lsn) => Promise<void>;
  /** The secondary has begun its log anew, and is what this link feeds. */
  readonly adopted: (lsn: Lsn) => Promise<void>;
  /** Marks what the secondary said that it needs (rule K10). */
  readonly markNeeds: (peer: PeerState) => Promise<void>;
  /** Resolves after so long, or when `isOver`. Rejects when the connection is over before. */
  readonly delay: (ms: number, isOver: () => boolean) => Promise<void>;
  /** The secondary has these durably. */
  readonly moved: (regions: number, bytes: number) => void;
}

export interface RoundParts {
  readonly state: GroupState;
  readonly link: LinkState;
  readonly session: PeerSession;
  readonly shipping: Shipping;
  readonly host: RoundHost;
}

/** Whether nothing is left, and the secondary is consistent. Rejects with what the secondary said, or because the connection is over. */
export async function runRound(parts: RoundParts, restarts: boolean): Promise<boolean> {
  const { state, shipping, host, link, session } = parts;
  const roundId = state.newId();
  link.roundId = roundId;
  let image: RoundImage | undefined;
  try {
    // Nothing from its place on is shipped before the secondary holds there.
    image = await host.begin(roundId);
    const { lsn, layer, snapshots, isApplied } = image;
    await session.hold(roundId, lsn);
    if (!isApplied) await host.applied(lsn);
    if (restarts) {
      const chain = await state.logReader.chainAt(lsn);
      if (chain === undefined) throw new EngineError('corrupt', `the log has no batch at LSN ${lsn}`);
      await session.restart({ lsn, chain, snapshots });
      await host.adopted(lsn);
      shipping.start(lsn, (await session.state()).logBytes);
    } else await host.shipped(lsn);
    await host.markNeeds(await host.peer((peer) => peer.holding?.roundId === roundId));
    await new Sender(parts, roundId, layer).run(link.dcm.beginRound());
    await state.lane(() => link.flush());
    const complete = link.dcm.count === 0;
    await session.release(roundId, complete);
    return complete;
  } catch (error) {
    // One that has no room for what a round needs there goes on without it.
    if (image !== undefined && isFull(error)) await session.release(roundId, false);
    throw error;
  } finally {
    link.roundId = undefined;
    link.dcm.endRound();
    if (image !== undefined) host.end(image.layer);
    shipping.lift();
  }
}

interface Sent {
  readonly volume: GroupVolume;
  readonly regions: readonly RegionIndex[];
  readonly bytes: number;
}

/** Sends the regions of a round. */
class Sender {
  readonly #parts: RoundParts;
  readonly #roundId: string;
  /** Where the log ended when it began. */
  readonly #endLsn: Lsn;
  readonly #layer: Layer;
  readonly #pace: Pace;
  /** Sent, and not durable there for all that is known. */
  #unsynced: Sent[] = [];
  #unsyncedBytes = 0;
  #syncedAtMs: number;
  #flight: { readonly bytes: number; readonly done: Promise<void> }[] = [];
  #flightBytes = 0;

  constructor(parts: RoundParts, roundId: string, layer: Layer) {
    this.#parts = parts;
    this.#roundId = roundId;
    this.#endLsn = parts.state.log.endLsn;
    this.#layer = layer;
    this.#pace = new Pace(parts.state.clock);
    this.#syncedAtMs = parts.state.clock.nowMs();
  }

  async run(maps: readonly RegionMap[]): Promise<void> {
    try {
      await this.#sendAll(maps);
    } finally {
      await Promise.allSettled(this.#flight.map(({ done }) => done));
    }
  }

  async #sendAll(maps: readonly RegionMap[]): Promise<void> {
    const { state } = this.#parts;
    for (const volume of state.volumes) {
      const map = maps[volume.index];
      for (let at = map?.nextSet(0) ?? 0; map !== undefined && at < map.length; ) {
        const regions = take(map, at, Math.max(1, Math.floor(STEP_BYTES / state.regionBytes)));
        await this.#send(volume, regions);
        if (this.#unsyncedBytes >= SYNC_BYTES || state.clock.nowMs() - this.#syncedAtMs >= SYNC_MS) {
          await this.#sync();
          if (this.#isLong()) return;
        }
        at = next(map, (regions.at(-1) ?? at) + 1);
        await state.clock.turn();
      }
    }
    await this.#sync();
  }

  async #send(volume: GroupVolume, regions: readonly RegionIndex[]): Promise<void> {
    const { session } = this.#parts;
    const contents: RegionContent[] = [];
    for (const region of regions) contents.push(await this.#read(volume, region));
    const bytes = contents.reduce((sum, content) => sum + (content.bytes?.length ?? ZERO_REGION_BYTES), 0);
    while (this.#flightBytes > 0 && this.#flightBytes + bytes > FLIGHT_BYTES) await this.#land();
    const done = session.writeRegions(this.#roundId, volume.name, contents);
    // It is looked at when its turn comes.
    done.catch(() => {});
    this.#flight.push({ bytes, done });
    this.#flightBytes += bytes;
    this.#unsynced.push({ volume, regions, bytes });
    this.#unsyncedBytes += bytes;
    await this.#slowDown(bytes);
  }

  /** As long as the link's rate says after a piece of `bytes`, whatever the rate becomes meanwhile. */
  async #slowDown(bytes: number): Promise<void> {
    const { host, link } = this.#parts;
    const rate = () => link.settings.rateBytesPerSecond;
    for (let spent = bytes; ; spent = 0) {
      const seen = rate();
      const delayMs = this.#pace.delayMs(spent, seen);
      if (delayMs <= 0) return;
      await host.delay(delayMs, () => rate() !== seen);
    }
  }

  async #read(volume: GroupVolume, region: RegionIndex): Promise<RegionContent> {
    const { state } = this.#parts;
    const bytes = Buffer.allocUnsafe(state.bytesOf(volume, region));
    await state.reader.read(volume, this.#layer, bytes, 0, bytes.length, region * state.regionBytes);
    return { region, bytes: isZero(bytes) ? undefined : bytes };
  }

  async #land(): Promise<void> {
    const oldest = this.#flight.shift();
    if (oldest === undefined) return;
    this.#flightBytes -= oldest.bytes;
    await oldest.done;
  }

  /** What was sent is durable there: its bits go. */
  async #sync(): Promise<void> {
    const { session, link, host } = this.#parts;
    while (this.#flight.length > 0) await this.#land();
    if (this.#unsynced.length === 0) return;
    await session.syncRegions(this.#roundId);
    for (const { volume, regions, bytes } of this.#unsynced) {
      link.dcm.sent(volume.index, regions);
      host.moved(regions.length, bytes);
    }
    this.#unsynced = [];
    this.#unsyncedBytes = 0;
    this.#syncedAtMs = this.#parts.state.clock.nowMs();
  }

  #isLong(): boolean {
    const { log } = this.#parts.state;
    return (log.endLsn - this.#endLsn) * LOG_SECTOR_BYTES > log.capacityBytes * RING_SHARE;
  }
}

function next(map: RegionMap, from: RegionIndex): RegionIndex {
  return from < map.length ? map.nextSet(from) : map.length;
}

function take(map: RegionMap, first: RegionIndex, most: number): RegionIndex[] {
  const regions: RegionIndex[] = [];
  for (let at = first; at < map.length && regions.length < most; at = next(map, at + 1)) regions.push(at);
  return regions;
}
