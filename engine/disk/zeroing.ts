/**
 * Zeroing and punching ranges of a file or device: by `fallocate` where it can, in pieces that follow one another, else by writing zeroes. While a piece
 * holds the inode's lock it `isBusy`, and nobody else tries a write that would wait for that.
 */
import { EngineError } from '../errors.ts';
import { MIB } from '../units.ts';
import { explainErrno } from './disk-error.ts';
import { FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE, fallocate } from './native.ts';
import type { OpenedFile } from './opened-file.ts';
import { turnstile } from './turnstile.ts';

/** `fallocate` is cut into pieces of that size, in bytes, so that it never holds the inode's lock for long. */
const ALLOCATE_PIECE_BYTES = 64 * MIB;

/** Zeroes for disks that cannot zero or punch. Never written to. */
const zeroes = Buffer.alloc(1 * MIB);

/** How a range becomes zeroes. */
export const PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
export const ZERO = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

/** The disk whose ranges they are. */
export interface ZeroedDisk {
  readonly isClosing: () => boolean;
  /** Reads the pages that a write covers in part. */
  readonly readEdges: (offsetBytes: number, lengthBytes: number) => Promise<void>;
  readonly writeOnPool: (
    source: Buffer,
    sourceStart: number,
    lengthBytes: number,
    offsetBytes: number,
  ) => Promise<void>;
}

export class Zeroing {
  readonly #file: OpenedFile;
  readonly #disk: ZeroedDisk;
  /** Modes are given up for good at their first EOPNOTSUPP. */
  #unsupportedModes = 0;
  /** Pieces go one after the other: they would wait for the inode's lock, each with a thread of the pool that others need. */
  readonly #inTurn = turnstile(1);
  /** Pieces under way. */
  #pieces = 0;

  constructor(file: OpenedFile, disk: ZeroedDisk) {
    this.#file = file;
    this.#disk = disk;
  }

  /** Whether the inode's lock may be taken at the moment. */
  get isBusy(): boolean {
    return this.#pieces > 0;
  }

  /** With `fast`, rejects with errno `ENOTSUP` where zeroes would have to be written. Devices take whole blocks only, so their edges are written. */
  async run(mode: number, offsetBytes: number, lengthBytes: number, fast: boolean): Promise<void> {
    const { path, fd, device, blockBytes } = this.#file;
    const endBytes = offsetBytes + lengthBytes;
    const unit = device ? blockBytes : 1;
    const start = Math.min(Math.ceil(offsetBytes / unit) * unit, endBytes);
    const end = Math.max(Math.floor(endBytes / unit) * unit, start);
    let at = start;
    while (at < end && !this.#lacks(mode)) {
      const pieceBytes = Math.min(ALLOCATE_PIECE_BYTES, end - at);
      const from = at;
      const errno = await this.#piece(() => fallocate(fd, mode, from, pieceBytes));
      if (errno === 'EOPNOTSUPP' || errno === 'ENOSYS') this.#unsupportedModes |= mode;
      else if (errno !== undefined)
        throw new EngineError('disk', `${path}: zeroing failed: ${explainErrno(errno)}`, { errno });
      else at += pieceBytes;
    }
    if (fast && at < end) throw notFast(path);
    await this.#writeZeroes(offsetBytes, start);
    await this.#writeZeroes(at, endBytes);
  }

  #lacks(mode: number): boolean {
    return (this.#unsupportedModes & mode & ~FALLOC_FL_KEEP_SIZE) !== 0;
  }

  /** On the thread pool, whatever the length: inline, piece after piece would keep everybody else from their turn. */
  async #writeZeroes(startBytes: number, endBytes: number): Promise<void> {
    if (startBytes === endBytes) return;
    await this.#disk.readEdges(startBytes, endBytes - startBytes);
    for (let at = startBytes; at < endBytes; at += zeroes.length) {
      const pieceBytes = Math.min(zeroes.length, endBytes - at);
      await this.#piece(() => this.#disk.writeOnPool(zeroes, 0, pieceBytes, at));
    }
  }

  /** In its turn. Stops where the disk is to be closed. */
  async #piece<T>(call: () => Promise<T>): Promise<T> {
    return this.#inTurn(async () => {
      if (this.#disk.isClosing())
        throw new EngineError('unavailable', `${this.#file.path} is closing`, { errno: 'ESHUTDOWN' });
      this.#pieces++;
      try {
        return await call();
      } finally {
        this.#pieces--;
      }
    });
  }
}

/** What `fast` is refused with. */
export function notFast(path: string): EngineError {
  return new EngineError('disk', `${path} cannot zero faster than by writing zeroes`, { errno: 'ENOTSUP' });
}
