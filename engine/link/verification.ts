/**
 * Compares primary and secondary of a link, while both are in use: the images of the group at one LSN, by checksums of regions.
 *
 *   1. it waits until the link streams, and says to the secondary that a record will come;
 *   2. the record: a layer of no name here, and there when it is part of what the secondary shows; both are needed from then on;
 *   3. it waits until the secondary has its image, however far that lags;
 *   4. volume after volume is compared (`compare.ts`);
 *   5. both layers are let go of. What differs joins the DCM, durably, where that was asked for (K10), and a round brings it.
 *
 * It lives no longer than the connection: one that is lost ends it, and it can be begun again.
 */
import { EngineError } from '../errors.ts';
import { MAX_RECORDED_NODES } from '../group-record.ts';
import type { GroupState, GroupVolume } from '../group-state.ts';
import { RegionMap, type RegionRun } from '../map/region-map.ts';
import type { OperationView } from '../operations.ts';
import type { Layer } from '../snapshot/chain.ts';
import { type Lsn, MIB, type RegionIndex } from '../units.ts';
import { compareVolume, type Step } from './compare.ts';
import type { LinkState } from './link-state.ts';
import { Pace } from './pace.ts';
import type { PeerSession, PeerState, PeerVerification } from './peer.ts';

/** Runs of regions that differ that are told of each volume; the count is of all. */
export const MAX_TOLD_RUNS = 1000;
/** Content that is read in a step on each side, in bytes; and how long a step lasts at most, where a rate is kept. */
const STEP_BYTES = 4 * MIB;
const STEP_SECONDS = 1 / 4;
/** Of the layers and restores that a record may have, so many are never for verifications. */
const NODES_SHARE = 1 / 2;

/** A connection, as far as a verification needs it. What waits rejects when it is over. */
export interface VerifyLine {
  readonly session: PeerSession;
  readonly isStreaming: () => boolean;
  /** Why it does not stream, or what holds the secondary up. */
  readonly obstacle: () => string | undefined;
  readonly until: (holds: () => boolean) => Promise<void>;
  /** Resolves with what the secondary said last, once that holds. */
  readonly peer: (holds: (peer: PeerState) => boolean) => Promise<PeerState>;
  /** Why the connection is over, or undefined. */
  readonly over: () => string | undefined;
  /** What others wait for has changed. */
  readonly changed: () => void;
}

export interface VerifyHost {
  /** Logs the record; throws where there is no room. The layer is needed from then on, until `end`. */
  readonly begin: (verifyId: string) => { readonly lsn: Lsn; readonly layer: Layer };
  readonly end: (layer: Layer) => void;
  readonly tell: (what: string, message: string, data?: Readonly<Record<string, unknown>>) => void;
  /** What only a bug explains. */
  readonly bug: (error: unknown) => void;
}

export interface VerifyOptions {
  /** What differs joins the DCM. */
  readonly mark?: boolean;
  /** Content that is read a second on each side, in bytes, at most; 0 or absent: no limit. */
  readonly rateBytesPerSecond?: number;
}

export interface VolumeVerification {
  readonly name: string;
  /** Those that have content on either side. */
  readonly regionsCompared: number;
  readonly regionsDiffering: number;
  /** The first `MAX_TOLD_RUNS` of them. */
  readonly runs: readonly RegionRun[];
}

export interface VerificationView {
  readonly id: string;
  readonly state: 'running' | 'done' | 'failed';
  readonly mark: boolean;
  readonly rateBytesPerSecond: number;
  readonly begunAt: string;
  /** Why it does not go on, while that is so. */
  readonly waitsFor: string | undefined;
  /** Of both images. */
  readonly lsn: Lsn | undefined;
  /** Regions passed, blank ones too, of all that there are. */
  readonly done: number;
  readonly total: number;
  readonly checksumBytes: number;
  readonly volumes: readonly VolumeVerification[];
  readonly regionsDiffering: number;
  /** They are in the DCM, durably. */
  readonly marked: boolean;
  readonly error: EngineError | undefined;
}

interface Found {
  readonly volume: GroupVolume;
  compared: number;
  reached: number;
  differing: RegionMap;
}

export class Verification {
  readonly id: string;
  /** Resolves when nothing of it is under way. Never rejects. */
  readonly ended: Promise<void>;
  readonly #state: GroupState;
  readonly #link: LinkState;
  readonly #options: VerifyOptions;
  readonly #line: VerifyLine;
  readonly #host: VerifyHost;
  readonly #begunAt: string;
  readonly #pace: Pace;
  #found: readonly Found[] = [];
  #lsn: Lsn | undefined;
  #checksumBytes = 0;
  #phase: 'streaming' | 'image' | 'comparing' | 'over' = 'streaming';
  #marked = false;
  #error: EngineError | undefined;
  #cancelled = false;

  constructor(
    state: GroupState,
    link: LinkState,
    options: VerifyOptions,
    line: VerifyLine,
    host: VerifyHost,
  ) {
    this.#state = state;
    this.#link = link;
    this.#options = options;
    this.#line = line;
    this.#host = host;
    this.id = state.newId();
    this.#begunAt = new Date(state.clock.nowMs()).toISOString();
    this.#pace = new Pace(state.clock);
    this.#forget();
    this.ended = this.#run();
  }

  get isOver(): boolean {
    return this.#phase === 'over';
  }

  get regionsDiffering(): number {
    return this.#found.reduce((sum, { differing }) => sum + differing.count, 0);
  }

  get view(): VerificationView {
    const { mark = false, rateBytesPerSecond = 0 } = this.#options;
    const ended = this.#error === undefined ? 'done' : 'failed';
    return {
      id: this.id,
      state: this.isOver ? ended : 'running',
      mark,
      rateBytesPerSecond,
      begunAt: this.#begunAt,
      waitsFor: this.#waitsFor,
      lsn: this.#lsn,
      done: this.#found.reduce((sum, { reached }) => sum + reached, 0),
      total: this.#found.reduce((sum, { volume }) => sum + this.#state.regionCount(volume), 0),
      checksumBytes: this.#checksumBytes,
      volumes: this.#found.map(({ volume, compared, differing }) => ({
        name: volume.name,
        regionsCompared: compared,
        regionsDiffering: differing.count,
        runs: firstRuns(differing),
      })),
      regionsDiffering: this.regionsDiffering,
      marked: this.#marked,
      error: this.#error,
    };
  }

  get operation(): OperationView {
    const { done, total, waitsFor } = this.view;
    const target = this.#link.settings.name;
    return { id: this.id, kind: 'verify', target, done, total, unit: 'regions', waitsFor };
  }

  /** It ends soon, as one that failed. */
  cancel(): void {
    this.#cancelled = true;
    this.#line.changed();
  }

  get #waitsFor(): string | undefined {
    const obstacle = this.#line.obstacle();
    if (this.#phase === 'streaming') return obstacle ?? 'the link to stream';
    if (this.#phase === 'image') return obstacle ?? `the secondary to come to LSN ${this.#lsn}`;
    return undefined;
  }

  #forget(): void {
    this.#found = this.#state.volumes.map((volume) => {
      const differing = new RegionMap(this.#state.regionCount(volume));
      return { volume, compared: 0, reached: 0, differing };
    });
  }

  async #run(): Promise<void> {
    try {
      await this.#compare();
    } catch (error) {
      // A connection that is over tells why in this turn.
      await this.#state.clock.turn();
      this.#error = this.#asError(error);
    }
    try {
      await this.#mark();
    } catch (error) {
      this.#error = this.#asError(error);
    }
    this.#phase = 'over';
    this.#tell();
  }

  #asError(error: unknown): EngineError {
    const over = this.#line.over();
    if (this.#cancelled && (over !== undefined || error instanceof EngineError)) return cancelled();
    if (over !== undefined) {
      const what = `the connection to the secondary is over: ${over}; verify again when the link streams`;
      return new EngineError('unavailable', what, { cause: error });
    }
    if (error instanceof EngineError) return error;
    this.#host.bug(error);
    return new EngineError('unavailable', 'the comparison has failed', { cause: error });
  }

  #tell(): void {
    const regions = this.regionsDiffering;
    const data = { id: this.id, regions, marked: this.#marked };
    if (this.#error !== undefined) {
      this.#host.tell(
        'verify-failed',
        `the comparison with the secondary ended: ${this.#error.message}`,
        data,
      );
      return;
    }
    const what =
      regions === 0
        ? 'both sides are equal'
        : `${regions} regions differ${this.#marked ? ', and are marked' : ''}`;
    this.#host.tell('verified', `${what} at LSN ${this.#lsn}`, data);
  }

  #throwIfCancelled(): void {
    if (this.#cancelled) throw cancelled();
  }

  async #until(holds: () => boolean): Promise<void> {
    await this.#line.until(() => this.#cancelled || holds());
    this.#throwIfCancelled();
  }

  /** Once a record came to the secondary in the middle of a resync, there is another one when that is over. */
  async #compare(): Promise<void> {
    while (!(await this.#tryCompare(this.#state.newId()))) {
      this.#phase = 'streaming';
      this.#lsn = undefined;
    }
  }

  /** False when there was no image on the other side. */
  async #tryCompare(imageId: string): Promise<boolean> {
    const { session } = this.#line;
    await this.#until(this.#line.isStreaming);
    await this.#checkRoom();
    await session.beginVerify(imageId);
    let layer: Layer | undefined;
    try {
      this.#throwIfCancelled();
      if (!this.#line.isStreaming()) return false;
      const begun = this.#host.begin(imageId);
      layer = begun.layer;
      this.#lsn = begun.lsn;
      this.#phase = 'image';
      if (!(await this.#imageThere(imageId, begun.lsn))) return false;
      this.#phase = 'comparing';
      for (const found of this.#found) await this.#compareVolume(found, imageId, begun.layer);
      return true;
    } finally {
      if (layer !== undefined) this.#host.end(layer);
      // Where the connection is over, so is the verification there.
      await session.endVerify(imageId).catch(() => {});
    }
  }

  async #checkRoom(): Promise<void> {
    if (await this.#state.space.isShort())
      throw new EngineError('unavailable', 'the disk has no room to keep an image: free some', {
        errno: 'ENOSPC',
      });
    if (this.#state.chain.nodes.length > MAX_RECORDED_NODES * NODES_SHARE)
      throw new EngineError('unavailable', 'there are too many layers to be removed: try again later');
  }

  async #imageThere(imageId: string, lsn: Lsn): Promise<boolean> {
    const own = ({ verifying }: PeerState): PeerVerification | undefined =>
      verifying?.id === imageId ? verifying : undefined;
    const peer = await this.#line.peer((said) => {
      const { lsn: imageLsn = null, refused = null } = own(said) ?? {};
      return this.#cancelled || imageLsn !== null || refused !== null;
    });
    this.#throwIfCancelled();
    const imageLsn = own(peer)?.lsn ?? null;
    if (imageLsn === null || imageLsn === lsn) return imageLsn !== null;
    throw new EngineError('unavailable', `the secondary has an image at LSN ${imageLsn}, and not at ${lsn}`);
  }

  async #compareVolume(found: Found, imageId: string, layer: Layer): Promise<void> {
    const rate = this.#options.rateBytesPerSecond ?? 0;
    const comparison = {
      state: this.#state,
      session: this.#line.session,
      verifyId: imageId,
      layer,
      stepBytes: rate === 0 ? STEP_BYTES : Math.min(STEP_BYTES, rate * STEP_SECONDS),
      differs: (region: RegionIndex) => found.differing.set(region),
      reached: (region: RegionIndex) => {
        found.reached = region;
      },
      stepped: async ({ regions, contentBytes, checksumBytes }: Step) => {
        found.compared += regions;
        this.#checksumBytes += checksumBytes;
        await this.#wait(this.#pace.delayMs(contentBytes, rate));
      },
    };
    await compareVolume(comparison, found.volume);
  }

  /** Others have their turn in any case. */
  async #wait(ms: number): Promise<void> {
    if (ms <= 0) {
      await this.#state.clock.turn();
      this.#throwIfCancelled();
      return;
    }
    let over = false;
    const timer = this.#state.clock.after(ms, () => {
      over = true;
      this.#line.changed();
    });
    try {
      await this.#until(() => over);
    } finally {
      timer.cancel();
    }
  }

  /** What was found, also by one that ended early: it differs. */
  async #mark(): Promise<void> {
    if (this.#options.mark !== true || this.regionsDiffering === 0) return;
    await this.#state.lane(async () => {
      for (const { volume, differing } of this.#found)
        for (const run of differing.runs()) this.#link.mark(volume.index, run);
      await this.#link.flush();
    });
    this.#marked = true;
  }
}

function cancelled(): EngineError {
  return new EngineError('unavailable', 'the verification was cancelled: what it had found by then is told');
}

function firstRuns(map: RegionMap): RegionRun[] {
  const runs: RegionRun[] = [];
  for (const run of map.runs()) {
    if (runs.length >= MAX_TOLD_RUNS) break;
    runs.push(run);
  }
  return runs;
}
