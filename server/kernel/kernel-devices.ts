/**
 * The kernel's nbd devices that this node serves. Each has a helper process that connects to the node as any client
 * does and then sits in NBD_DO_IT; the server itself only starts helpers, watches sysfs, and notices when one ends.
 *
 *   (free) ── attach: helper sets up, sysfs shows it ──▶ attached ── detach: flushed, disconnected ──▶ (free)
 *                                                          │
 *                          helper killed, connection ended ▼
 *                                              lost: event, off the list
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { EngineError } from '../../engine/errors.ts';
import { formatNbdUri, type NbdUri } from '../../protocol/uri.ts';
import type { EventLog } from '../events.ts';
import type { Logger } from '../logger.ts';
import { type DeviceHold, holdDevice, syncDevice } from './device-hold.ts';
import { MAX_DEVICE_CONNECTIONS } from './device-limits.ts';
import {
  deviceName,
  hasSysAdmin,
  KERNEL_PATHS,
  type KernelPaths,
  listDeviceNames,
  readDeviceState,
  usersOf,
} from './device-state.ts';
import { defaultHelperCommand, type HelperCommand, HelperProcess, within } from './helper-process.ts';
import type { DeviceBlockBytes, HelperFailureKind, HelperJob, HelperMessage } from './helper-protocol.ts';

/** Longest wait for a helper to connect, set the device up and show in sysfs, in milliseconds. */
const ATTACH_BOUND_MS = 60_000;
/** Longest wait for the kernel to read the partition table of a device that was just attached, in milliseconds. */
const PROBE_BOUND_MS = 60_000;
/** Longest wait for the flush before a detach, in milliseconds: gigabytes of dirty pages may have to be written. */
const FLUSH_BOUND_MS = 600_000;
/** The same when the detach is forced: whoever forces does not wait for a server that does not answer. */
const FORCED_FLUSH_BOUND_MS = 10_000;
/** Longest wait for the serving helper to end once it was told to, in milliseconds. */
const EXIT_BOUND_MS = 30_000;
/** Pause between two looks at sysfs, in milliseconds; it has no notification for these files. */
const POLL_MS = 20;

export const NO_MODULE_MESSAGE =
  "the kernel has no nbd devices: load the module with 'modprobe nbd max_part=8' (as root)";

export type { DeviceHold } from './device-hold.ts';

export interface AttachRequest {
  readonly exportName: string;
  /** What the helper asks the node for, where that is another name of the export. */
  readonly connectAs?: string | undefined;
  /** Where this node listens; the export part of it is not looked at. */
  readonly uri: NbdUri;
  /** `/dev/nbdN`, or undefined for the first free one. */
  readonly device?: string | undefined;
  readonly connections: number;
  readonly readOnly: boolean;
  /** Seconds until the driver gives up on a request that is not answered; 0: it waits for ever. */
  readonly timeoutSeconds: number;
  /** Logical block size; by default 4096, or 512 when the size is not a multiple of 4096. */
  readonly blockBytes?: DeviceBlockBytes | undefined;
}

export interface AttachedDevice {
  /** `/dev/nbd0` */
  readonly device: string;
  readonly exportName: string;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly connections: number;
  readonly readOnly: boolean;
  readonly timeoutSeconds: number;
  /** ISO 8601, UTC. */
  readonly since: string;
  readonly helperPid: number;
}

interface Attachment {
  readonly info: AttachedDevice;
  readonly helper: HelperProcess;
  detaching: boolean;
}

export interface KernelDevicesOptions {
  readonly logger: Logger;
  readonly events: EventLog;
  /** Tests put folders and programs of their own here. */
  readonly paths?: KernelPaths;
  readonly helperCommand?: HelperCommand;
}

export class KernelDevices {
  readonly #logger: Logger;
  readonly #events: EventLog;
  readonly #paths: KernelPaths;
  readonly #helperCommand: HelperCommand;
  /** By name (`nbd0`). */
  readonly #attached = new Map<string, Attachment>();
  readonly #attaching = new Set<Promise<unknown>>();
  #released = false;

  constructor(options: KernelDevicesOptions) {
    this.#logger = options.logger;
    this.#events = options.events;
    this.#paths = options.paths ?? KERNEL_PATHS;
    this.#helperCommand = options.helperCommand ?? defaultHelperCommand();
  }

  list(): AttachedDevice[] {
    return [...this.#attached.values()].map((attachment) => attachment.info);
  }

  /**
   * Connects a device to an export of this node. When the promise resolves the kernel knows size and partitions.
   * `EngineError`s: `invalid` (the request), `not-found` (device, export), `in-use` (device), `unsupported` (no module, no
   * rights), `unavailable` (anything that failed on the way).
   */
  attach(request: AttachRequest): Promise<AttachedDevice> {
    const work = this.#attach(request);
    this.#attaching.add(work);
    const over = () => this.#attaching.delete(work);
    work.then(over, over);
    return work;
  }

  async #attach(request: AttachRequest): Promise<AttachedDevice> {
    if (this.#released) throw new EngineError('unavailable', 'the node is shutting down');
    checkRequest(request);
    const candidates = await this.#candidates(request.device);
    const { blockBytes } = request;
    const helper = this.#start({
      job: 'serve',
      devices: candidates.map((name) => `/dev/${name}`),
      uri: formatNbdUri({ ...request.uri, exportName: request.connectAs ?? request.exportName }),
      connections: request.connections,
      readOnly: request.readOnly,
      timeoutSeconds: request.timeoutSeconds,
      ...(blockBytes === undefined ? {} : { blockBytes }),
    });
    try {
      return await this.#settle(request, helper);
    } catch (error) {
      helper.kill();
      throw error;
    }
  }

  /** Follows a serving helper from its start until the kernel shows the device. */
  async #settle(request: AttachRequest, helper: HelperProcess): Promise<AttachedDevice> {
    const first = await within(helper.firstMessage, ATTACH_BOUND_MS);
    if (first?.event !== 'starting') throw attachError(request, helper, first);
    const name = deviceName(first.device);
    if (name === undefined)
      throw new EngineError('unavailable', `the helper named no device: ${first.device}`);
    if (!(await this.#appears(name, first.sizeBytes, helper)))
      throw attachError(request, helper, helper.lastMessage);

    const info: AttachedDevice = {
      device: first.device,
      exportName: request.exportName,
      sizeBytes: first.sizeBytes,
      blockBytes: first.blockBytes,
      connections: request.connections,
      readOnly: first.readOnly,
      timeoutSeconds: request.timeoutSeconds,
      since: new Date().toISOString(),
      helperPid: helper.pid,
    };
    const attachment: Attachment = { info, helper, detaching: false };
    this.#attached.set(name, attachment);
    helper.unref();
    helper.exited.then(() => this.#ended(name, attachment));
    // Opened by another process, because reading the partition table means reading from this server.
    const probe = this.#start({ job: 'probe', device: first.device });
    if (!(await probe.waitForExit(PROBE_BOUND_MS))) {
      this.#logger.warn({ device: first.device }, 'the kernel did not finish reading the partition table');
    }
    if (!first.ioFlusher) {
      this.#logger.warn(
        { device: first.device },
        'no right to set PR_SET_IO_FLUSHER: see docs/kernel-device.md',
      );
    }
    this.#tell('device.attached', info, `${info.device} attached to ${info.exportName}`);
    return info;
  }

  /** Waits until sysfs shows the connection and the size. False when the helper ended, or nothing showed in time. */
  async #appears(name: string, sizeBytes: number, helper: HelperProcess): Promise<boolean> {
    const looks = ATTACH_BOUND_MS / POLL_MS;
    for (let look = 0; look < looks && !helper.ended; look += 1) {
      const state = await readDeviceState(this.#paths, name);
      if (state?.ownerPid !== undefined && state.sizeBytes === sizeBytes) return true;
      await sleep(POLL_MS);
    }
    return false;
  }

  /** Names to try, in order. A device named by the user is the only one. */
  async #candidates(device: string | undefined): Promise<string[]> {
    const all = await listDeviceNames(this.#paths);
    if (all.length === 0) throw new EngineError('unsupported', NO_MODULE_MESSAGE);
    if (!(await hasSysAdmin(this.#paths))) {
      throw new EngineError(
        'unsupported',
        'attaching a device needs root (CAP_SYS_ADMIN): run the node as root',
      );
    }
    if (device === undefined) {
      const free: string[] = [];
      for (const name of all) {
        const state = await readDeviceState(this.#paths, name);
        if (state !== undefined && state.ownerPid === undefined) free.push(name);
      }
      if (free.length > 0) return free;
      const hint = 'detach one, or load the module with a larger nbds_max';
      throw new EngineError('in-use', `all ${all.length} nbd devices are in use: ${hint}`);
    }
    const name = requireName(device);
    const state = await readDeviceState(this.#paths, name);
    if (state === undefined) {
      throw new EngineError('not-found', `the kernel has no /dev/${name}; it has ${all[0]} to ${all.at(-1)}`);
    }
    if (state.ownerPid !== undefined)
      throw new EngineError('in-use', this.#busyMessage(name, state.ownerPid));
    return [name];
  }

  #busyMessage(name: string, ownerPid: number): string {
    const own = this.#attached.get(name);
    return own === undefined
      ? `/dev/${name} is in use (connected by process ${ownerPid})`
      : `/dev/${name} is in use (attached to ${own.info.exportName})`;
  }

  /**
   * Flushes and disconnects a device. Refused with `in-use` while it is mounted, swapped on or held, unless forced: then
   * whoever uses it gets EIO for all it has not written yet.
   */
  async detach(device: string, options: { force: boolean }): Promise<void> {
    const name = requireName(device);
    const attachment = this.#attached.get(name);
    if (attachment === undefined) {
      throw new EngineError('not-found', `/dev/${name} is not attached by this node`);
    }
    if (attachment.detaching) throw new EngineError('in-use', `/dev/${name} is being detached already`);
    if (!options.force) {
      const users = await usersOf(this.#paths, name);
      if (users.length > 0) throw inUse(name, users);
    }
    attachment.detaching = true;
    try {
      await this.#disconnect(name, attachment, options.force);
    } catch (error) {
      attachment.detaching = false;
      throw error;
    }
  }

  async #disconnect(name: string, attachment: Attachment, force: boolean): Promise<void> {
    const { helper, info } = attachment;
    const job = this.#start({ job: 'disconnect', device: info.device, force });
    const answered = await job.waitForExit(force ? FORCED_FLUSH_BOUND_MS : FLUSH_BOUND_MS);
    const answer = job.lastMessage;
    if (!force && answer?.event !== 'done') {
      if (answer?.event === 'failed' && answer.kind === 'busy')
        throw inUse(name, await usersOf(this.#paths, name));
      const why =
        answer?.event === 'failed' ? answer.message : answered ? job.complaint : 'no end of the flush';
      throw new EngineError('unavailable', `/dev/${name} was not detached: ${why}`);
    }
    // Killing the helper frees the device as well: the driver drops the sockets with the last opener.
    await helper.waitForExit(force ? FORCED_FLUSH_BOUND_MS : EXIT_BOUND_MS);
    await helper.exited;
    if (!force) await this.#disappears(name);
  }

  /** Who uses a device that is attached, each as a phrase (`mounted on /mnt`). */
  usersOf(device: string): Promise<string[]> {
    return usersOf(this.#paths, requireName(device));
  }

  /** See `holdDevice`. */
  hold(device: string): Promise<DeviceHold> {
    return holdDevice(this.#helperCommand, device);
  }

  /** See `syncDevice`. */
  sync(device: string): Promise<void> {
    return syncDevice(this.#helperCommand, device);
  }

  /** Waits until the driver has let go of the device, so that the next attach finds it free. */
  async #disappears(name: string): Promise<void> {
    for (let look = 0; look < EXIT_BOUND_MS / POLL_MS; look += 1) {
      const state = await readDeviceState(this.#paths, name);
      if (state?.ownerPid === undefined) return;
      await sleep(POLL_MS);
    }
    this.#logger.warn(
      { device: `/dev/${name}` },
      'the device was disconnected, but something still holds it open',
    );
  }

  /** A serving helper is gone: as asked, or not. */
  #ended(name: string, attachment: Attachment): void {
    const { info, helper, detaching } = attachment;
    if (this.#attached.get(name) === attachment) this.#attached.delete(name);
    if (detaching) {
      this.#tell('device.detached', info, `${info.device} detached from ${info.exportName}`);
      return;
    }
    const last = helper.lastMessage;
    const why = last?.event === 'failed' ? last.message : last?.event === 'done' ? last.detail : undefined;
    const reason = why ?? (helper.complaint === '' ? 'its helper process ended' : helper.complaint);
    this.#logger.error({ device: info.device, export: info.exportName, reason }, 'device lost');
    this.#tell('device.lost', info, `${info.device} of ${info.exportName} was lost: ${reason}`);
  }

  /** For shutdown: takes no more requests and detaches every device that nobody uses. Returns those it left. */
  async release(): Promise<AttachedDevice[]> {
    this.#released = true;
    await Promise.allSettled([...this.#attaching]);
    const work = [...this.#attached].map(async ([name, { info }]) => {
      try {
        await this.detach(name, { force: false });
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        this.#logger.warn(
          { device: info.device, reason },
          'device left as it is: it will fail when the node is gone',
        );
      }
    });
    await Promise.all(work);
    return this.list();
  }

  #start(job: HelperJob): HelperProcess {
    return new HelperProcess(this.#helperCommand, job);
  }

  #tell(type: string, info: AttachedDevice, message: string): void {
    const group = info.exportName.split('/')[0] ?? info.exportName;
    this.#events.emit({ type, message, group, data: { device: info.device, export: info.exportName } });
  }
}

function requireName(device: string): string {
  const name = deviceName(device);
  if (name === undefined) {
    throw new EngineError('invalid', `'${device}' is not an nbd device: name one as /dev/nbd0`);
  }
  return name;
}

function checkRequest(request: AttachRequest): void {
  const { connections, timeoutSeconds } = request;
  if (!Number.isInteger(connections) || connections < 1 || connections > MAX_DEVICE_CONNECTIONS) {
    throw new EngineError('invalid', `connections must be 1 to ${MAX_DEVICE_CONNECTIONS}`);
  }
  if (!Number.isInteger(timeoutSeconds) || timeoutSeconds < 0 || timeoutSeconds > 86_400) {
    throw new EngineError('invalid', 'the timeout must be 0 (none) to 86400 whole seconds');
  }
  if (request.uri.tls)
    throw new EngineError('unsupported', 'the kernel device does not speak TLS: attach over the unix socket');
}

function inUse(name: string, users: readonly string[]): EngineError {
  const who = users.length > 0 ? users.join(', ') : 'opened exclusively by another program';
  return new EngineError(
    'in-use',
    `/dev/${name} is in use: ${who}; unmount it first, or use --force and lose what is unwritten`,
  );
}

const CODE_OF_FAILURE: Record<HelperFailureKind, 'in-use' | 'unsupported' | 'not-found' | 'unavailable'> = {
  busy: 'in-use',
  rights: 'unsupported',
  'no-device': 'not-found',
  refused: 'not-found',
  flush: 'unavailable',
  failed: 'unavailable',
};

/** What to tell whoever asked for a device that did not come up. */
function attachError(
  request: AttachRequest,
  helper: HelperProcess,
  last: HelperMessage | undefined,
): EngineError {
  if (last?.event === 'failed') return new EngineError(CODE_OF_FAILURE[last.kind], last.message);
  const why = helper.ended
    ? `the helper process ended early${helper.complaint === '' ? '' : ` (${helper.complaint})`}`
    : `nothing showed within ${ATTACH_BOUND_MS / 1000} s`;
  return new EngineError('unavailable', `attaching ${request.exportName} failed: ${why}`);
}
