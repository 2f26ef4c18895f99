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
  { title: 'RECORDS', align: 'right' },
  { title: 'SECONDS', align: 'right' },
  { title: 'MARKED', align: 'right' },
  { title: 'SHIPPED', align: 'right' },
  { title: 'RESYNCED', align: 'right' },
  { title: 'RATE', align: 'right' },
  { title: 'LEFT', align: 'right' },
];

/** A table, and below it a line for each link that has more to say: why it is so, what it waits for, how long it takes. */
export function formatLinks(group: string, links: readonly LinkStatus[]): string {
  const rows = links.map((link) => [
    `${group}:${link.name}`,
    link.uri,
    link.mode,
    link.state,
    formatSize(link.lagBytes),
    link.lagRecords === null ? '-' : String(link.lagRecords),
    link.lagSeconds.toFixed(1),
    String(link.dcmRegions),
    formatSize(link.bytesShipped),
    `${link.regionsResynced} (${formatSize(link.bytesResynced)})`,
    formatRate(link.dcmRegions > 0 ? link.resyncedBytesPerSecond : link.shippedBytesPerSecond),
    formatTime(link.secondsLeft),
  ]);
  const notes = links.flatMap((link) => {
    const said = notesOf(link);
    return said.length === 0 ? [] : [`link ${link.name}: ${said.join('; ')}`];
  });
  return [formatTable(COLUMNS, rows), ...notes].join('\n');
}

function formatRate(bytesPerSecond: number | null): string {
  return bytesPerSecond === null ? '-' : `${formatSize(Math.round(bytesPerSecond))}/s`;
}

/** `42 s`, `3 min`, `2.5 h`. */
function formatTime(seconds: number | null): string {
  if (seconds === null) return '-';
  if (seconds < 120) return `${Math.ceil(seconds)} s`;
  if (seconds < 7200) return `${Math.ceil(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

function notesOf(link: LinkStatus): string[] {
  const notes: string[] = [];
  if (link.reason !== null) notes.push(link.reason);
  if (!link.inMode) notes.push(modeNote(link));
  if (link.waitsFor !== null) notes.push(`waits for ${link.waitsFor}`);
  if (link.lastRestore !== null) {
    const { lsn, path } = link.lastRestore;
    notes.push(
      path === 'pending'
        ? `the restore at LSN ${lsn} is on its way`
        : `the restore at LSN ${lsn} went ${path}`,
    );
  }
  if (link.resync === 'manual') notes.push('it is resynced by hand');
  if (link.orderedOnly) notes.push('it takes restores in the order of the log only');
  return notes;
}

/** What its policy does meanwhile. */
function modeNote(link: LinkStatus): string {
  const why = `NOT IN MODE ${link.mode}: ${link.notInModeBecause ?? 'for no known reason'}`;
  if (link.onLost === 'go-on') return `${why}, and writers go on as if it were async`;
  const { heldRequests, heldSeconds } = link;
  const since = heldRequests === 0 ? 'none wait' : `${heldRequests} wait, for ${heldSeconds.toFixed(1)} s`;
  return `${why}, and WRITERS ARE HELD (${since})`;
}

export function formatReplica(group: string, replica: ReplicaStatus): string {
  const { upstream, shows } = replica;
  const from =
    upstream === null
      ? 'has not met its primary'
      : `takes what link ${upstream.link} of member ${upstream.memberId} sends${replica.connected ? '' : ', which is not connected'}`;
  const parts = [from, formatShown(shows)];
  parts.push(
    `LSN end ${replica.endLsn}, durable ${replica.durableLsn}, horizon ${replica.horizonLsn}, applied ${replica.appliedLsn}`,
  );
  const above = upstream?.path.length ?? 0;
  if (above > 0) parts.push(`is fed by a secondary, with ${above + 1} nodes above it`);
  if (replica.resyncing)
    parts.push(
      `IS BEING RESYNCED: ${replica.regionsReceived} regions, ${formatSize(replica.bytesReceived)} have come`,
    );
  if (replica.needsRegions) parts.push('has asked for regions');
  if (replica.frozen) parts.push('is frozen');
  if (replica.applyDelaySeconds > 0) parts.push(`applies ${replica.applyDelaySeconds} s late`);
  if (replica.heldBack !== null) parts.push(`holds back: ${replica.heldBack}`);
  return `group ${group} ${parts.join('; ')}`;
}

function formatShown({ image, lsn, until }: ReplicaStatus['shows']): string {
  const end = until === null ? '' : ` until ${until}`;
  switch (image) {
    case 'volumes':
      return `shows LSN ${lsn}`;
    case 'guard':
      return `shows the image from before the resync, LSN ${lsn},${end === '' ? ' until it is complete' : end}`;
    case 'nothing':
      return `shows nothing yet${end}`;
  }
}
