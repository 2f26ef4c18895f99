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
 * - while zeroing holds the inode's lock, no write is tried at all.
 */
import * as fs from 'node:fs';
import { promisify } from 'node:util';
import { assert, EngineError } from '../errors.ts';
import { InFlight } from '../in-flight.ts';
import { MIB } from '../units.ts';
import type { Disk, DiskExtent } from './disk.ts';
import { createError, diskError, explainErrno, inUse, openError } from './disk-error.ts';
import { GroupCommit } from './group-commit.ts';
import { blockDeviceSize, dataBeyond, fileExtents } from './ioctl.ts';
import {
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  FALLOC_FL_ZERO_RANGE,
  fallocate,
  noWaitFailure,
  preadNoWait,
  prefetchRange,
  tryLockExclusive,
} from './native.ts';
import { turnstile } from './turnstile.ts';
import { WritePace } from './write-pace.ts';

const PAGE_BYTES = 4096;

/** More than that is left to the pool: copying a MiB takes a tenth of a millisecond, and nobody else is served meanwhile. */
const MAX_INLINE_BYTES = 1 * MIB;

/** `fallocate` is cut into pieces of that size, in bytes, so that it never holds the inode's lock for long. */
const ALLOCATE_PIECE_BYTES = 64 * MIB;

/** Zeroes for disks that cannot zero or punch. Never written to. */
const zeroes = Buffer.alloc(1 * MIB);

/** Where the probes of `tryWrite` put the byte that nobody looks at. */
const probeTarget = Buffer.alloc(1);

const openFile = promisify(fs.open);
const closeFile = promisify(fs.close);
const syncData = promisify(fs.fdatasync);
const statFile = promisify(fs.fstat);
const truncateFile = promisify(fs.ftruncate);

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
  /** Both fall back for good at the first EOPNOTSUPP. */
  #noWait = true;
  #unsupportedModes = 0;
  /** Pieces of zeroing go one after the other: they would wait for the inode's lock, each with a thread of the pool that others need. */
  readonly #inTurn = turnstile(1);
  /** Pieces of zeroing under way. */
  #longCalls = 0;
  readonly #inFlight = new InFlight();
  #closing: Promise<void> | undefined;

  private constructor(
    path: string,
    fd: number,
    geometry: { sizeBytes: number; blockBytes: number; device: boolean; filesystemType: number },
    readOnly: boolean,
  ) {
    this.path = path;
    this.#fd = fd;
    this.sizeBytes = geometry.sizeBytes;
    this.blockBytes = geometry.blockBytes;
    this.device = geometry.device;
    this.#filesystemType = geometry.filesystemType;
    this.#readOnly = readOnly;
    this.#commit = new GroupCommit(path, async () => {
      await syncData(fd);
      this.#pace.synced();
    });
  }

  /** Opens what is there, and locks it. Throws `not-found`, `in-use`, `invalid` for what is neither file nor device. */
  static open(path: string): Promise<FileDisk> {
    return FileDisk.#open(path, false);
  }

  /** Opens what is there for reading only, and locks nothing. Throws as `open` does, but never `in-use`. */
  static openImage(path: string): Promise<FileDisk> {
    return FileDisk.#open(path, true);
  }

  static async #open(path: string, readOnly: boolean): Promise<FileDisk> {
    let fd: number | undefined;
    try {
      const found = await fs.promises.stat(path);
      if (!found.isFile() && !found.isBlockDevice())
        throw new EngineError(
          'invalid',
          `${path} is neither a regular file nor a block device: name one of these`,
        );
      // On a block device O_EXCL means: nobody else has it so, neither a mount nor another server.
      const { O_RDONLY, O_RDWR, O_EXCL } = fs.constants;
      const writing = found.isBlockDevice() ? O_RDWR | O_EXCL : O_RDWR;
      fd = await openFile(path, readOnly ? O_RDONLY : writing);
      return await FileDisk.#from(path, fd, readOnly);
    } catch (error) {
      if (fd !== undefined) await closeFile(fd);
      throw await openError(path, error);
    }
  }

  /** Creates a sparse file, and locks it. Throws `exists`; on any error no file is left. The folder is not synced. */
  static async create(path: string, sizeBytes: number): Promise<FileDisk> {
    let fd: number | undefined;
    try {
      fd = await openFile(path, 'wx+', 0o600);
      await truncateFile(fd, sizeBytes);
      await syncData(fd);
      return await FileDisk.#from(path, fd, false);
    } catch (error) {
      if (fd !== undefined) {
        await closeFile(fd);
        await fs.promises.unlink(path);
      }
      throw await createError(path, sizeBytes, error);
    }
  }

  static async #from(path: string, fd: number, readOnly: boolean): Promise<FileDisk> {
    const stat = await statFile(fd);
    if (!readOnly && !tryLockExclusive(fd)) throw inUse(path);
    if (stat.isBlockDevice()) {
      const { sizeBytes, logicalBlockBytes } = blockDeviceSize(fd);
      const blockBytes = Math.max(PAGE_BYTES, logicalBlockBytes);
      return new FileDisk(path, fd, { sizeBytes, blockBytes, device: true, filesystemType: 0 }, readOnly);
    }
    const filesystemType = (await fs.promises.statfs(path)).type;
    const geometry = { sizeBytes: stat.size, blockBytes: PAGE_BYTES, device: false, filesystemType };
    return new FileDisk(path, fd, geometry, readOnly);
  }

  get failure(): EngineError | undefined {
    return this.#commit.failure;
  }

  get mayWriteInline(): boolean {
    return this.#longCalls === 0 && this.#pace.mayWriteInline;
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
    return this.#makeZero(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offsetBytes, lengthBytes, false);
  }

  punchFast(offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.#makeZero(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offsetBytes, lengthBytes, true);
  }

  zero(offsetBytes: number, lengthBytes: number, fast: boolean): Promise<void> {
    // On a device this falls back to writing zeroes in the kernel, which is not fast and cannot be told beforehand.
    if (fast && this.device) return Promise.reject(this.#notFast());
    return this.#makeZero(FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offsetBytes, lengthBytes, fast);
  }

  #notFast(): EngineError {
    return new EngineError('disk', `${this.path} cannot zero faster than by writing zeroes`, {
      errno: 'ENOTSUP',
    });
  }

  async #makeZero(mode: number, offsetBytes: number, lengthBytes: number, fast: boolean): Promise<void> {
    this.#checkWritable(offsetBytes, lengthBytes);
    await this.#inFlight.track(this.#zeroAll(mode, offsetBytes, lengthBytes, fast));
  }

  /** Devices take whole blocks only, so their edges are written. */
  async #zeroAll(mode: number, offsetBytes: number, lengthBytes: number, fast: boolean): Promise<void> {
    const endBytes = offsetBytes + lengthBytes;
    const unit = this.device ? this.blockBytes : 1;
    const start = Math.min(Math.ceil(offsetBytes / unit) * unit, endBytes);
    const end = Math.max(Math.floor(endBytes / unit) * unit, start);
    let at = start;
    while (at < end && !this.#lacks(mode)) {
      const pieceBytes = Math.min(ALLOCATE_PIECE_BYTES, end - at);
      const from = at;
      const errno = await this.#longCall(() => fallocate(this.#fd, mode, from, pieceBytes));
      if (errno === 'EOPNOTSUPP' || errno === 'ENOSYS') this.#unsupportedModes |= mode;
      else if (errno !== undefined)
        throw new EngineError('disk', `${this.path}: zeroing failed: ${explainErrno(errno)}`, { errno });
      else at += pieceBytes;
    }
    if (fast && at < end) throw this.#notFast();
    await this.#writeZeroes(offsetBytes, start);
    await this.#writeZeroes(at, endBytes);
  }

  #lacks(mode: number): boolean {
    return (this.#unsupportedModes & mode & ~FALLOC_FL_KEEP_SIZE) !== 0;
  }

  /** On the thread pool, whatever the length: inline, piece after piece would keep everybody else from their turn. */
  async #writeZeroes(startBytes: number, endBytes: number): Promise<void> {
    if (startBytes === endBytes) return;
    await this.#readEdges(startBytes, endBytes - startBytes);
    for (let at = startBytes; at < endBytes; at += zeroes.length) {
      const pieceBytes = Math.min(zeroes.length, endBytes - at);
      await this.#longCall(() => this.#writeOnPool(zeroes, 0, pieceBytes, at));
    }
  }

  /** A piece of zeroing, in its turn; while it holds the inode's lock no write is tried inline. Stops where the disk is to be closed. */
  async #longCall<T>(call: () => Promise<T>): Promise<T> {
    return this.#inTurn(async () => {
      if (this.#closing !== undefined)
        throw new EngineError('unavailable', `${this.path} is closing`, { errno: 'ESHUTDOWN' });
      this.#longCalls++;
      try {
        return await call();
      } finally {
        this.#longCalls--;
      }
    });
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
