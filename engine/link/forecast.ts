/** Which way a restore would take to a secondary (Fig. 5). A forecast: the secondary decides when its applier stands at the record (rule K10). */
import type { RestorePlan } from '../snapshots.ts';
import type { Link } from './link.ts';
import type { PeerState } from './peer.ts';

export interface LinkForecast {
  readonly link: string;
  readonly path: 'by reference' | 'by regions' | 'marked';
  /** What would travel beside the record, in bytes. */
  readonly bytes: number;
  readonly note: string | undefined;
  /** Why the restore is refused because of it, unless it is forced ([0079]), and what to do. */
  readonly refused: string | undefined;
}

type Path = Omit<LinkForecast, 'refused'>;

/** The secondary has said that it holds the snapshot, and nothing beside the record has to travel. */
export function isCertain(link: Link, plan: RestorePlan, regionBytes: number): boolean {
  const { id, imageId } = plan.snapshot;
  const isHeld = link.peer?.snapshots.some((there) => there.id === id && there.imageId === imageId) === true;
  return isHeld && pathOf(link, plan, regionBytes).path === 'by reference';
}

export function forecastOf(
  link: Link,
  plan: RestorePlan,
  regionBytes: number,
  groupName: string,
): LinkForecast {
  const path = pathOf(link, plan, regionBytes);
  const notes = [path.note, ...(path.path === 'by reference' ? [] : notesOf(link, groupName))];
  const note = notes.filter((one) => one !== undefined).join('; ');
  const refused = plan.regions === 0 ? undefined : refusalOf(link, path, groupName);
  return { ...path, note: note === '' ? undefined : note, refused };
}

/** What it means that regions have to be copied. */
function notesOf({ link }: Link, groupName: string): string[] {
  const { name, resync, mode, onLost } = link.settings;
  const notes = resync === 'manual' ? [`it waits for tidemark resync ${groupName} --link ${name}`] : [];
  if (mode === 'async') return notes;
  if (onLost === 'block')
    return [
      ...notes,
      `writers are held until the resync is over: the link is not in mode ${mode} meanwhile, and blocks`,
    ];
  return [...notes, `writers go on during the resync: the link is not in mode ${mode} meanwhile`];
}

function pathOf(link: Link, plan: RestorePlan, regionBytes: number): Path {
  const { name } = link.link.settings;
  const { peer } = link;
  if (peer === undefined || link.link.logLsn === null)
    return {
      link: name,
      path: 'marked',
      bytes: plan.bytes,
      note: 'the secondary does not get the log now: the regions are noted, and follow when it does',
    };
  if (!isHeld(plan, peer))
    return {
      link: name,
      path: 'by regions',
      bytes: plan.bytes,
      note: 'the secondary does not hold the snapshot',
    };
  const restored = new Set(plan.volumes.map((volume) => volume.name));
  const written = plan.snapshot.volumes
    .filter((volume) => restored.has(volume.name))
    .reduce((sum, { modifiedRegions }) => sum + modifiedRegions, 0);
  const note = written === 0 ? undefined : 'what was written through the snapshot here has to travel';
  return {
    link: name,
    path: written === 0 ? 'by reference' : 'by regions',
    bytes: written * regionBytes,
    note,
  };
}

/**
 * [0079]. One that is detached, or gets no log at all, is resynchronised anyway when it comes back; of one that is to get the log and cannot be asked
 * nobody knows what it would need.
 */
function refusalOf({ link, peer }: Link, { path, note }: Path, groupName: string): string | undefined {
  const { name, orderedOnly, wanted } = link.settings;
  if (path === 'by reference' || wanted === 'detached' || link.logLsn === null) return undefined;
  const detach = `detach it first (tidemark link detach ${groupName} ${name}), so that its secondary is resynchronised when it is resumed; or use --force`;
  if (orderedOnly) {
    const why = path === 'by regions' ? note : 'its secondary cannot be asked whether it holds the snapshot';
    return `it is set to ordered-only, and regions would have to be copied out of order, as ${why}: ${detach}`;
  }
  if (path === 'by regions' && peer?.isShort === true && !peer.resyncing)
    return `its secondary has no room to keep what its readers see while regions are copied: free space there, or ${detach}`;
  return undefined;
}

/** Whether the secondary has the snapshot's image, or will have it when it comes to the restore. */
function isHeld({ snapshot }: RestorePlan, peer: PeerState): boolean {
  const { id, imageId, lsn, local } = snapshot;
  const there = peer.snapshots.find((candidate) => candidate.id === id);
  if (there?.imageId === imageId) return true;
  // What it had not come to when it was asked last it will have; but nothing that lies inside a resync, and no refresh of what it lacks.
  if (local || peer.resyncing || lsn < peer.horizonLsn) return false;
  return there !== undefined || imageId === id;
}
