/** Snapshots, restores and imports of a node's groups, as the control API asks for them: the guard before, the group's work, the answer after. */
import { isAbsolute } from 'node:path';
import { EngineError } from '../engine/errors.ts';
import { checkName } from '../engine/names.ts';
import { UNDO_NAME } from '../engine/snapshot/control-effects.ts';
import { changedExtents, isChanged } from './contexts.ts';
import type { SnapshotControl } from './control/node-control.ts';
import type {
  ChangesPage,
  ChangesQuery,
  ImportRequest,
  OperationStatus,
  RestorePlanView,
  RestoreRequest,
  RestoreView,
  SnapshotRequest,
  SnapshotStatus,
} from './control/snapshot-schemas.ts';
import type { EventLog } from './events.ts';
import { exportNameOf } from './exports.ts';
import type { GroupControl, OpenImage, RestorePlan, ServedVolume, SnapshotView } from './group-control.ts';
import type { Logger } from './logger.ts';
import type { Operations } from './operations.ts';
import type { GuardHold, UseGuard } from './use-guard.ts';

/** Extents in one answer of `changes`, and regions looked at for it: half a megabyte of JSON, some milliseconds. */
const MAX_EXTENTS_PER_PAGE = 10_000;
const MAX_REGIONS_PER_PAGE = 4 * 1024 * 1024;

export interface SnapshotServiceParts {
  /** Throws `not-found`, `unavailable`. */
  readonly requireGroup: (name: string) => GroupControl;
  /** Throws when the node is shutting down. */
  readonly checkRunning: () => void;
  readonly statusOf: (group: GroupControl, snapshot: SnapshotView) => SnapshotStatus;
  readonly openImage: OpenImage;
  readonly guard: UseGuard;
  readonly operations: Operations;
  readonly events: EventLog;
  readonly logger: Logger;
}

export class SnapshotService implements SnapshotControl {
  readonly #parts: SnapshotServiceParts;
  /** Imports under way, which a clean stop waits for. */
  readonly #imports = new Set<Promise<unknown>>();

  constructor(parts: SnapshotServiceParts) {
    this.#parts = parts;
  }

  list(groupName: string): SnapshotStatus[] {
    const group = this.#parts.requireGroup(groupName);
    return group.snapshots.map((snapshot) => this.#parts.statusOf(group, snapshot));
  }

  async create(groupName: string, request: SnapshotRequest): Promise<SnapshotStatus> {
    const group = this.#groupToChange(groupName);
    const local = request.local ?? false;
    return this.#parts.statusOf(group, await group.createSnapshot(request.name, { local }));
  }

  async delete(groupName: string, name: string, force: boolean): Promise<void> {
    const group = this.#groupToChange(groupName);
    requireSnapshot(group, name);
    const what = `deleting ${group.name}@${name}`;
    const ending = exportsOfSnapshot(group, name);
    await this.#guarded({ ending, what, force }, () => group.deleteSnapshot(name));
  }

  async rename(groupName: string, name: string, to: string): Promise<SnapshotStatus> {
    const group = this.#groupToChange(groupName);
    const { id } = requireSnapshot(group, name);
    const request = {
      of: `snapshot ${group.name}@${name}`,
      what: `renaming ${group.name}@${name}`,
      exportNames: exportsOfSnapshot(group, name),
    };
    await this.#parts.guard.withoutDevices(request, () => group.renameSnapshot(name, to));
    return this.#statusById(group, id);
  }

  async refresh(groupName: string, name: string, force: boolean): Promise<SnapshotStatus> {
    const group = this.#groupToChange(groupName);
    requireSnapshot(group, name);
    const what = `refreshing ${group.name}@${name}`;
    const changing = exportsOfSnapshot(group, name);
    const refreshed = await this.#guarded({ changing, what, force }, () =>
      group.refreshSnapshot(name, { force }),
    );
    return this.#parts.statusOf(group, refreshed);
  }

  async detach(groupName: string, name: string): Promise<OperationStatus> {
    const group = this.#groupToChange(groupName);
    const { id } = requireSnapshot(group, name);
    await group.detachSnapshot(name);
    // It begins when the log is applied that far; until then the group does not show it.
    const isOver = (): boolean => {
      const now = group.snapshots.find((snapshot) => snapshot.id === id);
      return now === undefined || now.state === 'detached' || now.state === 'refreshing';
    };
    return this.#parts.operations.begun(group, { id, kind: 'detach', target: name, isOver });
  }

  planRestore(groupName: string, name: string, volume: string | undefined): RestorePlanView {
    const group = this.#parts.requireGroup(groupName);
    return planView(group, group.planRestore(name, volumeOption(group, volume)));
  }

  async restore(groupName: string, name: string, request: RestoreRequest): Promise<RestoreView> {
    const group = this.#groupToChange(groupName);
    const snapshot = requireSnapshot(group, name);
    const option = volumeOption(group, request.volume);
    const all = snapshot.undoOf ?? [...group.volumes.keys()];
    const volumes = request.volume === undefined ? all : [request.volume];
    const replaces = group.snapshots.some((each) => each.name === UNDO_NAME);
    const guarded = {
      changing: volumes.map((volume) => exportNameOf(group.name, volume)),
      // Its name goes to the new one, as if it were deleted. Held also where there is none yet: another restore may be making it.
      ending: exportsOfSnapshot(group, UNDO_NAME),
      what: `restoring ${group.name}@${name}${replaces ? `, which replaces ${group.name}@${UNDO_NAME}` : ''}`,
      force: request.force ?? false,
    };
    const result = await this.#guarded(guarded, async () => {
      // What was written through the snapshot is a part of it, and may be in a cache yet.
      await this.#parts.guard.sync(exportsOfSnapshot(group, name));
      return await group.restore(name, { ...option, force: request.force ?? false });
    });
    return {
      operation: this.#parts.operations.begun(group, { id: result.operation, kind: 'restore', target: name }),
      plan: planView(group, result.plan),
      undo: this.#parts.statusOf(group, result.undo),
    };
  }

  changes(groupName: string, volumeName: string, query: ChangesQuery): ChangesPage {
    const group = this.#parts.requireGroup(groupName);
    const volume = requireVolume(group, volumeName);
    const since = requireSnapshot(group, query.from);
    const snapshot = query.to === undefined ? undefined : requireSnapshot(group, query.to);
    if (snapshot !== undefined && snapshot.lsn < since.lsn) {
      throw new EngineError(
        'invalid',
        `${query.from} is later than ${snapshot.name}: name the older snapshot first`,
      );
    }
    const offsetBytes = Number(query.offset ?? 0);
    const page = { from: since.name, to: snapshot?.name ?? null };
    if (offsetBytes >= volume.sizeBytes) return { ...page, extents: [], next: null };
    const found = changedExtents({ group, volume: volumeName, snapshot }, since, {
      offsetBytes,
      lengthBytes: volume.sizeBytes - offsetBytes,
      regionBytes: volume.regionBytes,
      maxExtents: MAX_EXTENTS_PER_PAGE,
      maxRegions: MAX_REGIONS_PER_PAGE,
    });
    const extents: { offset: number; length: number }[] = [];
    let at = offsetBytes;
    for (const extent of found) {
      if (isChanged(extent)) extents.push({ offset: at, length: extent.lengthBytes });
      at += extent.lengthBytes;
    }
    return { ...page, extents, next: at < volume.sizeBytes ? at : null };
  }

  async import(groupName: string, volumeName: string, request: ImportRequest): Promise<OperationStatus> {
    const group = this.#groupToChange(groupName);
    requireVolume(group, volumeName);
    const { guard, operations, openImage } = this.#parts;
    const target = exportNameOf(group.name, volumeName);
    if (operations.isImporting(group, target))
      throw new EngineError('in-use', `an import into ${target} is under way: wait for its end`);
    if (!isAbsolute(request.file) || request.file.includes('\0'))
      throw new EngineError('invalid', `${JSON.stringify(request.file)} is no absolute path`);
    const image = await openImage(request.file);
    let hold: GuardHold;
    try {
      const what = `importing into ${target}`;
      hold = await guard.hold({ changing: [target], what, force: request.force ?? false });
    } catch (error) {
      await image.close();
      throw error;
    }
    let isRefused = false;
    const imported = group.import(volumeName, image).catch((error: unknown) => {
      isRefused = true;
      throw error;
    });
    const work = imported.finally(async () => {
      await image.close().catch(() => undefined);
      await hold.release();
    });
    this.#watchImport(group, target, request.file, work);
    const { id } = operations.follow(
      group,
      target,
      work.then((result) => ({ ...result })),
    );
    // What is refused at once is an answer, and not an operation that failed.
    await Promise.race([imported.then(nothing, nothing), new Promise(setImmediate)]);
    if (isRefused) await work;
    return operations.find(group, id);
  }

  operations(groupName: string): OperationStatus[] {
    return this.#parts.operations.list(this.#parts.requireGroup(groupName));
  }

  operation(groupName: string, id: string): OperationStatus {
    return this.#parts.operations.find(this.#parts.requireGroup(groupName), id);
  }

  /** Waits for imports under way, which end early once their group closes. */
  async settled(): Promise<void> {
    await Promise.allSettled([...this.#imports]);
  }

  async #guarded<Result>(
    request: Parameters<UseGuard['hold']>[0],
    change: () => Promise<Result>,
  ): Promise<Result> {
    const hold = await this.#parts.guard.hold(request);
    try {
      return await change();
    } finally {
      await hold.release();
    }
  }

  #watchImport(group: GroupControl, target: string, file: string, work: Promise<unknown>): void {
    const { events, logger } = this.#parts;
    this.#imports.add(work);
    const tell = (type: string, message: string): void =>
      events.emit({ type, message, group: group.name, data: { export: target, file } });
    tell('import.started', `importing ${file} into ${target}`);
    work
      .then(
        () => tell('import.completed', `${file} is imported into ${target}`),
        (error: unknown) => {
          const reason = error instanceof Error ? error.message : String(error);
          logger.error({ err: error, export: target, file }, 'an import failed');
          tell('import.failed', `importing ${file} into ${target} failed: ${reason}`);
        },
      )
      .finally(() => this.#imports.delete(work));
  }

  #groupToChange(name: string): GroupControl {
    this.#parts.checkRunning();
    return this.#parts.requireGroup(name);
  }

  #statusById(group: GroupControl, id: string): SnapshotStatus {
    const snapshot = group.snapshots.find((each) => each.id === id);
    if (snapshot === undefined) throw new EngineError('not-found', 'the snapshot was deleted meanwhile');
    return this.#parts.statusOf(group, snapshot);
  }
}

function nothing(): void {
  // How it ended is asked of the operation.
}

function requireSnapshot(group: GroupControl, name: string): SnapshotView {
  const found = group.snapshots.find((snapshot) => snapshot.name === name);
  if (found !== undefined) return found;
  checkName('snapshot', name);
  throw new EngineError('not-found', `group ${group.name} has no snapshot ${name}`);
}

function requireVolume(group: GroupControl, name: string): ServedVolume {
  const found = group.volumes.get(name);
  if (found !== undefined) return found;
  throw new EngineError('not-found', `group ${group.name} has no volume ${JSON.stringify(name)}`);
}

function volumeOption(group: GroupControl, volume: string | undefined): { volume?: string } {
  if (volume === undefined) return {};
  requireVolume(group, volume);
  return { volume };
}

function exportsOfSnapshot(group: GroupControl, snapshotName: string): string[] {
  return [...group.volumes.keys()].map((volume) => exportNameOf(group.name, volume, snapshotName));
}

function planView(group: GroupControl, plan: RestorePlan): RestorePlanView {
  return {
    snapshot: plan.snapshot.name,
    lsn: plan.snapshot.lsn,
    volumes: plan.volumes.map(({ name, regions, bytes }) => ({ name, regions, bytes })),
    regions: plan.regions,
    bytes: plan.bytes,
    links: (group.links?.forecastRestore(plan) ?? []).map(({ note, refused, ...forecast }) => ({
      ...forecast,
      note: note ?? null,
      refused: refused ?? null,
    })),
  };
}
