/**
 * Who uses an export, and the guard of rule T4: data that somebody holds in a cache must not change beneath it. Before a restore (a refresh, a
 * deletion, an import) whoever may write or has it mounted is asked to go; with `force` they are ended. Kernel devices that nobody uses stay:
 * their dirty pages are written before, and their clean ones dropped after.
 */
import { EngineError } from '../engine/errors.ts';
import type { SessionStatus } from './connection.ts';
import type { ExportHolds, KeptOut } from './export-holds.ts';
import type { DeviceHold, KernelDevices } from './kernel/kernel-devices.ts';
import type { Logger } from './logger.ts';

/** The part of `KernelDevices` that the guard uses. */
export type GuardedDevices = Pick<KernelDevices, 'list' | 'detach' | 'usersOf' | 'hold' | 'sync'>;

/** The part of `NbdServer` that the guard uses. */
export interface GuardedSessions {
  sessions(): SessionStatus[];
  closeSessions(isMeant: (session: SessionStatus) => boolean): Promise<void>;
}

export interface GuardRequest {
  /** What is going to happen, as in `restoring db@monday`. */
  readonly what: string;
  readonly force: boolean;
  /** Exports whose data changes. */
  readonly changing?: readonly string[];
  /** Exports that go away: readers and devices that nobody has mounted are in the way as well. */
  readonly ending?: readonly string[];
}

/** Devices that are held, and exports that nobody comes to who would be in the way, until `release`. */
export interface GuardHold {
  /** Drops what the kernel keeps of the old data. Never rejects: a device that fails here is told of in the log. */
  release(): Promise<void>;
}

/** People and devices named in a refusal, at most. */
const MAX_NAMED = 3;

export class UseGuard {
  readonly #holds: ExportHolds;
  readonly #sessions: GuardedSessions;
  readonly #devices: GuardedDevices;
  readonly #logger: Logger;

  /** `holds` is what the server of these sessions asks before it opens one. */
  constructor(holds: ExportHolds, sessions: GuardedSessions, devices: GuardedDevices, logger: Logger) {
    this.#holds = holds;
    this.#sessions = sessions;
    this.#devices = devices;
    this.#logger = logger;
  }

  /** Throws `in-use` while anything is open on exports that the predicate means. */
  refuseWhileUsed(what: string, isMeant: (exportName: string) => boolean): void {
    this.refuseWhileAttached(what, isMeant);
    const sessions = this.#sessions.sessions().filter((session) => isMeant(session.exportName));
    if (sessions.length > 0) {
      const who = some(sessions.map((session) => `${session.peer} on ${session.exportName}`));
      throw new EngineError('in-use', `${what} is in use by ${who}: disconnect first`);
    }
  }

  /** Throws `in-use` while a kernel device is attached to exports that the predicate means, or is being attached. */
  refuseWhileAttached(what: string, isMeant: (exportName: string) => boolean): void {
    this.#holds.refuseWhileAttaching(isMeant);
    const devices = this.#devices.list().filter((device) => isMeant(device.exportName));
    if (devices.length === 0) return;
    const names = devices.map((device) => device.device).join(', ');
    throw new EngineError('in-use', `${what} is attached to ${names}: detach first`);
  }

  /**
   * Makes a change while no device is attached to these exports, and none comes until it is over. Sessions stay and come: only devices go by the name
   * that they began with. Throws `in-use`, before anything was changed.
   */
  async withoutDevices<Result>(
    request: { readonly what: string; readonly of: string; readonly exportNames: readonly string[] },
    change: () => Promise<Result>,
  ): Promise<Result> {
    const { what, of, exportNames } = request;
    this.refuseWhileAttached(of, (name) => exportNames.includes(name));
    const letGo = this.#holds.take(what, new Map(exportNames.map((name) => [name, 'devices'])));
    try {
      return await change();
    } finally {
      letGo();
    }
  }

  /**
   * From here on until the release nobody comes who would be in the way. Throws `in-use`, and has changed nothing then; `unavailable` when a device's
   * dirty pages could not be written.
   */
  async hold(request: GuardRequest): Promise<GuardHold> {
    const exports = keptOutOf(request);
    const letGoOfExports = this.#holds.take(request.what, exports);
    const holds: DeviceHold[] = [];
    const letGo = async (): Promise<void> => {
      letGoOfExports();
      await Promise.all(holds.map((hold) => this.#drop(hold)));
    };
    try {
      await this.#makeRoom(request, exports);
      for (const { device, exportName } of this.#devices.list()) {
        if (!exports.has(exportName)) continue;
        const hold = await this.#holdOne(device, request.force);
        if (hold !== undefined) holds.push(hold);
      }
    } catch (error) {
      await letGo();
      throw error;
    }
    return { release: letGo };
  }

  /** Writes the dirty pages of all devices on these exports, whoever uses them. */
  async sync(exportNames: readonly string[]): Promise<void> {
    for (const { device, exportName } of this.#devices.list())
      if (exportNames.includes(exportName)) await this.#devices.sync(device);
  }

  async #makeRoom({ what, force }: GuardRequest, exports: ReadonlyMap<string, KeptOut>): Promise<void> {
    const reasons: string[] = [];
    const devices: string[] = [];
    for (const { device, exportName } of this.#devices.list()) {
      const keptOut = exports.get(exportName);
      if (keptOut === undefined) continue;
      const users = await this.#devices.usersOf(device);
      if (users.length === 0 && keptOut !== 'everybody') continue;
      devices.push(device);
      reasons.push(`${device} of ${exportName} is ${users.length > 0 ? users.join(', ') : 'attached'}`);
    }
    const isForeign = ({ exportName, kernelDevice, readOnly }: SessionStatus): boolean => {
      const keptOut = exports.get(exportName);
      return keptOut !== undefined && !kernelDevice && (keptOut === 'everybody' || !readOnly);
    };
    for (const session of this.#sessions.sessions().filter(isForeign)) {
      reasons.push(`${session.peer} ${session.readOnly ? 'reads' : 'may write'} ${session.exportName}`);
    }
    if (reasons.length === 0) return;
    if (!force) {
      throw new EngineError(
        'in-use',
        `not ${what}: ${some(reasons)}; unmount, detach and disconnect first, or use --force to end them`,
      );
    }
    for (const device of devices) await this.#devices.detach(device, { force: true });
    await this.#sessions.closeSessions(isForeign);
  }

  /** Undefined when the device had to go. */
  async #holdOne(device: string, force: boolean): Promise<DeviceHold | undefined> {
    try {
      return await this.#devices.hold(device);
    } catch (error) {
      // A mount in another namespace shows only now.
      if (!force || !(error instanceof EngineError) || error.code !== 'in-use') throw error;
      await this.#devices.detach(device, { force: true });
      return undefined;
    }
  }

  async #drop(hold: DeviceHold): Promise<void> {
    try {
      await hold.dropCaches();
    } catch (error) {
      this.#logger.error(
        { device: hold.device, err: error },
        'the kernel may still show old data of a device: detach it, and attach it again',
      );
    }
  }
}

function keptOutOf({ changing = [], ending = [] }: GuardRequest): Map<string, KeptOut> {
  const writers = changing.map((name): [string, KeptOut] => [name, 'writers']);
  return new Map([...writers, ...ending.map((name): [string, KeptOut] => [name, 'everybody'])]);
}

function some(items: readonly string[]): string {
  const shown = items.slice(0, MAX_NAMED).join(', ');
  return items.length > MAX_NAMED ? `${shown} and ${items.length - MAX_NAMED} more` : shown;
}
