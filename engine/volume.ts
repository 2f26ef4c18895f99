import type { Disk, DiskExtent } from './disk/disk.ts';
import { assert, EngineError } from './errors.ts';
import type { MapFile } from './map/map-file.ts';
import type { RegionMapView } from './map/region-map.ts';
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
 * A block device that applications use. Every write of data marks its regions before it reaches the disk (`written`: since creation).
 *
 * Direct mode (rule L4): requests go straight to the disk. Once a group logs, `tryWrite` and `write` append to its log instead, and
 * reads look into what is pending; callers see no difference.
 *
 * The `try` calls are the hot path: no promise, no allocation. They return false, having done nothing that matters, when something has
 * to be waited for; the caller then takes the promise of the same name. Ranges lie inside the volume; anything else is a
 * bug of the caller. Requests that overlap in time and place land in any order, as on any disk; others never disturb each other.
 *
 * Errors are `EngineError`s: `disk` with an errno for this request alone; `unavailable` with errno `EIO` for every write and flush
 * after the volume failed (see `failure`), with `ESHUTDOWN` for everything once it closes. The `try` calls throw them.
 */
export class Volume {
  readonly name: string;
  readonly id: string;
  readonly sizeBytes: number;
  readonly regionBytes: number;
  /** True on a secondary, whose volumes take writes from their primary only. */
  readonly readOnly: boolean;
  readonly #disk: Disk;
  readonly #map: MapFile;
  /** What writes and flushes are refused with. */
  #refusal: EngineError | undefined;
  #closing: Promise<void> | undefined;
  #inFlight = 0;
  #onIdle: (() => void) | undefined;
  readonly #failureListeners: ((reason: string) => void)[] = [];

  /** The volume owns both, and closes them. */
  constructor(identity: VolumeIdentity, disk: Disk, map: MapFile, readOnly: boolean) {
    assert(disk.sizeBytes >= identity.sizeBytes, 'the disk holds the volume');
    this.name = identity.name;
    this.id = identity.id;
    this.sizeBytes = identity.sizeBytes;
    this.regionBytes = identity.regionBytes;
    this.readOnly = readOnly;
    this.#disk = disk;
    this.#map = map;
    map.onFailure = (reason) => this.#fail(`its region map cannot be kept: ${reason}`);
  }

  /** The regions written since the volume was created: at least those. A region that is not in it reads as zeroes. */
  get written(): RegionMapView {
    return this.#map.written;
  }

  /** Why the volume takes no more writes and flushes (rule L6), or undefined. Reads go on. It ends with the process only. */
  get failure(): string | undefined {
    return this.#refusal?.message;
  }

  /** Runs `listener` once, when the volume fails. */
  onFailure(listener: (reason: string) => void): void {
    this.#failureListeners.push(listener);
  }

  tryRead(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): boolean {
    this.#checkRange(offsetBytes, lengthBytes);
    return this.#disk.tryRead(target, targetStart, lengthBytes, offsetBytes);
  }

  async read(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): Promise<void> {
    this.#checkRange(offsetBytes, lengthBytes);
    await this.#track(this.#disk.read(target, targetStart, lengthBytes, offsetBytes));
  }

  tryWrite(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): boolean {
    this.#checkWritable(offsetBytes, lengthBytes);
    if (lengthBytes === 0) return true;
    const first = Math.floor(offsetBytes / this.regionBytes);
    const end = Math.floor((offsetBytes + lengthBytes - 1) / this.regionBytes) + 1;
    // A mark whose write then has to wait, or fails, is one too many at worst.
    return (
      this.#map.tryMark(first, end) && this.#disk.tryWrite(source, sourceStart, lengthBytes, offsetBytes)
    );
  }

  async write(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): Promise<void> {
    this.#checkWritable(offsetBytes, lengthBytes);
    if (lengthBytes === 0) return;
    const put = () => this.#disk.write(source, sourceStart, lengthBytes, offsetBytes);
    await this.#track(this.#marked(offsetBytes, lengthBytes, put));
  }

  /** Makes durable whatever was acknowledged before the call, on any connection. */
  async flush(): Promise<void> {
    this.#checkWritable(0, 0);
    await this.#track(this.#sync());
  }

  async #sync(): Promise<void> {
    try {
      await this.#disk.sync();
    } catch (error) {
      this.#fail(error instanceof Error ? error.message : String(error));
      throw this.#refusal ?? error;
    }
  }

  /**
   * The range reads as zeroes afterwards, and its space is given back where the disk can (rule L11). Zeroes mark no region: one that is not
   * marked is as blank as it was created, and stays so. Formatting a new volume, which trims all of it, leaves its map empty.
   */
  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.#checkWritable(offsetBytes, lengthBytes);
    if (lengthBytes === 0) return;
    await this.#track(
      this.#inPieces(offsetBytes, lengthBytes, (start, piece) => this.#disk.punch(start, piece)),
    );
  }

  /**
   * The range reads as zeroes afterwards. With `mayPunch` its space may be given back, else it stays allocated. With `fast` it rejects with
   * errno `ENOTSUP`, having changed nothing, where it would come to writing zeroes. It marks no more than a trim does.
   */
  async writeZeroes(
    offsetBytes: number,
    lengthBytes: number,
    options: { readonly mayPunch: boolean; readonly fast: boolean },
  ): Promise<void> {
    this.#checkWritable(offsetBytes, lengthBytes);
    if (lengthBytes === 0) return;
    const { mayPunch, fast } = options;
    const disk = this.#disk;
    const zero = (start: number, piece: number): Promise<void> => {
      if (!mayPunch) return disk.zero(start, piece, fast);
      return fast ? disk.punchFast(start, piece) : disk.punch(start, piece);
    };
    await this.#track(this.#inPieces(offsetBytes, lengthBytes, zero));
  }

  /**
   * Zeroing has no bound in size, and where it comes to writing it takes its time. So it is done in pieces, and ends early when the volume
   * closes or fails. Only the first piece may reject with `ENOTSUP`: a disk either can or cannot.
   */
  async #inPieces(
    offsetBytes: number,
    lengthBytes: number,
    zero: (startBytes: number, pieceBytes: number) => Promise<void>,
  ): Promise<void> {
    const end = offsetBytes + lengthBytes;
    for (let at = offsetBytes; at < end; ) {
      if (at > offsetBytes) this.#checkWritable(at, 0);
      // Cut at multiples of the size of a piece, so that no block of the disk is cut.
      const stop = Math.min(end, (Math.floor(at / ZERO_PIECE_BYTES) + 1) * ZERO_PIECE_BYTES);
      await zero(at, stop - at);
      at = stop;
    }
  }

  /** Asks for the range to be in the cache soon. Advisory. */
  async prefetch(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.#checkRange(offsetBytes, lengthBytes);
    await this.#track(this.#disk.prefetch(offsetBytes, lengthBytes));
  }

  /** Extents from the start of the range, as `Disk.extents`: they may end before the range does. */
  async allocation(offsetBytes: number, lengthBytes: number, maxExtents: number): Promise<DiskExtent[]> {
    this.#checkRange(offsetBytes, lengthBytes);
    return await this.#track(this.#disk.extents(offsetBytes, lengthBytes, maxExtents));
  }

  /**
   * Refuses what comes, waits for what is under way, makes data and map durable, and closes both. Rejects when the data could not be made
   * durable; everything is closed even so.
   */
  close(): Promise<void> {
    this.#closing ??= this.#closeAll();
    return this.#closing;
  }

  async #closeAll(): Promise<void> {
    if (this.#inFlight > 0)
      await new Promise<void>((resolve) => {
        this.#onIdle = resolve;
      });
    const failed = this.#refusal !== undefined;
    const results = await Promise.allSettled([failed ? undefined : this.#sync(), this.#map.close()]);
    await this.#disk.close();
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  /** Marks the regions of a range, and then does `work`. */
  async #marked(offsetBytes: number, lengthBytes: number, work: () => Promise<void>): Promise<void> {
    const first = Math.floor(offsetBytes / this.regionBytes);
    const end = Math.floor((offsetBytes + lengthBytes - 1) / this.regionBytes) + 1;
    if (!this.#map.tryMark(first, end)) await this.#map.mark(first, end);
    // The volume may have failed while the mark was waited for.
    if (this.#refusal !== undefined) throw this.#refusal;
    await work();
  }

  #fail(reason: string): void {
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
    if (this.#refusal !== undefined) throw this.#refusal;
  }

  async #track<T>(work: Promise<T>): Promise<T> {
    this.#inFlight++;
    try {
      return await work;
    } finally {
      this.#inFlight--;
      if (this.#inFlight === 0) this.#onIdle?.();
    }
  }
}
