/**
 * A disk over a regular file or a block device, through the page cache.
 *
 * What can be answered from the page cache is done on the calling thread, which costs a tenth of a trip through libuv's
 * thread pool; what would wait goes to the pool. How it is known:
 *
 * - a read is tried with RWF_NOWAIT;
 * - a write only waits where it covers part of a page that is not cached, because that page has to be read first. Its edges are
 *   probed with RWF_NOWAIT reads. The slow path *reads* the edges on the pool and then tries again, because a write that
 *   reads holds the inode's lock meanwhile, and would stall every other writer;
 * - while zeroing holds the inode's lock, no write is tried at all (`zeroing.ts`).
 *
 * What it lies over is opened in `opened-file.ts`.
 */
import * as fs from 'node:fs';
import { promisify } from 'node:util';
import { assert, EngineError } from '../errors.ts';
import { InFlight } from '../in-flight.ts';
import { MIB } from '../units.ts';
import type { Disk, DiskExtent } from './disk.ts';
import { diskError } from './disk-error.ts';
import { GroupCommit } from './group-commit.ts';
import { dataBeyond, fileExtents } from './ioctl.ts';
import { noWaitFailure, preadNoWait, prefetchRange } from './native.ts';
import { createSparse, type OpenedFile, openExisting, PAGE_BYTES } from './opened-file.ts';
import { WritePace } from './write-pace.ts';
import { notFast, PUNCH, ZERO, Zeroing } from './zeroing.ts';

/** More than that is left to the pool: copying a MiB takes a tenth of a millisecond, and nobody else is served meanwhile. */
const MAX_INLINE_BYTES = 1 * MIB;

/** Where the probes of `tryWrite` put the byte that nobody looks at. */
const probeTarget = Buffer.alloc(1);

const closeFile = promisify(fs.close);
const syncData = promisify(fs.fdatasync);
const statFile = promisify(fs.fstat);

export class FileDisk implements Disk {
  readonly path: string;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly device: boolean;
  readonly #fd: number;
  readonly #filesystemType: number;
  readonly #readOnly: boolean;
  readonly #commit: GroupCommit;
  readonly #pace = new WritePace();
  /** Given up for good at the first EOPNOTSUPP. */
  #noWait = true;
  readonly #zeroing: Zeroing;
  readonly #inFlight = new InFlight();
  #closing: Promise<void> | undefined;

  private constructor(file: OpenedFile) {
    const { path, fd } = file;
    this.path = path;
    this.#fd = fd;
    this.sizeBytes = file.sizeBytes;
    this.blockBytes = file.blockBytes;
    this.device = file.device;
    this.#filesystemType = file.filesystemType;
    this.#readOnly = file.readOnly;
    this.#zeroing = new Zeroing(file, {
      isClosing: () => this.#closing !== undefined,
      readEdges: (offsetBytes, lengthBytes) => this.#readEdges(offsetBytes, lengthBytes),
      writeOnPool: (source, sourceStart, lengthBytes, offsetBytes) =>
        this.#writeOnPool(source, sourceStart, lengthBytes, offsetBytes),
    });
    this.#commit = new GroupCommit(path, async () => {
      await syncData(fd);
      this.#pace.synced();
    });
  }

  /** Opens what is there, and locks it. Throws `not-found`, `in-use`, `invalid` for what is neither file nor device. */
  static async open(path: string): Promise<FileDisk> {
    return new FileDisk(await openExisting(path, false));
  }

  /** Opens what is there for reading only, and locks nothing. Throws as `open` does, but never `in-use`. */
  static async openImage(path: string): Promise<FileDisk> {
    return new FileDisk(await openExisting(path, true));
  }

  /** Creates a sparse file, and locks it. Throws `exists`; on any error no file is left. The folder is not synced. */
  static async create(path: string, sizeBytes: number): Promise<FileDisk> {
    return new FileDisk(await createSparse(path, sizeBytes));
  }

  get failure(): EngineError | undefined {
    return this.#commit.failure;
  }

  get mayWriteInline(): boolean {
    return !this.#zeroing.isBusy && this.#pace.mayWriteInline;
  }

  tryRead(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): boolean {
    this.#check(offsetBytes, lengthBytes);
    assert(targetStart >= 0 && targetStart + lengthBytes <= target.length, 'the target holds the range');
    if (!this.#noWait || lengthBytes > MAX_INLINE_BYTES) return false;
    if (lengthBytes === 0) return true;
    const got = preadNoWait(this.#fd, target, targetStart, lengthBytes, offsetBytes);
    if (got === lengthBytes) return true;
    // A short answer ends where the cache does. Errors are left to the pool's read, which meets and reports them.
    if (got === -1 && noWaitFailure() === 'unsupported') this.#noWait = false;
    return false;
  }

  async read(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): Promise<void> {
    this.#check(offsetBytes, lengthBytes);
    await this.#inFlight.track(this.#readAll(target, targetStart, lengthBytes, offsetBytes));
  }

  async #readAll(
    target: Buffer,
    targetStart: number,
    lengthBytes: number,
    offsetBytes: number,
  ): Promise<void> {
    let done = 0;
    while (done < lengthBytes) {
      const got = await new Promise<number>((resolve, reject) => {
        fs.read(
          this.#fd,
          target,
          targetStart + done,
          lengthBytes - done,
          offsetBytes + done,
          (error, count) => {
            if (error === null) resolve(count);
            else reject(diskError(this.path, 'a read', error));
          },
        );
      });
      if (got === 0) {
        const at = offsetBytes + done;
        throw new EngineError(
          'disk',
          `${this.path} ends at ${at}, before its size of ${this.sizeBytes} bytes`,
          { errno: 'EIO' },
        );
      }
      done += got;
    }
  }

  tryWrite(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): boolean {
    this.#checkWritable(offsetBytes, lengthBytes);
    return this.#tryWrite(source, sourceStart, lengthBytes, offsetBytes);
  }

  #tryWrite(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): boolean {
    if (lengthBytes > MAX_INLINE_BYTES || !this.mayWriteInline) return false;
    const endBytes = offsetBytes + lengthBytes;
    if (offsetBytes % PAGE_BYTES !== 0 && !this.#cached(offsetBytes - 1)) return false;
    if (endBytes % PAGE_BYTES !== 0 && endBytes < this.sizeBytes && !this.#cached(endBytes)) return false;
    this.#pace.wroteInline(this.#writeInline(source, sourceStart, lengthBytes, offsetBytes));
    return true;
  }

  writeNow(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): void {
    this.#checkWritable(offsetBytes, lengthBytes);
    this.#pace.wroteNow(this.#writeInline(source, sourceStart, lengthBytes, offsetBytes));
  }

  /** Writes on the calling thread. Returns how long that took, in milliseconds. */
  #writeInline(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): number {
    const startMs = performance.now();
    let done = 0;
    while (done < lengthBytes) {
      const put = this.#writeSome(source, sourceStart + done, lengthBytes - done, offsetBytes + done);
      if (put === 0) throw this.#stuck(offsetBytes + done);
      done += put;
    }
    return performance.now() - startMs;
  }

  #writeSome(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): number {
    try {
      return fs.writeSync(this.#fd, source, sourceStart, lengthBytes, offsetBytes);
    } catch (error) {
      throw diskError(this.path, 'a write', error);
    }
  }

  /** Whether the byte can be had without waiting. It lies beside a write, in the page that the write would have to read. */
  #cached(offsetBytes: number): boolean {
    if (!this.#noWait) return false;
    const got = preadNoWait(this.#fd, probeTarget, 0, 1, offsetBytes);
    if (got === -1 && noWaitFailure() === 'unsupported') this.#noWait = false;
    return got === 1;
  }

  async write(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): Promise<void> {
    this.#checkWritable(offsetBytes, lengthBytes);
    await this.#inFlight.track(this.#writeAll(source, sourceStart, lengthBytes, offsetBytes));
  }

  async #writeAll(
    source: Buffer,
    sourceStart: number,
    lengthBytes: number,
    offsetBytes: number,
  ): Promise<void> {
    await this.#readEdges(offsetBytes, lengthBytes);
    if (this.#tryWrite(source, sourceStart, lengthBytes, offsetBytes)) return;
    await this.#writeOnPool(source, sourceStart, lengthBytes, offsetBytes);
  }

  /** Reads the pages that a write covers in part. */
  async #readEdges(offsetBytes: number, lengthBytes: number): Promise<void> {
    const endBytes = offsetBytes + lengthBytes;
    const edge = Buffer.alloc(1);
    if (offsetBytes % PAGE_BYTES !== 0) await this.#readAll(edge, 0, 1, offsetBytes - 1);
    if (endBytes % PAGE_BYTES !== 0 && endBytes < this.sizeBytes) await this.#readAll(edge, 0, 1, endBytes);
  }

  async #writeOnPool(
    source: Buffer,
    sourceStart: number,
    lengthBytes: number,
    offsetBytes: number,
  ): Promise<void> {
    const startMs = performance.now();
    let done = 0;
    while (done < lengthBytes) {
      const put = await new Promise<number>((resolve, reject) => {
        fs.write(
          this.#fd,
          source,
          sourceStart + done,
          lengthBytes - done,
          offsetBytes + done,
          (error, count) => {
            if (error === null) resolve(count);
            else reject(diskError(this.path, 'a write', error));
          },
        );
      });
      if (put === 0) throw this.#stuck(offsetBytes + done);
      done += put;
    }
    this.#pace.wroteOnPool(performance.now() - startMs);
  }

  #stuck(offsetBytes: number): EngineError {
    return new EngineError('disk', `${this.path}: nothing could be written at ${offsetBytes}`, {
      errno: 'EIO',
    });
  }

  sync(): Promise<void> {
    this.#check(0, 0);
    return this.#inFlight.track(this.#commit.commit());
  }

  forgive(): void {
    this.#commit.forgive();
  }

  punch(offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.#makeZero(PUNCH, offsetBytes, lengthBytes, false);
  }

  punchFast(offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.#makeZero(PUNCH, offsetBytes, lengthBytes, true);
  }

  zero(offsetBytes: number, lengthBytes: number, fast: boolean): Promise<void> {
    // On a device this falls back to writing zeroes in the kernel, which is not fast and cannot be told beforehand.
    if (fast && this.device) return Promise.reject(notFast(this.path));
    return this.#makeZero(ZERO, offsetBytes, lengthBytes, fast);
  }

  async #makeZero(mode: number, offsetBytes: number, lengthBytes: number, fast: boolean): Promise<void> {
    this.#checkWritable(offsetBytes, lengthBytes);
    await this.#inFlight.track(this.#zeroing.run(mode, offsetBytes, lengthBytes, fast));
  }

  async prefetch(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.#check(offsetBytes, lengthBytes);
    if (lengthBytes > 0) await this.#inFlight.track(prefetchRange(this.#fd, offsetBytes, lengthBytes));
  }

  async extents(offsetBytes: number, lengthBytes: number, maxExtents: number): Promise<DiskExtent[]> {
    this.#check(offsetBytes, lengthBytes);
    assert(maxExtents >= 1, 'at least one extent is asked for');
    if (lengthBytes === 0) return [];
    const data = [{ lengthBytes, hole: false, zero: false }];
    if (this.device) return data;
    return (await this.#inFlight.track(this.#fileExtents(offsetBytes, lengthBytes, maxExtents))) ?? data;
  }

  async #fileExtents(
    offsetBytes: number,
    lengthBytes: number,
    maxExtents: number,
  ): Promise<DiskExtent[] | undefined> {
    const found = await fileExtents(this.#fd, this.#filesystemType, offsetBytes, lengthBytes, maxExtents);
    if (found?.some((extent) => extent.hole) !== true) return found;
    // Asked for afterwards, so that no hole of a file that is cut short meanwhile counts as zeroes.
    const { size } = await statFile(this.#fd);
    return dataBeyond(found, offsetBytes, size, maxExtents);
  }

  close(): Promise<void> {
    this.#closing ??= this.#closeWhenIdle();
    return this.#closing;
  }

  async #closeWhenIdle(): Promise<void> {
    await this.#inFlight.idle();
    await closeFile(this.#fd);
  }

  #check(offsetBytes: number, lengthBytes: number): void {
    assert(this.#closing === undefined, 'the disk is open');
    assert(
      offsetBytes >= 0 && lengthBytes >= 0 && offsetBytes + lengthBytes <= this.sizeBytes,
      'the range lies inside the disk',
    );
  }

  #checkWritable(offsetBytes: number, lengthBytes: number): void {
    this.#check(offsetBytes, lengthBytes);
    assert(!this.#readOnly, 'the disk is open for writing');
  }
}
