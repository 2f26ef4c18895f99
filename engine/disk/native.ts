/**
 * The system calls that Node has no binding for, through koffi. Two ways to call them:
 *
 * - `preadNoWait` runs on the calling thread and allocates nothing. It costs what `fs.readSync` does, and never waits for
 *   a device. koffi could take a Buffer as an argument, but an iovec holds an address, so the address of each
 *   ArrayBuffer is asked for once and kept: memory of an ArrayBuffer never moves.
 * - the others run on libuv's thread pool, because they may wait (for an inode's lock, for metadata to be read).
 */
import { constants as osConstants } from 'node:os';
import { EngineError } from '../errors.ts';
import { turnstile } from './turnstile.ts';

/** `linux/fs.h`: fail with EAGAIN instead of waiting for a device. */
const RWF_NOWAIT = 0x8;
/** `linux/falloc.h` */
export const FALLOC_FL_KEEP_SIZE = 0x01;
export const FALLOC_FL_PUNCH_HOLE = 0x02;
export const FALLOC_FL_ZERO_RANGE = 0x10;
/** `linux/fadvise.h` */
const POSIX_FADV_WILLNEED = 3;
/** `sys/file.h` */
const LOCK_EX = 2;
const LOCK_NB = 4;

/** Calls on the thread pool at once. koffi refuses more than 256; libuv has four threads unless told otherwise. */
const MAX_POOL_CALLS = 16;

async function loadKoffi(): Promise<typeof import('koffi')> {
  try {
    return await import('koffi');
  } catch (cause) {
    throw new EngineError(
      'unsupported',
      `the native part of the package "koffi" cannot be loaded for ${process.platform}-${process.arch}: ` +
        'install the dependencies on this machine, optional ones included (npm ci)',
      { cause },
    );
  }
}

const koffi = await loadKoffi();
const libc = koffi.load(null);
const memmove = libc.func('void *memmove(void *to, void *from, size_t count)');
const preadv2 = optional('int64_t preadv2(int fd, void *vectors, int count, int64_t offset, int flags)');
const fallocateCall = libc.func('int fallocate(int fd, int mode, int64_t offset, int64_t length)');
const fadviseCall = libc.func('int posix_fadvise(int fd, int64_t offset, int64_t length, int advice)');
const flockCall = libc.func('int flock(int fd, int operation)');
const ioctlCall = libc.func('int ioctl(int fd, unsigned long request, void *argument)');

/** A function that an older C library may lack. */
function optional(declaration: string): ReturnType<typeof libc.func> | undefined {
  try {
    return libc.func(declaration);
  } catch {
    return undefined;
  }
}

const errnoNames = new Map(Object.entries(osConstants.errno).map(([name, value]) => [value, name]));
/** Linux gives both names to one number; this is the one that its manual pages use. */
errnoNames.set(osConstants.errno.EOPNOTSUPP, 'EOPNOTSUPP');
errnoNames.set(osConstants.errno.EAGAIN, 'EAGAIN');

const addresses = new WeakMap<ArrayBufferLike, number>();

/** Address of the first byte of an ArrayBuffer. User space on Linux ends at 2^56 at most, and in practice at 2^47. */
function addressOf(buffer: Buffer): number {
  const known = addresses.get(buffer.buffer);
  if (known !== undefined) return known + buffer.byteOffset;
  const address = Number(memmove(buffer, buffer, 0));
  addresses.set(buffer.buffer, address - buffer.byteOffset);
  return address;
}

/** One `struct iovec`: address and length, each a 64-bit number as two little-endian halves. */
const vectorWords = new Uint32Array(4);
const vector = Buffer.from(vectorWords.buffer);

export type NoWaitFailure = 'would-wait' | 'unsupported' | 'failed';

/**
 * Reads what is in the page cache: the number of bytes read, which may be short, or -1; then `noWaitFailure` tells why.
 */
export function preadNoWait(
  fd: number,
  target: Buffer,
  targetStart: number,
  lengthBytes: number,
  offsetBytes: number,
): number {
  if (preadv2 === undefined) return -1;
  const address = addressOf(target) + targetStart;
  vectorWords[0] = address % 0x1_0000_0000;
  vectorWords[1] = Math.floor(address / 0x1_0000_0000);
  vectorWords[2] = lengthBytes;
  return preadv2(fd, vector, 1, offsetBytes, RWF_NOWAIT) as number;
}

/** Why the last `preadNoWait` returned -1. To be asked before any other native call. */
export function noWaitFailure(): NoWaitFailure {
  if (preadv2 === undefined) return 'unsupported';
  const errno = koffi.errno();
  if (errno === osConstants.errno.EAGAIN) return 'would-wait';
  const lacking = [osConstants.errno.EOPNOTSUPP, osConstants.errno.ENOSYS, osConstants.errno.EINVAL];
  return lacking.includes(errno) ? 'unsupported' : 'failed';
}

const inTurn = turnstile(MAX_POOL_CALLS);

/** Resolves to undefined, or to the errno name. `call` starts the system call and hands it its callback. */
function onPool(call: (done: (error: unknown, result: number) => void) => void): Promise<string | undefined> {
  return inTurn(
    () =>
      new Promise((resolve, reject) => {
        call((error, result) => {
          // koffi puts the errno that the call left on its own thread in place for the length of this callback.
          if (error !== null && error !== undefined) reject(error);
          else resolve(result === -1 ? errnoName(koffi.errno()) : undefined);
        });
      }),
  );
}

function errnoName(errno: number): string {
  return errnoNames.get(errno) ?? `E${errno}`;
}

/** `fallocate(2)`. Resolves to undefined, or to the errno name. */
export function fallocate(
  fd: number,
  mode: number,
  offsetBytes: number,
  lengthBytes: number,
): Promise<string | undefined> {
  return onPool((done) => fallocateCall.async(fd, mode, offsetBytes, lengthBytes, done));
}

/** `posix_fadvise(2)` with WILLNEED. It may wait for metadata and for a place in the device's queue; hence the pool. */
export async function prefetchRange(fd: number, offsetBytes: number, lengthBytes: number): Promise<void> {
  await onPool((done) => fadviseCall.async(fd, offsetBytes, lengthBytes, POSIX_FADV_WILLNEED, done));
}

/** `ioctl(2)` with a buffer, on the thread pool. Resolves to undefined, or to the errno name. */
export function ioctlOnPool(fd: number, request: number, argument: Buffer): Promise<string | undefined> {
  return onPool((done) => ioctlCall.async(fd, request, argument, done));
}

/**
 * Takes the exclusive `flock(2)` of an open file; false when another open file description has it, in this process or
 * another. It goes with the description: when the process ends, or the descriptor is closed.
 */
export function tryLockExclusive(fd: number): boolean {
  if (flockCall(fd, LOCK_EX | LOCK_NB) === 0) return true;
  const errno = errnoName(koffi.errno());
  if (errno === 'EAGAIN') return false;
  throw new EngineError('disk', `the file cannot be locked: ${errno}`, { errno });
}
