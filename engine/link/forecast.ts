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
}

export function forecastOf(link: Link, plan: RestorePlan, regionBytes: number): LinkForecast {
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

/** Whether the secondary has the snapshot's image, or will have it when it comes to the restore. */
function isHeld({ snapshot }: RestorePlan, peer: PeerState): boolean {
  const { id, imageId, lsn, local } = snapshot;
  const there = peer.snapshots.find((candidate) => candidate.id === id);
  if (there?.imageId === imageId) return true;
  // What it had not come to when it was asked last it will have; but nothing that lies inside a resync, and no refresh of what it lacks.
  if (local || peer.resyncing || lsn < peer.horizonLsn) return false;
  return there !== undefined || imageId === id;
}
