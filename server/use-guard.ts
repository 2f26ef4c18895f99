/**
 * Who uses an export, and the guard of rule T4: data that somebody holds in a cache must not change beneath it. Before a restore (a refresh, a
 * deletion, an import) whoever may write or has it mounted is asked to go; with `force` they are ended. Kernel devices that nobody uses stay:
 * their dirty pages are written before, and their clean ones dropped after.
 */
import { EngineError } from '../engine/errors.ts';
import type { SessionStatus } from './connection.ts';
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
  readonly exportNames: readonly string[];
  /** What is going to happen, as in `restoring db@monday`. */
  readonly what: string;
  readonly force: boolean;
  /** The exports go away: readers and devices that nobody has mounted are in the way as well. */
  readonly ends?: boolean;
}

/** Devices that are held, and exports that no device can be attached to, until `release`. */
export interface GuardHold {
  /** Drops what the kernel keeps of the old data. Never rejects: a device that fails here is told of in the log. */
  release(): Promise<void>;
}

/** People and devices named in a refusal, at most. */
const MAX_NAMED = 3;

export class UseGuard {
  readonly #sessions: GuardedSessions;
  readonly #devices: GuardedDevices;
  readonly #logger: Logger;
  /** By export, what is being done to it. */
  readonly #held = new Map<string, string>();
  readonly #attaching = new Set<string>();

  constructor(sessions: GuardedSessions, devices: GuardedDevices, logger: Logger) {
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

  /** Throws `in-use` while a kernel device is attached to exports that the predicate means. */
  refuseWhileAttached(what: string, isMeant: (exportName: string) => boolean): void {
    const devices = this.#devices.list().filter((device) => isMeant(device.exportName));
    if (devices.length === 0) return;
    const names = devices.map((device) => device.device).join(', ');
    throw new EngineError('in-use', `${what} is attached to ${names}: detach first`);
  }

  /** Throws `in-use` while the export is held: a device that came now would cache what is about to change. */
  refuseWhileHeld(exportName: string): void {
    const why = this.#held.get(exportName);
    if (why !== undefined)
      throw new EngineError('in-use', `${exportName} cannot be used while ${why}: try again in a moment`);
  }

  /** Attaches a device to an export that is not held; none is held before it is there. */
  async whileAttaching<Result>(exportName: string, attach: () => Promise<Result>): Promise<Result> {
    this.refuseWhileHeld(exportName);
    this.#attaching.add(exportName);
    try {
      return await attach();
    } finally {
      this.#attaching.delete(exportName);
    }
  }

  /** Throws `in-use`, and has changed nothing then; `unavailable` when a device's dirty pages could not be written. */
  async hold(request: GuardRequest): Promise<GuardHold> {
    for (const name of request.exportNames) {
      this.refuseWhileHeld(name);
      if (this.#attaching.has(name))
        throw new EngineError('in-use', `${name} is being attached to a device: try again in a moment`);
    }
    for (const name of request.exportNames) this.#held.set(name, request.what);
    const holds: DeviceHold[] = [];
    const letGo = async (): Promise<void> => {
      for (const name of request.exportNames) this.#held.delete(name);
      await Promise.all(holds.map((hold) => this.#drop(hold)));
    };
    try {
      await this.#makeRoom(request);
      for (const { device, exportName } of this.#devices.list()) {
        if (!request.exportNames.includes(exportName)) continue;
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

  async #makeRoom({ exportNames, what, force, ends = false }: GuardRequest): Promise<void> {
    const reasons: string[] = [];
    const devices: string[] = [];
    for (const { device, exportName } of this.#devices.list()) {
      if (!exportNames.includes(exportName)) continue;
      const users = await this.#devices.usersOf(device);
      if (users.length === 0 && !ends) continue;
      devices.push(device);
      reasons.push(`${device} of ${exportName} is ${users.length > 0 ? users.join(', ') : 'attached'}`);
    }
    const isForeign = (session: SessionStatus): boolean =>
      exportNames.includes(session.exportName) && !session.kernelDevice && (ends || !session.readOnly);
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

function some(items: readonly string[]): string {
  const shown = items.slice(0, MAX_NAMED).join(', ');
  return items.length > MAX_NAMED ? `${shown} and ${items.length - MAX_NAMED} more` : shown;
}
