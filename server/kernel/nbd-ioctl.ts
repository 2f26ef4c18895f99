/**
 * The ioctls of the kernel's nbd driver (`include/uapi/linux/nbd.h`) and the few of the block layer that go with them.
 * Each blocks the calling thread, and some send on sockets that our own server has to read: call them in helper
 * processes only, never in the server.
 */
import { constants } from 'node:os';
import ioctl from 'ioctl-napi';
import koffi from 'koffi';

// _IO(0xab, n)
const NBD_SET_SOCK = 0xab00;
const NBD_SET_BLKSIZE = 0xab01;
const NBD_DO_IT = 0xab03;
const NBD_CLEAR_SOCK = 0xab04;
const NBD_SET_SIZE_BLOCKS = 0xab07;
const NBD_DISCONNECT = 0xab08;
const NBD_SET_TIMEOUT = 0xab09;
const NBD_SET_FLAGS = 0xab0a;
// _IO(0x12, 93), from include/uapi/linux/fs.h: a pointer to an int
const BLKROSET = 0x125d;
// _IO(0x12, 97), from the same
const BLKFLSBUF = 0x1261;

const INT32_MAX = 0x7fffffff;

/** An ioctl that failed, with its errno by name (`EBUSY`). */
export class IoctlError extends Error {
  readonly operation: string;
  readonly code: string;

  constructor(operation: string, code: string) {
    super(`${operation}: ${code}`);
    this.name = 'IoctlError';
    this.operation = operation;
    this.code = code;
  }
}

/** The name of an errno number (16 → `EBUSY`); the number itself where this platform has no name for it. */
export function errnoName(errno: number): string {
  for (const [name, value] of Object.entries(constants.errno)) if (value === errno) return name;
  return `errno ${errno}`;
}

function call(operation: string, fd: number, request: number, argument: number | Buffer): number {
  try {
    return ioctl(fd, request, argument);
  } catch (error) {
    const code = (error as { code?: unknown }).code;
    throw new IoctlError(operation, typeof code === 'string' ? errnoName(Number(code)) : String(error));
  }
}

/** Gives the driver a connected socket. Refused with EBUSY while another task sets the device up, or serves it. */
export function setSocket(deviceFd: number, socketFd: number): void {
  call('NBD_SET_SOCK', deviceFd, NBD_SET_SOCK, socketFd);
}

/** Logical block size in bytes: 512, 1024, 2048 or 4096. */
export function setBlockSize(deviceFd: number, blockBytes: number): void {
  call('NBD_SET_BLKSIZE', deviceFd, NBD_SET_BLKSIZE, blockBytes);
}

/** Size in blocks. The binding passes 32 bits; a device of more than 2^31 blocks (8 TiB at 4096) takes another way. */
export function setSizeBlocks(deviceFd: number, blocks: number): void {
  if (blocks <= INT32_MAX) {
    call('NBD_SET_SIZE_BLOCKS', deviceFd, NBD_SET_SIZE_BLOCKS, blocks);
    return;
  }
  const wideIoctl = koffi.load(null).func('int ioctl(int fd, unsigned long request, unsigned long argument)');
  if (Number(wideIoctl(deviceFd, NBD_SET_SIZE_BLOCKS, blocks)) < 0) {
    throw new IoctlError('NBD_SET_SIZE_BLOCKS', errnoName(koffi.errno()));
  }
}

/** Transmission flags as the specification numbers them; the driver ignores those it does not know. */
export function setFlags(deviceFd: number, transmissionFlags: number): void {
  call('NBD_SET_FLAGS', deviceFd, NBD_SET_FLAGS, transmissionFlags);
}

/** Seconds until the driver gives a request up. */
export function setTimeoutSeconds(deviceFd: number, seconds: number): void {
  call('NBD_SET_TIMEOUT', deviceFd, NBD_SET_TIMEOUT, seconds);
}

/** Write protection in the block layer. It outlives a connection, so it is set both ways at each attach. */
export function setReadOnly(deviceFd: number, readOnly: boolean): void {
  const argument = Buffer.alloc(4);
  argument.writeInt32LE(readOnly ? 1 : 0);
  call('BLKROSET', deviceFd, BLKROSET, argument);
}

/** Writes the dirty pages of the device, and drops the clean ones, of all its openers. */
export function dropCaches(deviceFd: number): void {
  call('BLKFLSBUF', deviceFd, BLKFLSBUF, 0);
}

/** Serves the device on this thread until it is disconnected. Throws when it ended otherwise (ETIMEDOUT, EINTR, …). */
export function doIt(deviceFd: number): void {
  call('NBD_DO_IT', deviceFd, NBD_DO_IT, 0);
}

/** Asks the driver to send NBD_CMD_DISC on each connection and to end `doIt` wherever it runs. */
export function disconnect(deviceFd: number): void {
  call('NBD_DISCONNECT', deviceFd, NBD_DISCONNECT, 0);
}

/** Drops the sockets and fails what is still queued. */
export function clearSockets(deviceFd: number): void {
  call('NBD_CLEAR_SOCK', deviceFd, NBD_CLEAR_SOCK, 0);
}
