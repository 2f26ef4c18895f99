/**
 * The helper process of a kernel device: does one job, given as JSON in its argument, and says how it went in JSON lines
 * on standard output (helper-protocol.ts). Jobs block in ioctls, which is why they are processes.
 */
import { closeSync, constants, fsync, fsyncSync, openSync, readFileSync, writeSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { promisify } from 'node:util';
import {
  NBD_FLAG_CAN_MULTI_CONN,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_ROTATIONAL,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
} from '../../protocol/constants.ts';
import { NbdClient, type NbdHandover } from '../nbd-client.ts';
import { deviceName } from './device-state.ts';
import { within } from './helper-process.ts';
import {
  type DeviceBlockBytes,
  type DisconnectJob,
  type HelperFailureKind,
  type HelperJob,
  type HelperMessage,
  type HoldJob,
  type ProbeJob,
  parseHelperJob,
  type ServeJob,
  type SyncJob,
} from './helper-protocol.ts';
import * as nbd from './nbd-ioctl.ts';
import { guardAgainstMemoryPressure, ignoreTerminationSignals } from './process-guard.ts';

/** What a kernel can make use of; it has never sent the other commands. Older ones ignore SEND_WRITE_ZEROES. */
const KERNEL_FLAGS =
  NBD_FLAG_HAS_FLAGS |
  NBD_FLAG_READ_ONLY |
  NBD_FLAG_SEND_FLUSH |
  NBD_FLAG_SEND_FUA |
  NBD_FLAG_ROTATIONAL |
  NBD_FLAG_SEND_TRIM |
  NBD_FLAG_SEND_WRITE_ZEROES |
  NBD_FLAG_CAN_MULTI_CONN;

/** Longest handshake of one connection, in milliseconds: with a busy server it queues behind others' work. */
const HANDSHAKE_MS = 30_000;
/** Longest flush of a forced disconnect, in milliseconds. Under the server's bound for the job. */
const FORCED_FLUSH_MS = 5000;
/** Rounds and pause, in milliseconds, of letting go of a device whose size another opener keeps from being reset. */
const CLEAR_ROUNDS = 50;
const CLEAR_PAUSE_MS = 20;

class HelperFailure extends Error {
  readonly kind: HelperFailureKind;

  constructor(kind: HelperFailureKind, message: string) {
    super(message);
    this.name = 'HelperFailure';
    this.kind = kind;
  }
}

/** Synchronous: the next thing this thread does may be to block for days. A server that is gone does not matter. */
function say(message: HelperMessage): void {
  try {
    writeSync(1, `${JSON.stringify(message)}\n`);
  } catch {
    // Nobody reads any more. The job goes on: a mounted device must not depend on it.
  }
}

/**
 * Opens for reading, which is all that the ioctls need: closing a device that was open for writing makes udev look at it
 * anew, and a read-only device could not be opened otherwise.
 */
function openDevice(device: string, flags = 0): number {
  try {
    return openSync(device, constants.O_RDONLY | flags);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    if (code === 'EBUSY') throw new HelperFailure('busy', `${device} is in use`);
    if (code === 'EACCES' || code === 'EPERM') {
      throw new HelperFailure('rights', `no right to open ${device}: run the node as root`);
    }
    if (code === 'ENOENT' || code === 'ENXIO' || code === 'ENODEV') {
      throw new HelperFailure('no-device', `${device} is not there (${code}): is the nbd module loaded?`);
    }
    throw new HelperFailure('failed', `cannot open ${device}: ${code}`);
  }
}

/** The kernel speaks simple replies only, so nothing beyond them is negotiated. */
async function connectAll(job: ServeJob): Promise<NbdHandover[]> {
  const connections: NbdHandover[] = [];
  for (let index = 0; index < job.connections; index += 1) {
    try {
      connections.push(await NbdClient.handshake(job.uri, { timeoutMs: HANDSHAKE_MS }));
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      throw new HelperFailure('refused', `${message}`);
    }
  }
  return connections;
}

/**
 * Opens the first device that the driver lets us set up, with our first socket in it. NBD_SET_SOCK comes before everything
 * else, other than in nbd-client, because it is the driver's own gate: it fails with EBUSY while any other task sets the
 * device up or serves it, where NBD_SET_SIZE or NBD_CLEAR_SOCK would go through and harm that task's device.
 */
function claimDevice(devices: readonly string[], socketFd: number): { device: string; deviceFd: number } {
  let busy: HelperFailure | undefined;
  for (const device of devices) {
    try {
      const deviceFd = openDevice(device);
      try {
        nbd.setSocket(deviceFd, socketFd);
        return { device, deviceFd };
      } catch (error) {
        closeSync(deviceFd);
        throw deviceFailure(device, error);
      }
    } catch (error) {
      if (!(error instanceof HelperFailure) || error.kind !== 'busy') throw error;
      busy = error;
    }
  }
  throw busy ?? new HelperFailure('no-device', 'no device to try');
}

function deviceFailure(device: string, error: unknown): HelperFailure {
  if (!(error instanceof nbd.IoctlError)) return new HelperFailure('failed', `${device}: ${String(error)}`);
  switch (error.code) {
    case 'EBUSY':
      return new HelperFailure('busy', `${device} is in use by another program`);
    case 'EPERM':
      return new HelperFailure(
        'rights',
        `no right to set up ${device} (CAP_SYS_ADMIN): run the node as root`,
      );
    case 'ENOTTY':
      return new HelperFailure('no-device', `${device} is not an nbd device`);
    default:
      return new HelperFailure('failed', `${device}: ${error.operation} failed with ${error.code}`);
  }
}

/** 4096 where the size allows it, so that no write is smaller than a page of the server's cache; else 512. */
function chooseBlockBytes(job: ServeJob, sizeBytes: number): DeviceBlockBytes {
  return job.blockBytes ?? (sizeBytes % 4096 === 0 ? 4096 : 512);
}

function deviceFlags(job: ServeJob, exportFlags: number): number {
  const flags = exportFlags & KERNEL_FLAGS;
  return job.readOnly
    ? (flags | NBD_FLAG_READ_ONLY) & ~(NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES)
    : flags;
}

async function serve(job: ServeJob): Promise<HelperMessage> {
  ignoreTerminationSignals();
  const { ioFlusher } = guardAgainstMemoryPressure();
  const connections = await connectAll(job);
  const [first, ...others] = connections;
  if (first === undefined) throw new HelperFailure('failed', 'no connection asked for');
  const { sizeBytes } = first.session.export;
  const flags = deviceFlags(job, first.session.transmissionFlags);
  if (others.length > 0 && (flags & NBD_FLAG_CAN_MULTI_CONN) === 0) {
    throw new HelperFailure('failed', 'the export does not allow several connections');
  }
  const blockBytes = chooseBlockBytes(job, sizeBytes);
  const blocks = Math.floor(sizeBytes / blockBytes);
  if (blocks === 0)
    throw new HelperFailure('failed', `the export is smaller than a block of ${blockBytes} bytes`);

  const { device, deviceFd } = claimDevice(job.devices, first.fd);
  const readOnly = (flags & NBD_FLAG_READ_ONLY) !== 0;
  try {
    for (const { fd } of others) nbd.setSocket(deviceFd, fd);
    nbd.setBlockSize(deviceFd, blockBytes);
    nbd.setSizeBlocks(deviceFd, blocks);
    nbd.setFlags(deviceFd, flags);
    nbd.setReadOnly(deviceFd, readOnly);
    if (job.timeoutSeconds > 0) nbd.setTimeoutSeconds(deviceFd, job.timeoutSeconds);
  } catch (error) {
    throw deviceFailure(device, error);
  }
  say({
    event: 'starting',
    device,
    sizeBytes: blocks * blockBytes,
    blockBytes,
    transmissionFlags: flags,
    readOnly,
    ioFlusher,
  });
  let end: HelperMessage = { event: 'done', detail: 'the connection to the node ended' };
  try {
    nbd.doIt(deviceFd);
  } catch (error) {
    const code = error instanceof nbd.IoctlError ? error.code : String(error);
    const why = code === 'ETIMEDOUT' ? `a request was not answered within ${job.timeoutSeconds} s` : code;
    end = { event: 'failed', kind: 'failed', message: `${device}: ${why}` };
  }
  letGo(device, deviceFd);
  return end;
}

/**
 * Fails what is queued and resets the size. The driver keeps the size while anyone else has the device open, so this is
 * repeated for a moment: the process that asked for the disconnect is about to close it.
 */
function letGo(device: string, deviceFd: number): void {
  const pause = new Int32Array(new SharedArrayBuffer(4));
  for (let round = 0; round < CLEAR_ROUNDS; round += 1) {
    try {
      nbd.clearSockets(deviceFd);
      if (readFileSync(`/sys/block/${deviceName(device)}/size`, 'utf8').trim() === '0') return;
    } catch {
      return;
    }
    Atomics.wait(pause, 0, 0, CLEAR_PAUSE_MS);
  }
}

function probe(job: ProbeJob): HelperMessage {
  closeSync(openDevice(job.device));
  return { event: 'done' };
}

/**
 * The claim (see `disconnectDevice`) lasts until the caches are dropped, so that nobody mounts the device while its data changes. When the
 * server dies meanwhile, standard input ends, and the claim with it.
 */
async function hold(job: HoldJob): Promise<HelperMessage> {
  const deviceFd = openDevice(job.device, constants.O_EXCL);
  flush(job.device, deviceFd);
  say({ event: 'held' });
  const told = (await text(process.stdin)).trim();
  if (told !== 'drop') return { event: 'done', detail: 'let go' };
  try {
    nbd.dropCaches(deviceFd);
  } catch (error) {
    throw deviceFailure(job.device, error);
  }
  closeSync(deviceFd);
  return { event: 'done' };
}

function sync(job: SyncJob): HelperMessage {
  const deviceFd = openDevice(job.device);
  flush(job.device, deviceFd);
  closeSync(deviceFd);
  return { event: 'done' };
}

/**
 * Opening with O_EXCL is what decides whether anyone uses the device: mounts of every namespace, swap, device mapper and
 * software RAID all claim it this way. The claim is held until the device is gone, so that nobody mounts it in between.
 */
async function disconnectDevice(job: DisconnectJob): Promise<HelperMessage> {
  const deviceFd = openDevice(job.device, job.force ? 0 : constants.O_EXCL);
  try {
    if (job.force) {
      await within(
        promisify(fsync)(deviceFd).catch(() => undefined),
        FORCED_FLUSH_MS,
      );
    } else {
      flush(job.device, deviceFd, '; --force detaches without');
    }
    nbd.disconnect(deviceFd);
    nbd.clearSockets(deviceFd);
  } catch (error) {
    throw error instanceof HelperFailure ? error : deviceFailure(job.device, error);
  }
  closeSync(deviceFd);
  return { event: 'done' };
}

function flush(device: string, deviceFd: number, advice = ''): void {
  try {
    fsyncSync(deviceFd);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    throw new HelperFailure('flush', `flushing ${device} failed with ${code}${advice}`);
  }
}

function run(job: HelperJob): HelperMessage | Promise<HelperMessage> {
  switch (job.job) {
    case 'serve':
      return serve(job);
    case 'probe':
      return probe(job);
    case 'disconnect':
      return disconnectDevice(job);
    case 'hold':
      return hold(job);
    case 'sync':
      return sync(job);
  }
}

try {
  say(await run(parseHelperJob(process.argv[2] ?? '')));
  process.exit(0);
} catch (error) {
  const kind = error instanceof HelperFailure ? error.kind : 'failed';
  say({ event: 'failed', kind, message: error instanceof Error ? error.message : String(error) });
  process.exit(1);
}
