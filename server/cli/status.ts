import type { Command } from 'commander';
import type { ControlClient } from '../control/client.ts';
import type { GroupStatus, NodeStatus, VolumeStatus } from '../control/schemas.ts';
import { formatSize } from '../sizes.ts';
import { groupArgument, periodArgument } from './arguments.ts';
import { formatProgress } from './follow.ts';
import { formatLinks, formatReplica } from './link-tables.ts';
import { type NodeFlags, type Output, withNode, withNodeFlags } from './session.ts';
import { formatSnapshots } from './snapshot.ts';
import { type Column, formatTable } from './table.ts';
import { interruptible, watch } from './watch.ts';

interface StatusFlags extends NodeFlags {
  readonly json?: boolean;
  /** In seconds; true: as often as it is done unless told. */
  readonly watch?: number | true;
}

const WATCH_PERIOD_SECONDS = 1;
/** ANSI: cursor to the top left, and everything behind it cleared. */
const CLEAR_SCREEN = '\u001b[H\u001b[J';

export function addStatus(program: Command, output: Output): void {
  const command = program
    .command('status')
    .description('show the node, its groups, volumes and snapshots')
    .argument('[group]', 'only this group', groupArgument)
    .option('--json', 'as JSON')
    .option('--watch [seconds]', 'again every second, or so often, until interrupted', periodArgument);
  withNodeFlags(command).action((group: string | undefined, flags: StatusFlags) =>
    withNode(flags, async (client) => {
      const isWatched = flags.watch !== undefined;
      const show = async (): Promise<void> => {
        const found = await readStatus(client, group);
        const text = flags.json === true ? formatJson(found, isWatched) : formatStatus(found);
        if (isWatched && output.isTerminal) output.raw(CLEAR_SCREEN);
        // A block each time, and a line each time of JSON.
        output.line(isWatched && !output.isTerminal && flags.json !== true ? `${text}\n` : text);
      };
      const seconds = flags.watch === true ? WATCH_PERIOD_SECONDS : flags.watch;
      if (seconds === undefined) await show();
      else await interruptible((interrupted) => watch(show, seconds * 1000, interrupted));
    }),
  );
}

/** The status of the node, reduced to one group when that is asked for; the node refuses a group that it has not. */
async function readStatus(client: ControlClient, group: string | undefined): Promise<NodeStatus> {
  if (group !== undefined) await client.group(group);
  const status = await client.status();
  if (group === undefined) return status;
  const concerns = (exportName: string): boolean => exportName.startsWith(`${group}/`);
  return {
    ...status,
    groups: status.groups.filter((found) => found.name === group),
    sessions: status.sessions.filter((session) => concerns(session.exportName)),
    devices: status.devices.filter((device) => concerns(device.export)),
  };
}

function formatJson(status: NodeStatus, oneLine: boolean): string {
  return oneLine ? JSON.stringify(status) : JSON.stringify(status, null, 2);
}

const VOLUME_COLUMNS: readonly Column[] = [
  { title: 'VOLUME' },
  { title: 'ROLE' },
  { title: 'SIZE', align: 'right' },
  { title: 'REGION', align: 'right' },
  { title: 'WRITTEN', align: 'right' },
  { title: 'REGIONS', align: 'right' },
  { title: 'SESSIONS', align: 'right' },
  { title: 'DEVICE' },
  { title: 'STATE' },
];

export function formatStatus(status: NodeStatus): string {
  const { node } = status;
  const head = [
    `node ${node.id}, tidemark ${node.version}, pid ${node.pid}, since ${node.startedAt}`,
    ...node.listen.map((uri) => `listening at ${uri}`),
    ...(node.advertise === null ? [] : [`advertised as ${node.advertise}`]),
  ].join('\n');
  if (status.groups.length === 0)
    return `${head}\n\nno groups; make one with: tidemark create GROUP --volume NAME:SIZE`;
  const rows = status.groups.flatMap((group) => group.volumes.map((volume) => volumeRow(group, volume)));
  const groups = status.groups.filter((group) => group.state === 'open').map(formatGroup);
  const failed = status.groups.filter((group) => group.state === 'failed');
  const parts = [
    head,
    ...(rows.length === 0 ? [] : [formatTable(VOLUME_COLUMNS, rows)]),
    ...groups.filter((text) => text !== ''),
    ...failed.map((group) => `group ${group.name} FAILED: ${group.reason ?? 'for no known reason'}`),
    ...(status.sessions.length === 0 ? [] : [formatSessions(status)]),
  ];
  return parts.join('\n\n');
}

/** What there is to say of a group beside its volumes; nothing of one that has volumes only. */
function formatGroup(group: GroupStatus): string {
  const lines: string[] = [];
  if (group.failure !== null) lines.push(`group ${group.name} TAKES NO MORE WRITES: ${group.failure}`);
  if (group.stall !== null) lines.push(`group ${group.name} IS HELD UP: ${group.stall}`);
  if (group.mode === 'logged' && group.log !== null) {
    const { used, size, pending, endLsn, durableLsn, appliedLsn } = group.log;
    lines.push(
      `group ${group.name} logs: ${formatSize(used)} of ${formatSize(size)} used, ${formatSize(pending)} pending; ` +
        `LSN end ${endLsn}, durable ${durableLsn}, applied ${appliedLsn}`,
    );
  }
  lines.push(...group.operations.map((operation) => `group ${group.name}: ${formatProgress(operation)}`));
  if (group.replica !== null) lines.push(formatReplica(group.name, group.replica));
  if (group.links.length > 0) lines.push(formatLinks(group.name, group.links));
  if (group.snapshots.length > 0) lines.push(formatSnapshots(group.name, group.snapshots));
  return lines.join('\n');
}

function volumeRow(group: GroupStatus, volume: VolumeStatus): string[] {
  // The last region may be short, so that all regions can be a little more than the volume.
  const writtenBytes = Math.min(volume.writtenRegions * volume.regionSize, volume.size);
  return [
    volume.export,
    group.role ?? '-',
    formatSize(volume.size),
    formatSize(volume.regionSize),
    formatSize(writtenBytes),
    `${volume.writtenRegions}/${volume.totalRegions}`,
    String(volume.sessions),
    volume.devices.join(',') || '-',
    stateOf(volume),
  ];
}

function stateOf(volume: VolumeStatus): string {
  if (volume.failure !== null) return `FAILED: ${volume.failure}`;
  return volume.readOnly ? 'read-only' : 'ok';
}

const SESSION_COLUMNS: readonly Column[] = [
  { title: 'SESSION' },
  { title: 'EXPORT' },
  { title: 'PEER' },
  { title: 'SINCE' },
  { title: 'READ', align: 'right' },
  { title: 'WRITTEN', align: 'right' },
  { title: 'REQUESTS', align: 'right' },
  { title: 'IN FLIGHT', align: 'right' },
];

function formatSessions(status: NodeStatus): string {
  const rows = status.sessions.map((session) => [
    String(session.id),
    session.exportName +
      (session.readOnly ? ' (read-only)' : '') +
      (session.kernelDevice ? ' (device)' : '') +
      (session.link === null ? '' : ` (link ${session.link})`),
    session.peer,
    session.since,
    formatSize(session.bytesRead),
    formatSize(session.bytesWritten),
    String(session.requests),
    String(session.inFlight),
  ]);
  return formatTable(SESSION_COLUMNS, rows);
}
