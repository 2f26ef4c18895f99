/** Bugs against rules of links, where several nodes are simulated. */
import { edit, type Mutant } from './mutant.ts';

const SMALL_LIMIT = {
  logBytes: 262_144,
  mode: 'async',
  onFull: 'dcm',
  limitBytes: 8192,
  rateBytesPerSecond: 0,
  joinsAt: 0,
  applyDelaySeconds: 0,
} as const;

/** A secondary of a secondary, with links that let go of the log soon. */
const CASCADE = {
  plan: { secondaries: [SMALL_LIMIT, { ...SMALL_LIMIT, feeder: 1 }] },
  weights: { pause: 5, resume: 5, check: 20 },
} as const;

export const LINK_MUTANTS: readonly Mutant[] = [
  {
    name: 'a link ships what is not durable on its primary',
    rule: 'K1',
    cluster: true,
    edits: [
      edit(
        'link/shipping.ts',
        'return Math.min(this.#state.log.durableLsn, this.#limitLsn);',
        'return Math.min(this.#state.log.writtenLsn, this.#limitLsn);',
      ),
    ],
    prefer: { weights: { crash: 8, flush: 0 } },
    maxRuns: 3000,
  },
  {
    name: 'writes are not marked while the log is not kept for a link',
    rule: 'K5',
    cluster: true,
    edits: [edit('link/link-state.ts', 'if (this.#logLsn !== null) return;\n    for', 'return;\n    for')],
    prefer: { plan: { secondaries: [SMALL_LIMIT] }, weights: { pause: 5, resume: 5 } },
    maxRuns: 2000,
  },
  {
    name: 'what is not shipped is forgotten when the log is let go of',
    rule: 'K6',
    cluster: true,
    edits: [edit('link/overflow.ts', 'for (const batch of batches) markBatch(state, link, batch);', '')],
    prefer: { plan: { secondaries: [SMALL_LIMIT] }, weights: { pause: 5, resume: 5 } },
    maxRuns: 3000,
  },
  {
    name: 'a round is released as complete though regions are left',
    rule: 'K7',
    cluster: true,
    edits: [
      edit('link/round.ts', 'await new Sender(parts, roundId, layer).run(link.dcm.beginRound());', ''),
      edit('link/round.ts', 'const complete = link.dcm.count === 0;', 'const complete = true;'),
    ],
    maxRuns: 500,
  },
  {
    name: 'readers of a secondary see regions that come out of order',
    rule: 'K9',
    cluster: true,
    edits: [edit('replica/resync.ts', 'this.#state.shownImage = await takeLayer(', 'await takeLayer(')],
    prefer: { plan: { secondaries: [SMALL_LIMIT] }, weights: { check: 30, pause: 5, resume: 5 } },
    maxRuns: 3000,
  },
  {
    name: 'regions that a secondary received are not marked for those whom it feeds',
    rule: 'K11',
    cluster: true,
    edits: [
      edit(
        'replica/resync.ts',
        'for (const tracker of state.trackers) tracker.noteReceived(volume.index, regions);',
        '',
      ),
    ],
    prefer: CASCADE,
    maxRuns: 1000,
  },
  {
    name: 'a node that is being resynchronised serves a resync',
    rule: 'K11',
    cluster: true,
    edits: [
      edit(
        'replica/cascade.ts',
        'return replicaOf(this.#parts.state).resync === null ? undefined : RESYNCING;',
        'return undefined;',
      ),
      edit('replica/admission.ts', 'this.stops.postpone(RESYNCING);', ''),
    ],
    prefer: CASCADE,
    maxRuns: 3000,
  },
  {
    name: 'a log that begins anew leaves the links that it feeds where they were',
    rule: 'K11',
    cluster: true,
    edits: [
      edit('replica/log-restart.ts', "await host.fed().letGo('the log of this node begins anew');", ''),
    ],
    prefer: CASCADE,
    maxRuns: 1000,
  },
];
