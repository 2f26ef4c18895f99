/**
 * A node: the composition of all that `tidemark serve` runs. Everything that touches the machine is handed in or made
 * here, so that tests run whole nodes in one process, each in a folder of its own.
 *
 * Start, each step undone in reverse when a later one fails:
 *   look at the folder · lock it · claim it · open the groups · listen for NBD · listen for control
 * Stop:
 *   no more changes · devices released (their last flush still needs the server) · NBD drained and closed ·
 *   groups flushed and closed · control closed · lock released
 */
import { randomUUID } from 'node:crypto';
import type { Clock } from '../engine/clock.ts';
import type { DiskFolder } from '../engine/disk/disk.ts';
import { EngineError } from '../engine/errors.ts';
import { DEFAULT_REGION_BYTES } from '../engine/units.ts';
import { formatNbdUri, type NbdUri } from '../protocol/uri.ts';
import type { Settings } from './config.ts';
import type { NodeControl } from './control/node-control.ts';
import type { AttachRequest, DeviceView, GroupRequest, GroupStatus, NodeStatus } from './control/schemas.ts';
import { ControlSocket } from './control/socket.ts';
import type { EventLog } from './events.ts';
import { Exports } from './exports.ts';
import type { GroupControl } from './group-control.ts';
import { GroupStore } from './group-store.ts';
import type { KernelDevices } from './kernel/kernel-devices.ts';
import { LinkService } from './links.ts';
import { checkListeners, listenerError } from './listeners.ts';
import type { Logger } from './logger.ts';
import { Metrics } from './metrics.ts';
import { NbdServer } from './nbd-server.ts';
import { Operations } from './operations.ts';
import { ReplicationExports } from './replication/replication-exports.ts';
import { SnapshotService } from './snapshots.ts';
import { claimIdentity, makeStateFolder, type NodeIdentity, readIdentity } from './state-folder.ts';
import { StateLock } from './state-lock.ts';
import { statePaths } from './state-paths.ts';
import {
  deviceViewOf,
  failedGroupStatus,
  groupStatusOf,
  type StatusContext,
  snapshotStatusOf,
} from './status.ts';
import { type GuardedDevices, UseGuard } from './use-guard.ts';
import { tidemarkVersion } from './version.ts';

/** The part of `KernelDevices` that a node uses. */
export type DeviceManager = GuardedDevices & Pick<KernelDevices, 'attach' | 'release'>;

export interface NodeOptions {
  readonly settings: Settings;
  /** Digest of this machine's identity (see `machineDigest`). */
  readonly machine: string | null;
  readonly adopt: boolean;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly events: EventLog;
  readonly devices: DeviceManager;
  /** Called before a device is attached: what the process should ask of the kernel while it serves the kernel. */
  readonly guard: () => void;
  readonly openFolder: (path: string) => Promise<DiskFolder>;
}

/** Connections of a kernel device that was not told a number: more help only where one core is not enough. */
const DEFAULT_DEVICE_CONNECTIONS = 1;

export class TidemarkNode implements NodeControl {
  readonly events: EventLog;
  readonly snapshots: SnapshotService;
  readonly links: LinkService;
  readonly #options: NodeOptions;
  readonly #identity: NodeIdentity;
  readonly #groups: GroupStore;
  readonly #exports = new Exports();
  readonly #server: NbdServer;
  readonly #replication: ReplicationExports;
  readonly #guard: UseGuard;
  readonly #operations = new Operations();
  readonly #metrics: Metrics;
  readonly #startedAt: string;
  readonly #version = tidemarkVersion();
  readonly #listeners: NbdUri[] = [];
  #control: ControlSocket | undefined;
  #stopping: Promise<string[]> | undefined;

  private constructor(options: NodeOptions, identity: NodeIdentity, groups: GroupStore) {
    this.#options = options;
    this.events = options.events;
    this.#identity = identity;
    this.#groups = groups;
    this.#startedAt = new Date(options.clock.nowMs()).toISOString();
    this.#replication = new ReplicationExports({
      group: (name) => groups.groups.get(name),
      secretOf: (name) => groups.secretOf(name),
    });
    this.#server = new NbdServer({
      exports: this.#exports,
      replication: this.#replication,
      limits: options.settings.limits,
      logger: options.logger,
      events: options.events,
    });
    this.#guard = new UseGuard(this.#exports.holds, this.#server, options.devices, options.logger);
    this.snapshots = new SnapshotService({
      requireGroup: (name) => groups.require(name),
      checkRunning: () => this.#refuseWhenStopping(),
      statusOf: (group, snapshot) => snapshotStatusOf(group, snapshot, this.#context()),
      openImage: async (path) =>
        (await options.openFolder(statePaths(options.settings.stateFolder).groups)).openImage(path),
      guard: this.#guard,
      operations: this.#operations,
      events: options.events,
      logger: options.logger,
    });
    this.links = new LinkService({
      requireGroup: (name) => groups.require(name),
      checkRunning: () => this.#refuseWhenStopping(),
      secrets: groups.linkSecrets,
    });
    this.#metrics = new Metrics({
      counters: this.#server.counters,
      permits: this.#server.permits,
      sessionCount: () => this.#server.sessions().length,
      connectionCount: () => this.#server.connectionCount,
      groups: () => [...groups.groups.values()],
    });
  }

  /** A node that serves. Rejects with an `EngineError` of one line; nothing runs then, and nothing is locked. */
  static async start(options: NodeOptions): Promise<TidemarkNode> {
    const { settings, clock, events, logger, openFolder } = options;
    const paths = statePaths(settings.stateFolder);
    const identityOptions = { machine: options.machine, adopt: options.adopt, nowMs: clock.nowMs() };
    const known = await readIdentity(paths, identityOptions);
    // A new folder is not made in vain. Those of one that is known may still be held by the node that the lock will name.
    if (known === undefined) await checkListeners(settings);
    await makeStateFolder(paths);
    const undo: (() => Promise<unknown>)[] = [];
    try {
      const lock = await StateLock.take(paths);
      undo.push(() => lock.release());
      const { identity, adopted } = await claimIdentity(paths, identityOptions);
      const groups = new GroupStore({
        path: paths.groups,
        clock,
        events,
        logger,
        openFolder,
        groupLimits: settings.groups,
      });
      undo.push(() => groups.close());
      await groups.openAll();
      const node = new TidemarkNode(options, identity, groups);
      undo.push(() => node.#server.shutdown());
      for (const group of groups.groups.values()) node.#exports.add(group);
      for (const uri of settings.listen) await node.#listen(uri);
      node.#control = await ControlSocket.open(settings.controlPath, node, logger, node.#version);
      node.#release = () => lock.release();
      if (adopted) {
        events.emit({
          type: 'node.adopted',
          message: `the state of another machine was taken over as node ${identity.id}`,
        });
      }
      events.emit({
        type: 'node.started',
        message: `node ${identity.id} serves ${counted(groups.groups.size, 'group')}`,
      });
      return node;
    } catch (error) {
      for (const step of undo.reverse()) {
        await step().catch((failure: unknown) =>
          logger.error({ err: failure }, 'giving up a start failed in part'),
        );
      }
      throw error;
    }
  }

  #release: () => Promise<void> = async () => {};

  /** NBD URIs listened at, with the ports that were really bound. */
  get listeners(): readonly NbdUri[] {
    return this.#listeners;
  }

  get controlPath(): string {
    return this.#options.settings.controlPath;
  }

  get id(): string {
    return this.#identity.id;
  }

  /**
   * A clean stop: what is in flight is finished, everything is durable, nothing is left running. Returns the names of the
   * groups that could not be flushed. A second call waits for the first.
   */
  stop(): Promise<string[]> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<string[]> {
    const { logger } = this.#options;
    const step = async (what: string, run: () => Promise<unknown>): Promise<void> => {
      try {
        await run();
      } catch (error) {
        logger.error({ err: error }, `${what} failed`);
      }
    };
    // What a link holds would be in flight until it comes back.
    for (const group of this.#groups.groups.values()) group.links?.refuseHeld();
    await step('releasing the devices', () => this.#options.devices.release());
    await step('closing the NBD sessions', () => this.#server.shutdown());
    const failures = await this.#groups.close();
    await step('ending the imports', () => this.snapshots.settled());
    this.events.emit({ type: 'node.stopped', message: 'the node has stopped' });
    await step('closing the control socket', async () => this.#control?.close());
    await step('releasing the lock', this.#release);
    return failures;
  }

  status(): NodeStatus {
    const { settings } = this.#options;
    return {
      node: {
        id: this.#identity.id,
        version: this.#version,
        pid: process.pid,
        state: settings.stateFolder,
        startedAt: this.#startedAt,
        listen: this.#listeners.map(formatNbdUri),
        advertise: settings.advertise ?? null,
      },
      groups: this.#groupStatuses(),
      sessions: this.#server.sessions(),
      devices: this.devices(),
    };
  }

  groupStatus(name: string): GroupStatus {
    const reason = this.#groups.failed.get(name);
    if (reason !== undefined) return failedGroupStatus(name, reason);
    return this.#statusOf(this.#groups.require(name), this.#context());
  }

  async createGroup(request: GroupRequest): Promise<GroupStatus> {
    this.#refuseWhenStopping();
    const group = await this.#groups.create({
      name: request.name,
      regionBytes: request.regionSize ?? DEFAULT_REGION_BYTES,
      volumes: request.volumes.map(({ name, size, file }) => ({
        name,
        ...(size === undefined ? {} : { sizeBytes: size }),
        ...(file === undefined ? {} : { file }),
      })),
      ...(request.logSize === undefined ? {} : { logBytes: request.logSize }),
      ...(request.logFile === undefined ? {} : { logFile: request.logFile }),
      ...(request.onDiskFull === undefined ? {} : { onFull: request.onDiskFull }),
      ...(request.replica === undefined ? {} : { replica: request.replica }),
    });
    this.#exports.add(group);
    this.events.emit({
      type: 'group.created',
      message: `group ${group.name} created with ${counted(group.volumes.size, 'volume')}`,
      group: group.name,
    });
    return this.#statusOf(group, this.#context());
  }

  async deleteGroup(name: string): Promise<void> {
    this.#refuseWhenStopping();
    if (!this.#groups.failed.has(name)) {
      const prefix = `${this.#groups.require(name).name}/`;
      this.#guard.refuseWhileUsed(`group ${name}`, (exportName) => exportName.startsWith(prefix));
    }
    // No new session from here on: none slips in between the look and the closing.
    this.#exports.remove(name);
    this.#replication.sessions.endAll(name, `group ${name} is being deleted`);
    try {
      await this.#groups.delete(name);
    } catch (error) {
      const kept = this.#groups.groups.get(name);
      if (kept !== undefined) this.#exports.add(kept);
      throw error;
    }
    this.#operations.forget(name);
    this.events.emit({ type: 'group.deleted', message: `group ${name} deleted`, group: name });
  }

  devices(): DeviceView[] {
    return this.#options.devices.list().map(deviceViewOf);
  }

  async attach(request: AttachRequest): Promise<DeviceView> {
    this.#refuseWhenStopping();
    const [groupName = ''] = request.export.split('/');
    this.#groups.require(groupName);
    const served = request.export.includes('/') ? this.#exports.find(request.export) : undefined;
    if (served === undefined) {
      throw new EngineError(
        'not-found',
        `there is no volume ${JSON.stringify(request.export)}: name it as GROUP/VOLUME or GROUP/VOLUME@SNAPSHOT`,
      );
    }
    const uri = this.#localUri();
    if (uri === undefined)
      throw new EngineError('unavailable', 'the node listens nowhere that its own kernel could connect to');
    this.#options.guard();
    const ticket = `@device-${randomUUID()}`;
    this.#exports.issueTicket(ticket, served.name);
    try {
      const device = await this.#exports.holds.whileAttaching(served.name, () =>
        this.#options.devices.attach({
          exportName: served.name,
          connectAs: ticket,
          uri,
          device: request.device,
          connections: request.connections ?? DEFAULT_DEVICE_CONNECTIONS,
          readOnly: request.readOnly ?? false,
          timeoutSeconds: request.timeoutSeconds ?? 0,
        }),
      );
      return deviceViewOf(device);
    } finally {
      this.#exports.revokeTicket(ticket);
    }
  }

  async detach(device: string, force: boolean): Promise<void> {
    await this.#options.devices.detach(device, { force });
  }

  async metrics(): Promise<{ contentType: string; text: string }> {
    return { contentType: this.#metrics.contentType, text: await this.#metrics.text() };
  }

  async #listen(uri: NbdUri): Promise<void> {
    try {
      this.#listeners.push(await this.#server.listen(uri));
    } catch (error) {
      throw listenerError(uri, error);
    }
    if (uri.address.kind === 'tcp' && !isLoopback(uri.address.host)) {
      const message = `${formatNbdUri(uri)} has no authentication and no encryption: whoever reaches it can read and write every volume`;
      this.#options.logger.warn({ listener: formatNbdUri(uri) }, message);
      this.events.emit({ type: 'listener.exposed', message });
    }
  }

  /** A listener that this machine's own clients reach: a unix socket if there is one. */
  #localUri(): NbdUri | undefined {
    const unix = this.#listeners.find((uri) => uri.address.kind === 'unix');
    if (unix !== undefined) return unix;
    const [first] = this.#listeners;
    if (first?.address.kind !== 'tcp') return undefined;
    const anywhere: Readonly<Record<string, string>> = { '0.0.0.0': '127.0.0.1', '::': '::1' };
    const host = anywhere[first.address.host] ?? first.address.host;
    return { ...first, address: { ...first.address, host } };
  }

  #context(): StatusContext {
    return {
      sessions: this.#server.sessions(),
      devices: this.#options.devices.list(),
      localUri: this.#localUri(),
    };
  }

  #statusOf(group: GroupControl, context: StatusContext): GroupStatus {
    return groupStatusOf(group, this.#operations.list(group), context);
  }

  #groupStatuses(): GroupStatus[] {
    const context = this.#context();
    const open = [...this.#groups.groups.values()].map((group) => this.#statusOf(group, context));
    const failed = [...this.#groups.failed].map(([name, reason]) => failedGroupStatus(name, reason));
    return [...open, ...failed].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  #refuseWhenStopping(): void {
    if (this.#stopping !== undefined) throw new EngineError('unavailable', 'the node is shutting down');
  }
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\./.test(host);
}

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}
