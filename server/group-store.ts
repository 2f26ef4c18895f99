/**
 * The groups of a node, in `groups/NAME` of its state folder. A group that cannot be opened is listed with the reason and
 * keeps its name and its files; the others are served.
 */
import { randomUUID } from 'node:crypto';
import { readdir, rename, rm, rmdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Clock } from '../engine/clock.ts';
import type { DiskFolder } from '../engine/disk/disk.ts';
import { explainErrno } from '../engine/disk/disk-error.ts';
import { EngineError, errnoOf } from '../engine/errors.ts';
import { Group, type GroupOptions } from '../engine/group.ts';
import type { GroupSpec } from '../engine/group-spec.ts';
import type { GroupEvent } from '../engine/group-state.ts';
import type { PeerConnector } from '../engine/link/peer.ts';
import { checkName } from '../engine/names.ts';
import type { GroupLimits } from './config.ts';
import { syncFolder } from './durable-file.ts';
import type { EventLog } from './events.ts';
import type { GroupControl } from './group-control.ts';
import { ensureSecret, readLinkSecret, removeLinkSecret, writeLinkSecret } from './group-secrets.ts';
import type { LinkSecrets } from './links.ts';
import type { Logger } from './logger.ts';
import { refuseInside } from './outside-file.ts';
import { NbdPeerConnector } from './replication/nbd-peer-connector.ts';

/** Names with a dot first are ours: no group can have one. */
const DELETED_PREFIX = '.deleted-';

/** What is worse than news. */
const LEVEL_OF_EVENT: ReadonlyMap<string, 'warn' | 'error'> = new Map([
  ['group.failed', 'error'],
  ['group.stalled', 'error'],
  ['snapshot.given-up', 'error'],
  ['snapshot.absent', 'warn'],
  ['log.full', 'warn'],
  ['space.low', 'warn'],
]);

export interface GroupStoreOptions {
  /** The `groups` folder; it exists. */
  readonly path: string;
  readonly clock: Clock;
  readonly events: EventLog;
  readonly logger: Logger;
  /** Opens the folder of disks of one group, making it when it is not there. */
  readonly openFolder: (path: string) => Promise<DiskFolder>;
  readonly groupLimits: GroupLimits;
}

export class GroupStore {
  readonly #options: GroupStoreOptions;
  readonly #open = new Map<string, GroupControl>();
  readonly #failed = new Map<string, string>();
  /** Groups that are being created or deleted: everybody else has to wait. */
  readonly #changing = new Set<string>();
  /** Of open groups, by name. */
  readonly #secrets = new Map<string, Buffer>();

  constructor(options: GroupStoreOptions) {
    this.#options = options;
  }

  get groups(): ReadonlyMap<string, GroupControl> {
    return this.#open;
  }

  /** Names of groups that could not be opened, with the reason. */
  get failed(): ReadonlyMap<string, string> {
    return this.#failed;
  }

  /** By which a link proves itself to the group over TCP; undefined when it could not be read or made. */
  secretOf(name: string): Buffer | undefined {
    return this.#secrets.get(name);
  }

  /** Secrets that links were given. */
  get linkSecrets(): LinkSecrets {
    return {
      read: (group, link) => readLinkSecret(this.#pathOf(group), link),
      write: (group, link, secret) => writeLinkSecret(this.#pathOf(group), link, secret),
      remove: (group, link) => removeLinkSecret(this.#pathOf(group), link),
    };
  }

  /** Opens what is there, and finishes deletions that were cut short. */
  async openAll(): Promise<void> {
    const entries = await readdir(this.#options.path, { withFileTypes: true });
    for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
      if (entry.name.startsWith(DELETED_PREFIX)) await this.#finishDeletion(entry.name);
      else if (entry.isDirectory() && isGroupName(entry.name)) await this.#openOne(entry.name);
      else this.#options.logger.warn({ entry: entry.name }, 'not a group, left alone');
    }
  }

  /** The open group. Throws `not-found`; `unavailable` with the reason for one that failed. */
  require(name: string): GroupControl {
    const group = this.#open.get(name);
    if (group !== undefined) return group;
    const reason = this.#failed.get(name);
    if (reason !== undefined)
      throw new EngineError('unavailable', `group ${name} could not be opened: ${reason}`);
    throw new EngineError('not-found', `there is no group ${JSON.stringify(name)} on this node`);
  }

  /** Durable when it resolves; when it rejects nothing is left of it. */
  async create(spec: GroupSpec): Promise<GroupControl> {
    checkName('group', spec.name);
    if (this.#open.has(spec.name) || this.#failed.has(spec.name)) {
      throw new EngineError(
        'exists',
        `there is a group ${spec.name} already: choose another name, or delete it first`,
      );
    }
    return this.#changingOne(spec.name, async () => {
      const path = this.#pathOf(spec.name);
      let group: GroupControl;
      try {
        const folder = await this.#options.openFolder(path);
        await this.#refuseFilesOfOurs(spec);
        group = await Group.create(folder, spec, this.#options.clock, this.#groupOptions(spec.name));
      } catch (error) {
        // The engine has removed what it made. What else is there is somebody's, and stays.
        await removeEmptyFolders(path);
        throw error;
      }
      this.#adopt(group);
      await this.#takeSecret(group.name);
      return group;
    });
  }

  /** What lies in the state folder is ours: the deletion of a group would take the data of another with it. */
  async #refuseFilesOfOurs(spec: GroupSpec): Promise<void> {
    const named = spec.volumes.map(({ name, file }) => ({ what: `volume ${name}`, file }));
    for (const { what, file } of [...named, { what: 'the log', file: spec.logFile }])
      if (file?.startsWith('/') === true && !file.includes('\0'))
        await refuseInside(dirname(this.#options.path), what, file);
  }

  /**
   * Closes a group and removes its folder; files that were named at `create` lie elsewhere and stay. The caller has made
   * sure that nobody uses it. One that failed to open is removed as well.
   */
  async delete(name: string): Promise<void> {
    await this.#changingOne(name, async () => {
      const group = this.#open.get(name);
      this.#open.delete(name);
      this.#secrets.delete(name);
      try {
        await group?.close();
      } catch (error) {
        // It is to go away: that its last flush failed does not keep it.
        this.#options.logger.warn(
          { err: error, group: name },
          'closing a group that is being deleted failed',
        );
      }
      // Gone at once, as one step, however long the removal of its files takes.
      const trash = `${DELETED_PREFIX}${randomUUID()}`;
      try {
        await rename(this.#pathOf(name), join(this.#options.path, trash));
        await syncFolder(this.#options.path);
      } catch (error) {
        if (group !== undefined) await this.#openOne(name);
        throw storeError(`group ${name} was not deleted`, error);
      }
      this.#failed.delete(name);
      await this.#finishDeletion(trash);
    });
  }

  /** Flushes and closes all. Returns the names of those that could not be, with the reason in the log. */
  async close(): Promise<string[]> {
    const failures: string[] = [];
    for (const [name, group] of this.#open) {
      try {
        await group.close();
      } catch (error) {
        failures.push(name);
        this.#options.logger.error({ err: error, group: name }, 'closing a group failed');
      }
    }
    this.#open.clear();
    return failures;
  }

  async #openOne(name: string): Promise<void> {
    const { clock, events, logger, openFolder } = this.#options;
    try {
      const group = await Group.open(await openFolder(this.#pathOf(name)), clock, this.#groupOptions(name));
      if (group.name !== name) {
        await group.close();
        throw new EngineError(
          'corrupt',
          `its record says that it is group ${group.name}: a folder was renamed or copied`,
        );
      }
      this.#failed.delete(name);
      this.#adopt(group);
      await this.#takeSecret(name);
    } catch (error) {
      if (await this.#wasNeverMade(name, error)) return;
      const reason = error instanceof Error ? error.message : String(error);
      this.#failed.set(name, reason);
      logger.error({ err: error, group: name }, 'a group could not be opened');
      events.emit({
        type: 'group.failed',
        message: `group ${name} could not be opened: ${reason}`,
        group: name,
      });
    }
  }

  #groupOptions(name: string): GroupOptions & { readonly connector: PeerConnector } {
    const { memoryBytes, copyBytesPerSecond } = this.#options.groupLimits;
    const connector = new NbdPeerConnector((linkId) => this.#secretOfLink(name, linkId));
    return { memoryBytes, copyBytesPerSecond, connector, onEvent: (event) => this.#tell(name, event) };
  }

  async #secretOfLink(groupName: string, linkId: string): Promise<Buffer | undefined> {
    const links = this.#open.get(groupName)?.links;
    // A link may connect before its group is open for everybody else. It tries again.
    if (links === undefined) throw new EngineError('unavailable', `group ${groupName} is not open yet`);
    const link = links.views().find(({ id }) => id === linkId);
    return link && (await readLinkSecret(this.#pathOf(groupName), link.name));
  }

  /** Groups that are older than secrets get one. A group is served without: only links over TCP need it. */
  async #takeSecret(name: string): Promise<void> {
    try {
      this.#secrets.set(name, await ensureSecret(this.#pathOf(name)));
    } catch (error) {
      if (!(error instanceof EngineError)) throw error;
      this.#options.logger.warn(
        { group: name, reason: error.message },
        'the group has no secret: no links over TCP',
      );
    }
  }

  #tell(name: string, { type, message, data }: GroupEvent): void {
    this.#options.logger[LEVEL_OF_EVENT.get(type) ?? 'info']({ group: name, event: type }, message);
    this.#options.events.emit({ type, message, group: name, ...(data === undefined ? {} : { data }) });
  }

  /** A creation that a crash cut short leaves an empty folder behind: nothing was promised, nothing is kept. */
  async #wasNeverMade(name: string, error: unknown): Promise<boolean> {
    if (!(error instanceof EngineError) || error.code !== 'not-found') return false;
    const path = this.#pathOf(name);
    const entries = await readdir(path, { recursive: true, withFileTypes: true });
    if (entries.some((entry) => !entry.isDirectory())) return false;
    await rm(path, { recursive: true });
    this.#options.logger.warn(
      { group: name },
      'the creation of a group had been cut short; its folder was removed',
    );
    return true;
  }

  /** Takes an open group in, and listens to what goes wrong in it. */
  #adopt(group: GroupControl): void {
    const { events, logger } = this.#options;
    this.#open.set(group.name, group);
    for (const warning of group.warnings) {
      logger.warn({ group: group.name }, warning);
      events.emit({ type: 'group.damaged', message: `group ${group.name}: ${warning}`, group: group.name });
    }
    for (const volume of group.volumes.values()) {
      volume.onFailure((reason) => {
        logger.error({ group: group.name, volume: volume.name, reason }, 'a volume failed');
        events.emit({
          type: 'volume.failed',
          message: `volume ${group.name}/${volume.name} failed: ${reason}`,
          group: group.name,
          data: { volume: volume.name },
        });
      });
    }
  }

  async #finishDeletion(entry: string): Promise<void> {
    try {
      await rm(join(this.#options.path, entry), { recursive: true, force: true });
    } catch (error) {
      this.#options.logger.warn(
        { err: error, entry },
        'files of a deleted group are left; the next start tries again',
      );
    }
  }

  async #changingOne<Result>(name: string, run: () => Promise<Result>): Promise<Result> {
    if (this.#changing.has(name)) {
      throw new EngineError('in-use', `group ${name} is being created or deleted: wait for that to end`);
    }
    this.#changing.add(name);
    try {
      return await run();
    } finally {
      this.#changing.delete(name);
    }
  }

  #pathOf(name: string): string {
    return join(this.#options.path, name);
  }
}

function isGroupName(name: string): boolean {
  try {
    checkName('group', name);
    return true;
  } catch {
    return false;
  }
}

function storeError(what: string, error: unknown): EngineError {
  const errno = errnoOf(error);
  return new EngineError('disk', `${what}: ${errno === undefined ? String(error) : explainErrno(errno)}`, {
    ...(errno === undefined ? {} : { errno }),
    cause: error,
  });
}

/** Removes a folder, and folders in it, as far as they are empty. */
async function removeEmptyFolders(path: string): Promise<void> {
  const entries = await readdir(path, { withFileTypes: true }).catch(() => []);
  for (const entry of entries)
    if (entry.isDirectory()) await rmdir(join(path, entry.name)).catch(() => undefined);
  await rmdir(path).catch(() => undefined);
}
