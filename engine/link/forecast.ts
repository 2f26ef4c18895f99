/** Which way a restore would take to a secondary (Fig. 5). A forecast: the secondary decides when its applier stands at the record (rule K10). */
import type { RestorePlan } from '../snapshots.ts';
import type { Link } from './link.ts';

export interface LinkForecast {
  readonly link: string;
  readonly path: 'by reference' | 'by regions' | 'marked';
  /** What would travel beside the record, in bytes. */
  readonly bytes: number;
  readonly note: string | undefined;
}

/** The secondary has said that it holds the snapshot, and nothing beside the record has to travel. */
export function isCertain(link: Link, plan: RestorePlan, regionBytes: number): boolean {
  const isHeld = link.peer?.snapshots.some(({ id }) => id === plan.snapshot.id) === true;
  return isHeld && forecastOf(link, plan, regionBytes).path === 'by reference';
}

export function forecastOf(link: Link, plan: RestorePlan, regionBytes: number): LinkForecast {
  const forecast = pathOf(link, plan, regionBytes);
  const { mode, onLost } = link.link.settings;
  if (forecast.path === 'by reference' || mode === 'async') return forecast;
  const what =
    onLost === 'block'
      ? `writers are held until the resync is over: the link is not in mode ${mode} meanwhile, and blocks`
      : `writers go on during the resync: the link is not in mode ${mode} meanwhile`;
  return { ...forecast, note: forecast.note === undefined ? what : `${forecast.note}; ${what}` };
}

function pathOf(link: Link, plan: RestorePlan, regionBytes: number): LinkForecast {
  const { name } = link.link.settings;
  const { peer } = link;
  if (peer === undefined || link.link.logLsn === null)
    return {
      link: name,
      path: 'marked',
      bytes: plan.bytes,
      note: 'the secondary does not get the log now: the regions are noted, and follow when it does',
    };
  // What it had not come to when it was asked last, it will hold.
  const { id, lsn, local } = plan.snapshot;
  const isHeld = peer.snapshots.some((snapshot) => snapshot.id === id) || (!local && lsn >= peer.horizonLsn);
  if (!isHeld)
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
