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

const BLOCKING = { ...SMALL_LIMIT, mode: 'sync', onLost: 'block', limitBytes: 0 } as const;

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
    name: 'a sync link acknowledges what its secondary has received',
    rule: 'K4',
    cluster: true,
    edits: [
      edit(
        'link/acknowledgement.ts',
        "link.met(mode === 'sync' ? durableLsn : receivedLsn);",
        'link.met(receivedLsn);',
      ),
    ],
    prefer: { plan: { secondaries: [BLOCKING] } },
    maxRuns: 500,
  },
  {
    name: 'one of two links is enough',
    rule: 'K4',
    cluster: true,
    edits: [
      edit('link/acknowledgement.ts', 'least = Math.min(least, limitOf(link));', 'least = limitOf(link);'),
    ],
    prefer: { plan: { secondaries: [BLOCKING, SMALL_LIMIT] } },
    maxRuns: 500,
  },
  {
    name: 'a link that is lost holds nobody',
    rule: 'K4',
    cluster: true,
    edits: [
      edit(
        'link/acknowledgement.ts',
        "if (onLost === 'go-on' && whyNotInMode(of) !== undefined) return ALL;",
        'if (whyNotInMode(of) !== undefined) return ALL;',
      ),
    ],
    prefer: { plan: { secondaries: [BLOCKING] }, weights: { cut: 8 } },
    maxRuns: 500,
  },
  {
    name: 'a link counts as streaming while its secondary lacks regions',
    rule: 'K4',
    cluster: true,
    edits: [
      edit(
        'link/acknowledgement.ts',
        'return connection?.isStreaming === true && connection.peer?.needs === 0;',
        'return connection !== undefined;',
      ),
    ],
    prefer: { plan: { secondaries: [BLOCKING] }, weights: { check: 30, restore: 12, 'snapshot-write': 8 } },
    maxRuns: 3000,
  },
  {
    name: 'what is logged behind a restore counts before it is known whether the secondary lacks regions',
    rule: 'K4',
    cluster: true,
    edits: [
      edit(
        'link/link-state.ts',
        'Math.max(this.#metLsn, Math.min(lsn, this.openRestoreLsn ?? lsn))',
        'Math.max(this.#metLsn, lsn)',
      ),
    ],
    prefer: { plan: { secondaries: [BLOCKING] }, weights: { check: 30, restore: 12, 'snapshot-write': 8 } },
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
    name: 'readers of one that applies late see at once what a resync has brought',
    rule: 'K12',
    cluster: true,
    edits: [
      edit(
        'replica/resync.ts',
        'const keeps = resync !== null && applyDelaySeconds > 0;',
        'const keeps = false;',
      ),
    ],
    prefer: {
      plan: { secondaries: [{ ...SMALL_LIMIT, applyDelaySeconds: 1 }] },
      weights: { check: 30, pause: 5, resume: 5 },
    },
    maxRuns: 500,
  },
  {
    name: 'a secondary tells checksums of what it has now, and not of the image at the record',
    rule: 'K10',
    cluster: true,
    edits: [
      edit(
        'replica/verifying.ts',
        'return checksumsOf(this.#state, volume, layer, first, end, isOver);',
        'return checksumsOf(this.#state, volume, undefined, first, end, isOver);',
      ),
    ],
    prefer: { weights: { verify: 20, write: 60, freeze: 0 } },
    maxRuns: 1000,
  },
  {
    name: 'a snapshot that was refreshed is restored by reference from what it was before',
    rule: 'K10',
    cluster: true,
    edits: [
      edit('replica/names.ts', 'found?.imageId === snapshot.imageId', 'found !== undefined'),
      edit('replica/lacking.ts', 'found.imageId === (control.imageId ?? control.sourceId)', 'true'),
      edit(
        'replica/told-names.ts',
        '!there.has(identity(snapshot))',
        '!told.snapshots.some(({ id }) => id === snapshot.id)',
      ),
    ],
    prefer: {
      plan: { secondaries: [SMALL_LIMIT] },
      weights: { snapshot: 8, detach: 10, refresh: 8, restore: 10, pause: 5, resume: 5 },
    },
    maxRuns: 3000,
  },
  {
    name: 'a restore reads its source through a refresh that came after it',
    rule: 'T3',
    cluster: true,
    edits: [edit('snapshot/detached.ts', 'refresh.layer.lsn < atLsn && ', '')],
    prefer: {
      plan: { copyBytesPerSecond: 20_000 },
      weights: { snapshot: 8, detach: 10, refresh: 10, restore: 12 },
    },
    maxRuns: 3000,
  },
  {
    name: 'a refresh is an attached one where its snapshot is not detached yet',
    rule: 'S6',
    cluster: true,
    edits: [
      edit('replica/controls.ts', "return isDetached ? 'it was", "return snapshot.lsn < 0 ? 'it was"),
      // Else the next hand-over mends it.
      edit('replica/replica.ts', 'this.#admission.names.note(announced.named);', ''),
    ],
    prefer: {
      plan: { copyBytesPerSecond: 20_000 },
      weights: { snapshot: 8, detach: 10, refresh: 10, restore: 12 },
    },
    maxRuns: 3000,
  },
  {
    name: 'a deletion whose record is lost is not told',
    rule: 'S4',
    cluster: true,
    edits: [edit('replica/replica.ts', 'this.#admission.names.note(announced.named);', '')],
    prefer: { weights: { snapshot: 8, delete: 10, crash: 10, flush: 0 } },
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
