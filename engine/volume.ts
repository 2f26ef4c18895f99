import type { BlockDevice, ZeroOptions } from './block-device.ts';
import type { Disk, DiskExtent } from './disk/disk.ts';
import { assert, EngineError } from './errors.ts';
import type { GroupState, GroupVolume } from './group-state.ts';
import { InFlight } from './in-flight.ts';
import type { WritePath } from './log/write-path.ts';
import type { RegionMapView } from './map/region-map.ts';
import type { Layer } from './snapshot/chain.ts';
import { MIB } from './units.ts';

/** Zeroing a longer range is cut into pieces of that size: less than a second where zeroes are written at 100 MB/s. */
const ZERO_PIECE_BYTES = 64 * MIB;

export interface VolumeIdentity {
  readonly name: string;
  /** A UUID. */
  readonly id: string;
  readonly sizeBytes: number;
  readonly regionBytes: number;
}

/**
 * The live volume: a block device that applications use.
 *
 * In direct mode (rule L4) requests go straight to its disk, and every write of data marks its regions before it reaches it (`written`:
 * since creation). Once its group logs, writes go into the log, and reads see what is logged and not yet applied; callers see no difference.
 */
export class Volume implements BlockDevice {
  readonly name: string;
  readonly id: string;
  readonly sizeBytes: number;
  readonly regionBytes: number;
  /** True on a secondary, whose volumes take writes from their primary only. */
  readonly readOnly: boolean;
  readonly #state: GroupState;
  readonly #volume: GroupVolume;
  readonly #path: WritePath;
  readonly #disk: Disk;
  /** What writes and flushes are refused with, after a direct write could not be made durable. */
  #refusal: EngineError | undefined;
  #closing: Promise<void> | undefined;
  readonly #inFlight = new InFlight();
  readonly #failureListeners: ((reason: string) => void)[] = [];

  constructor(state: GroupState, volume: GroupVolume, path: WritePath, readOnly: boolean) {
    assert(volume.disk.sizeBytes >= volume.sizeBytes, 'the disk holds the volume');
    this.name = volume.name;
    this.id = volume.id;
    this.sizeBytes = volume.sizeBytes;
    this.regionBytes = volume.regionBytes;
    this.readOnly = readOnly;
    this.#state = state;
    this.#volume = volume;
    this.#path = path;
    this.#disk = volume.disk;
    volume.map.onFailure = (reason) => {
      // What is logged is applied again, and the map writes again all that counts: only who writes directly has lost something (rule L6).
      if (path.isDirect) this.fail(`its region map cannot be kept: ${reason}`);
      else volume.map.forgive();
    };
  }

  /** The regions written since the volume was created: at least those that were applied. A region that is not in it reads as zeroes. */
  get written(): RegionMapView {
    return this.#volume.map.written;
  }

  /** Why the volume takes no more writes and flushes (rule L6), or undefined. Reads go on. It ends with the process only. */
  get failure(): string | undefined {
    return (this.#refusal ?? this.#path.failure)?.message;
  }

  /** Runs `listener` once, when the volume fails. */
  onFailure(listener: (reason: string) => void): void {
    this.#failureListeners.push(listener);
  }

  tryRead(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): boolean {
    this.#checkRange(offsetBytes, lengthBytes);
    if (this.#path.isDirect) return this.#disk.tryRead(target, targetStart, lengthBytes, offsetBytes);
    const { reader } = this.#state;
    return reader.tryRead(this.#volume, this.#shown(), target, targetStart, lengthBytes, offsetBytes);
  }

  async read(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): Promise<void> {
    this.#checkRange(offsetBytes, lengthBytes);
    await this.#inFlight.track(this.#read(target, targetStart, lengthBytes, offsetBytes));
  }

  async #read(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): Promise<void> {
    for (;;) {
      const view = this.#shown();
      const { reader } = this.#state;
      await reader.read(this.#volume, view, target, targetStart, lengthBytes, offsetBytes);
      // Something else may be shown by now, and what was read be neither.
      if (this.#shown() === view) return;
    }
  }

  /** What readers get (rule K9). Throws `unavailable` when there is nothing to show yet. */
  #shown(): Layer | undefined {
    const { shownImage } = this.#state;
    if (shownImage !== 'none') return shownImage;
    const what =
      this.#state.record.replica?.oldImage == null
        ? `volume ${this.name} is not yet synchronised: it can be read when all of its primary's has come`
        : `volume ${this.name} is synchronised, and can be read when the apply delay has passed, or once its group is thawed`;
    throw new EngineError('unavailable', what, { errno: 'EAGAIN' });
  }

  tryWrite(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): boolean {
    this.#checkWritable(offsetBytes, lengthBytes);
    if (lengthBytes === 0) return true;
    if (!this.#path.isDirect)
      return this.#path.tryWrite(this.#volume, source, sourceStart, lengthBytes, offsetBytes);
    const first = Math.floor(offsetBytes / this.regionBytes);
    const end = Math.floor((offsetBytes + lengthBytes - 1) / this.regionBytes) + 1;
    // A mark whose write then has to wait, or fails, is one too many at worst.
    return (
      this.#volume.map.tryMark(first, end) &&
      this.#disk.tryWrite(source, sourceStart, lengthBytes, offsetBytes)
    );
  }

  async write(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): Promise<void> {
    this.#checkWritable(offsetBytes, lengthBytes);
    await this.#inFlight.track(this.#write(source, sourceStart, lengthBytes, offsetBytes));
  }

  async #write(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): Promise<void> {
    let done = 0;
    while (done < lengthBytes) {
      const [start, rest, at] = [sourceStart + done, lengthBytes - done, offsetBytes + done];
      if (this.#path.isDirect) {
        const put = () => this.#disk.write(source, start, rest, at);
        await this.#path.direct(() => this.#marked(at, rest, put));
        return;
      }
      done += await this.#path.write(this.#volume, source, start, rest, at);
    }
  }

  settle(): void {
    this.#path.settle();
  }

  get holdsReplies(): boolean {
    return this.#path.holdsReplies;
  }

  async acknowledged(): Promise<void> {
    await this.#inFlight.track(this.#path.acknowledged());
  }

  /** Makes durable whatever was acknowledged before the call, on any connection. */
  async flush(): Promise<void> {
    this.#checkWritable(0, 0);
    await this.#inFlight.track(this.#flush());
  }

  async #flush(): Promise<void> {
    try {
      await this.#path.flush(this.#disk);
    } catch (error) {
      if (this.#path.failure === undefined) this.fail(error instanceof Error ? error.message : String(error));
      throw this.#refusal ?? error;
    }
  }

  /**
   * The range reads as zeroes afterwards, and its space is given back where the disk can (rule L11). Zeroes mark no region: one that is not
   * marked is as blank as it was created, and stays so. Formatting a new volume, which trims all of it, leaves its map empty.
   */
  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.#checkWritable(offsetBytes, lengthBytes);
    await this.#inFlight.track(this.#zero(offsetBytes, lengthBytes, { mayPunch: true, fast: false }));
  }

  /** `mayPunch`, `fast`: see `ZeroOptions`. It marks no more than a trim does. What is logged is zeroed fast: it costs a record. */
  async writeZeroes(offsetBytes: number, lengthBytes: number, options: ZeroOptions): Promise<void> {
    this.#checkWritable(offsetBytes, lengthBytes);
    await this.#inFlight.track(this.#zero(offsetBytes, lengthBytes, options));
  }

  /**
   * Zeroing has no bound in size, and where it comes to writing it takes its time. So it is done in pieces, and ends early when the volume
   * closes or fails. Only the first piece may reject with `ENOTSUP`: a disk either can or cannot.
   */
  async #zero(offsetBytes: number, lengthBytes: number, options: ZeroOptions): Promise<void> {
    const end = offsetBytes + lengthBytes;
    for (let at = offsetBytes; at < end; ) {
      if (at > offsetBytes) this.#checkWritable(at, 0);
      // Cut at multiples of the size of a piece, so that no block of the disk is cut.
      const stop = Math.min(end, (Math.floor(at / ZERO_PIECE_BYTES) + 1) * ZERO_PIECE_BYTES);
      const from = at;
      if (this.#path.isDirect) {
        await this.#path.direct(() => this.#zeroDirectly(from, stop - from, options));
        at = stop;
      } else at += await this.#path.zero(this.#volume, from, stop - from, options.mayPunch);
    }
  }

  #zeroDirectly(startBytes: number, pieceBytes: number, { mayPunch, fast }: ZeroOptions): Promise<void> {
    if (!mayPunch) return this.#disk.zero(startBytes, pieceBytes, fast);
    return fast ? this.#disk.punchFast(startBytes, pieceBytes) : this.#disk.punch(startBytes, pieceBytes);
  }

  /** Asks for the range to be in the cache soon. Advisory. */
  async prefetch(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.#checkRange(offsetBytes, lengthBytes);
    await this.#inFlight.track(this.#disk.prefetch(offsetBytes, lengthBytes));
  }

  /** Extents from the start of the range, as `Disk.extents`: they may end before the range does. */
  async allocation(offsetBytes: number, lengthBytes: number, maxExtents: number): Promise<DiskExtent[]> {
    this.#checkRange(offsetBytes, lengthBytes);
    return await this.#inFlight.track(this.#extents(offsetBytes, lengthBytes, maxExtents));
  }

  async #extents(offsetBytes: number, lengthBytes: number, maxExtents: number): Promise<DiskExtent[]> {
    for (;;) {
      const view = this.#shown();
      const { reader } = this.#state;
      const extents = await reader.extents(this.#volume, view, offsetBytes, lengthBytes, maxExtents);
      // As in `#read`.
      if (this.#shown() === view) return extents;
    }
  }

  /** Refuses what comes, and resolves when what is under way has ended. The group closes the rest. */
  close(): Promise<void> {
    this.#closing ??= this.#inFlight.idle();
    return this.#closing;
  }

  /** Marks the regions of a range, and then does `work`. */
  async #marked(offsetBytes: number, lengthBytes: number, work: () => Promise<void>): Promise<void> {
    const first = Math.floor(offsetBytes / this.regionBytes);
    const end = Math.floor((offsetBytes + lengthBytes - 1) / this.regionBytes) + 1;
    if (!this.#volume.map.tryMark(first, end)) await this.#volume.map.mark(first, end);
    // The volume may have failed while the mark was waited for.
    if (this.#refusal !== undefined) throw this.#refusal;
    await work();
  }

  /** It takes no more writes and flushes (rule L6). */
  fail(reason: string): void {
    if (this.#refusal !== undefined) return;
    const message = `volume ${this.name} takes no more writes: ${reason}`;
    this.#refusal = new EngineError('unavailable', message, { errno: 'EIO' });
    for (const listener of this.#failureListeners.splice(0)) listener(message);
  }

  #checkRange(offsetBytes: number, lengthBytes: number): void {
    assert(
      offsetBytes >= 0 && lengthBytes >= 0 && offsetBytes + lengthBytes <= this.sizeBytes,
      'the range lies inside the volume',
    );
    if (this.#closing === undefined) return;
    throw new EngineError('unavailable', `volume ${this.name} is closing`, { errno: 'ESHUTDOWN' });
  }

  #checkWritable(offsetBytes: number, lengthBytes: number): void {
    this.#checkRange(offsetBytes, lengthBytes);
    if (this.readOnly && lengthBytes > 0) {
      const what = `volume ${this.name} takes writes from its primary only`;
      throw new EngineError('unavailable', what, { errno: 'EROFS' });
    }
    if (this.#refusal !== undefined) throw this.#refusal;
    if (this.#path.failure !== undefined) throw this.#path.failure;
  }
}
