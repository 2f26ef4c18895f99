import type { Command } from 'commander';
import type { SnapshotStatus } from '../control/snapshot-schemas.ts';
import { groupArgument, type SnapshotArgument, snapshotArgument, snapshotNameArgument } from './arguments.ts';
import { follow } from './follow.ts';
import { type NodeFlags, type Output, withNode, withNodeFlags } from './session.ts';
import { type Column, formatTable } from './table.ts';

interface LocalFlags extends NodeFlags {
  readonly local?: boolean;
}

interface ForceFlags extends NodeFlags {
  readonly force?: boolean;
}

interface WaitFlags extends NodeFlags {
  readonly wait?: boolean;
}

interface ListFlags extends NodeFlags {
  readonly json?: boolean;
}

const SNAPSHOT = '<GROUP@NAME>';

export function addSnapshot(program: Command, output: Output): void {
  const snapshot = program
    .command('snapshot')
    .description('take, list, change and delete snapshots of a group');
  addCreate(snapshot, output);
  addDelete(snapshot, output);
  addRename(snapshot, output);
  addRefresh(snapshot, output);
  addDetach(snapshot, output);
  addList(snapshot, output);
}

function addCreate(parent: Command, output: Output): void {
  const command = parent
    .command('create')
    .description('take a snapshot of all volumes of a group, at one point in time')
    .argument(SNAPSHOT, 'the group, and a name', snapshotArgument)
    .option('--local', 'on this node only');
  withNodeFlags(command).action(({ group, snapshot }: SnapshotArgument, flags: LocalFlags) =>
    withNode(flags, async (client) => {
      const local = flags.local === true;
      const taken = await client.createSnapshot(group, { name: snapshot, ...(local ? { local } : {}) });
      output.line(`created ${group}@${taken.name}`);
    }),
  );
}

function addDelete(parent: Command, output: Output): void {
  const command = parent
    .command('delete')
    .description('delete a snapshot that nobody uses')
    .argument(SNAPSHOT, 'the snapshot', snapshotArgument)
    .option('--force', 'end the sessions and kernel devices that use it');
  withNodeFlags(command).action(({ group, snapshot }: SnapshotArgument, flags: ForceFlags) =>
    withNode(flags, async (client) => {
      await client.deleteSnapshot(group, snapshot, flags.force === true);
      output.line(`deleted ${group}@${snapshot}`);
    }),
  );
}

function addRename(parent: Command, output: Output): void {
  const command = parent
    .command('rename')
    .description('give a snapshot another name; the undo snapshot is kept by giving it one')
    .argument(SNAPSHOT, 'the snapshot', snapshotArgument)
    .argument('<new>', 'its new name', snapshotNameArgument);
  withNodeFlags(command).action(({ group, snapshot }: SnapshotArgument, name: string, flags: NodeFlags) =>
    withNode(flags, async (client) => {
      await client.renameSnapshot(group, snapshot, name);
      output.line(`renamed ${group}@${snapshot} to ${group}@${name}`);
    }),
  );
}

function addRefresh(parent: Command, output: Output): void {
  const command = parent
    .command('refresh')
    .description('move a snapshot to now')
    .argument(SNAPSHOT, 'the snapshot', snapshotArgument)
    .option('--force', 'also one that was written, or is in use: its sessions and kernel devices are ended');
  withNodeFlags(command).action(({ group, snapshot }: SnapshotArgument, flags: ForceFlags) =>
    withNode(flags, async (client) => {
      await client.refreshSnapshot(group, snapshot, flags.force === true);
      output.line(`refreshed ${group}@${snapshot}`);
    }),
  );
}

function addDetach(parent: Command, output: Output): void {
  const command = parent
    .command('detach')
    .description('make a full copy of a snapshot, that needs its volume no longer')
    .argument(SNAPSHOT, 'the snapshot', snapshotArgument)
    .option('--wait', 'until it is done');
  withNodeFlags(command).action(({ group, snapshot }: SnapshotArgument, flags: WaitFlags) =>
    withNode(flags, async (client) => {
      const operation = await client.detachSnapshot(group, snapshot);
      if (flags.wait !== true && operation.state === 'running') {
        output.line(`detaching ${group}@${snapshot} in the background, operation ${operation.id}`);
        return;
      }
      await follow(client, group, operation, output);
      output.line(`detached ${group}@${snapshot}`);
    }),
  );
}

function addList(parent: Command, output: Output): void {
  const command = parent
    .command('list')
    .description('list the snapshots of a group, oldest first')
    .argument('<group>', 'its name', groupArgument)
    .option('--json', 'as JSON');
  withNodeFlags(command).action((group: string, flags: ListFlags) =>
    withNode(flags, async (client) => {
      const snapshots = await client.snapshots(group);
      if (flags.json === true) output.line(JSON.stringify({ snapshots }, null, 2));
      else
        output.line(snapshots.length === 0 ? `${group} has no snapshots` : formatSnapshots(group, snapshots));
    }),
  );
}

const COLUMNS: readonly Column[] = [
  { title: 'SNAPSHOT' },
  { title: 'LSN', align: 'right' },
  { title: 'CREATED' },
  { title: 'PRESERVED', align: 'right' },
  { title: 'MODIFIED', align: 'right' },
  { title: 'STATE' },
];

/** Regions are those of all volumes together. */
export function formatSnapshots(group: string, snapshots: readonly SnapshotStatus[]): string {
  const rows = snapshots.map((snapshot) => {
    const sum = (field: 'preservedRegions' | 'modifiedRegions'): string =>
      String(snapshot.volumes.reduce((total, volume) => total + volume[field], 0));
    return [
      `${group}@${snapshot.name}`,
      String(snapshot.lsn),
      snapshot.createdAt,
      sum('preservedRegions'),
      sum('modifiedRegions'),
      [
        snapshot.state,
        ...(snapshot.local ? ['local'] : []),
        ...(snapshot.undoOf === null ? [] : [`undoes a restore of ${snapshot.undoOf.join(', ')}`]),
      ].join(', '),
    ];
  });
  return formatTable(COLUMNS, rows);
}
