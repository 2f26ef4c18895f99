/**
 * How a group closes: requests end, then changes, then the background; what is logged is applied and made durable, as far as that goes; then files are
 * closed, whatever failed before.
 */
import type { Background } from './background.ts';
import type { Condition } from './condition.ts';
import { EngineError } from './errors.ts';
import type { OpenGroup } from './group-files.ts';
import { closeState } from './group-recovery.ts';
import type { GroupState } from './group-state.ts';
import type { Links } from './link/links.ts';
import type { Applier } from './log/applier.ts';
import type { WritePath } from './log/write-path.ts';
import type { Replica } from './replica/replica.ts';
import type { Snapshots } from './snapshots.ts';
import type { Volume } from './volume.ts';

export interface ClosingGroup {
  readonly state: GroupState;
  readonly opened: OpenGroup;
  readonly volumes: ReadonlyMap<string, Volume>;
  readonly path: WritePath;
  readonly snapshots: Snapshots;
  readonly background: Background;
  readonly applier: Applier;
  readonly replica: Replica | undefined;
  readonly links: Links;
  /** Told whatever `isWorking` depends on. */
  readonly changes: Condition;
  /** Whether what is logged can be applied. */
  readonly isWorking: () => boolean;
}

/** Runs what may fail; what it throws is kept, and the next step comes all the same. */
type Step = (run: () => Promise<unknown>) => Promise<void>;

/** Rejects with the first error, after everything is closed. */
export async function closeGroup(group: ClosingGroup): Promise<void> {
  const { state, opened, volumes } = group;
  const errors: unknown[] = [];
  const step: Step = async (run) => {
    await run().catch((error: unknown) => errors.push(error));
  };
  const failedBefore = new Set([...volumes.values()].filter((volume) => volume.failure !== undefined));
  await endRequests(group);
  await step(async () => group.replica?.close());
  await step(() => group.snapshots.close());
  await step(() => group.links.close());
  await group.background.close();
  await applyRest(group, step);
  const { failure } = state.log;
  if (failure !== undefined) errors.push(failure);
  for (const volume of volumes.values())
    if (volume.failure !== undefined && !failedBefore.has(volume))
      errors.push(new EngineError('unavailable', volume.failure, { errno: 'EIO' }));
  await step(() => state.space.close());
  await step(() => closeState(state));
  await step(async () => group.replica?.closeFiles());
  await step(() => state.log.close());
  await step(() => closeVolumes(opened));
  await step(() => opened.file.close());
  if (errors.length > 0) throw errors[0];
}

/** What is in flight may wait for the log: it is applied, or refused. */
async function endRequests({ state, volumes, path, changes, isWorking }: ClosingGroup): Promise<void> {
  state.acknowledgement.close();
  const idle = Promise.all([...volumes.values()].map((volume) => volume.close()));
  let isIdle = false;
  void idle.then(() => {
    isIdle = true;
    changes.changed();
  });
  await changes.until(() => isIdle || !isWorking());
  if (!isIdle) path.close();
  await idle;
  changes.changed();
  path.close();
}

/** All that was written is in the volumes and durable then, with a checkpoint and an empty log, unless something refuses. */
async function applyRest(group: ClosingGroup, step: Step): Promise<void> {
  const { state, volumes, applier, changes, isWorking } = group;
  if (isWorking()) await step(() => state.log.sync());
  applier.hurry();
  await changes.until(() => applier.isCaughtUp || !isWorking());
  await applier.close();
  if (!isWorking()) return;
  // What was written directly, too.
  for (const volume of state.volumes) {
    if (volumes.get(volume.name)?.failure === undefined) await step(() => volume.disk.sync());
  }
  await step(() => state.lane(() => applier.checkpoint()));
  await step(() => applier.freeLog());
}

/** Closes volumes and maps. */
async function closeVolumes(opened: OpenGroup): Promise<void> {
  const errors: unknown[] = [];
  for (const { map, disk } of opened.parts) {
    await map.close().catch((error: unknown) => errors.push(error));
    await disk.close().catch((error: unknown) => errors.push(error));
  }
  if (errors.length > 0) throw errors[0];
}

/** Closes all parts of a group that could not be opened. The log's disk closes with the log, or here. */
export async function closeParts(opened: OpenGroup): Promise<void> {
  await opened.logDisk.close().catch(() => {});
  await closeVolumes(opened).catch(() => {});
  await opened.file.close().catch(() => {});
}
