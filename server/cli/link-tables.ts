/** Links and replicas as people read them. */
import type { LinkStatus, ReplicaStatus } from '../control/link-schemas.ts';
import { formatSize } from '../sizes.ts';
import { type Column, formatTable } from './table.ts';

const COLUMNS: readonly Column[] = [
  { title: 'LINK' },
  { title: 'TO' },
  { title: 'MODE' },
  { title: 'STATE' },
  { title: 'LAG', align: 'right' },
  { title: 'SECONDS', align: 'right' },
  { title: 'MARKED', align: 'right' },
  { title: 'SHIPPED', align: 'right' },
  { title: 'RESYNCED', align: 'right' },
];

/** A table, and below it a line for each link that has more to say: why it is so, what it waits for, how long it takes. */
export function formatLinks(group: string, links: readonly LinkStatus[]): string {
  const rows = links.map((link) => [
    `${group}:${link.name}`,
    link.uri,
    link.mode,
    link.state,
    formatSize(link.lagBytes),
    link.lagSeconds.toFixed(1),
    String(link.dcmRegions),
    formatSize(link.bytesShipped),
    `${link.regionsResynced} (${formatSize(link.bytesResynced)})`,
  ]);
  const notes = links.flatMap((link) => {
    const said = notesOf(link);
    return said.length === 0 ? [] : [`link ${link.name}: ${said.join('; ')}`];
  });
  return [formatTable(COLUMNS, rows), ...notes].join('\n');
}

function notesOf(link: LinkStatus): string[] {
  const notes: string[] = [];
  if (link.reason !== null) notes.push(link.reason);
  if (link.waitsFor !== null) notes.push(`waits for ${link.waitsFor}`);
  if (link.lastRestore !== null) {
    const { lsn, path } = link.lastRestore;
    notes.push(
      path === 'pending'
        ? `the restore at LSN ${lsn} is on its way`
        : `the restore at LSN ${lsn} went ${path}`,
    );
  }
  return notes;
}

export function formatReplica(group: string, replica: ReplicaStatus): string {
  const from =
    replica.upstream === null
      ? 'has not met its primary'
      : `takes what link ${replica.upstream.link} sends${replica.connected ? '' : ', which is not connected'}`;
  const parts = [from, `shows LSN ${replica.horizonLsn}`];
  const above = replica.upstream?.path.length ?? 0;
  if (above > 0) parts.push(`is fed by a secondary, with ${above + 1} nodes above it`);
  if (replica.resyncing) parts.push('IS BEING RESYNCED: readers get the image from before');
  if (replica.needsRegions) parts.push('has asked for regions');
  if (replica.frozen) parts.push('is frozen');
  if (replica.applyDelaySeconds > 0) parts.push(`applies ${replica.applyDelaySeconds} s late`);
  if (replica.heldBack !== null) parts.push(`holds back: ${replica.heldBack}`);
  return `group ${group} ${parts.join('; ')}`;
}
