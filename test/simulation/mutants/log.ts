/** Bugs against the rules of the log: L1 to L12. */
import type { OperationName } from '../plan.ts';
import { edit, type Mutant } from './mutant.ts';

const DIRECT: readonly OperationName[] = [
  'write',
  'settle',
  'zero',
  'trim',
  'flush',
  'read',
  'verify',
  'wait',
  'crash',
  'reopen',
];
/** A group that logs, and what makes it forget. */
const LOGGED: readonly OperationName[] = ['write', 'flush', 'snapshot', 'verify', 'settled', 'crash', 'idle'];

const UNIT_CHOICE = 'log/unit-choice.ts';
const UNIT = 'log/unit.ts';
const BARRIER = 'log/barrier.ts';
const CHECKPOINTS = 'log/checkpoints.ts';

/** In the first round of the ring zeroes are written ahead, over what a torn end has left there: it is no more than quicker. */
const NOTHING_AHEAD = edit(
  'log/head.ts',
  'if (firstLsn !== undefined) this.#ahead',
  'if (firstLsn === -1) this.#ahead',
);

export const LOG_MUTANTS: readonly Mutant[] = [
  {
    name: 'a mark does not wait for its zone',
    rule: 'map 1',
    edits: [
      edit(
        'map/map-file.ts',
        'if (this.#active[zone] === 0) return this.#map.hasAll(first, end);',
        'if (zone < 0) return false;',
      ),
    ],
    ops: DIRECT,
    maxRuns: 2000,
  },
  {
    name: 'a zone is retired before its map is durable',
    rule: 'map 2',
    edits: [edit('map/map-file.ts', 'if (pages.length > 0) await this.#sync(forgiven);', '')],
    ops: DIRECT,
    maxRuns: 10_000,
  },
  {
    name: 'a batch is applied before it is durable',
    rule: 'L1',
    // Else what is logged is durable long before the applier comes to it.
    setting: [edit(UNIT_CHOICE, 'const PATIENCE_BYTES = 8 * MIB;', 'const PATIENCE_BYTES = 0;')],
    edits: [edit(UNIT_CHOICE, 'if (batch.lsn >= durableLsn) return', 'if (durableLsn < 0) return')],
    ops: LOGGED,
    prefer: { weights: { crash: 10 }, trouble: false },
    maxRuns: 5000,
  },
  {
    name: 'a look-up ignores the LSN of who looks',
    rule: 'L2',
    edits: [edit('log/pending-index.ts', 'isWithin(record.batch.lsn, lsns),', 'lsns.length > 0,')],
    maxRuns: 2000,
  },
  {
    name: 'pending records are not laid over what is read',
    rule: 'L2',
    edits: [
      edit(
        'snapshot/image-reader.ts',
        'const records = pending.inRegion(first, place.lsns, startBytes, stopBytes - startBytes);',
        'const records: readonly LogRecord[] = [];',
      ),
    ],
    maxRuns: 1000,
  },
  {
    name: 'pending regions do not count as changed',
    rule: 'L2',
    edits: [
      edit(
        'snapshot/changes.ts',
        'pendingSince(volume, image)) map.or(pending);',
        '[] as RegionMap[]) map.or(pending);',
      ),
    ],
    maxRuns: 2000,
  },
  {
    name: 'a region counts as changed no more once the first of its records is applied',
    rule: 'L2',
    edits: [
      edit(
        'log/pending-index.ts',
        '(next === undefined || next.batch.lsn > epoch.lastLsn)',
        'records.length > 0',
      ),
    ],
    maxRuns: 2000,
  },
  {
    name: 'a pending record is replaced by one beyond a snapshot',
    rule: 'L2',
    edits: [edit('log/pending-index.ts', 'newest.batch.lsn > this.#nodeLsn &&', '')],
    maxRuns: 2000,
  },
  {
    name: 'payload is let go of while somebody uses it',
    rule: 'L2',
    edits: [
      edit(
        'log/write-path.ts',
        'void readers.drained().then(() => log.forget(batch));',
        'log.forget(batch);',
      ),
    ],
    ops: ['write', 'read', 'snapshot', 'snapshot-read', 'verify', 'idle'],
    prefer: {
      plan: { volumeSectors: [160, 160], logBytes: 256 * 1024, memoryBytes: 64 * 1024 },
      weights: { write: 60 },
      wholeVolumes: 0.4,
      trouble: false,
    },
    maxRuns: 2000,
  },
  {
    name: 'the copier runs before the record of its restore is applied',
    rule: 'L3',
    edits: [
      edit(
        'background.ts',
        'if (restore === undefined || !restore.applied) return false;',
        `if (restore === undefined) return false;
    if (!restore.applied) {
      await this.#state.lane(async () => {
        if (restore.applied) return;
        for (const volume of this.#state.volumes) {
          for (const region of this.#nextRegions(restore, volume)) {
            const bytes = Buffer.alloc(this.#state.bytesOf(volume, region));
            const at = region * this.#state.regionBytes;
            await this.#state.reader.read(volume, restore.source, bytes, 0, bytes.length, at);
            await this.#state.markWritten(volume, region, region + 1);
            await volume.disk.write(bytes, 0, bytes.length, at);
            volume.unsynced = true;
            (restore.parts[volume.index] as any).toCome.clear(region);
          }
        }
      });
      return false;
    }`,
      ),
    ],
    maxRuns: 5000,
  },
  {
    name: 'a control record passes what the volumes have not on disk',
    rule: 'L3',
    edits: [edit(BARRIER, 'await state.syncVolumes();\n  // What was lost', '// What was lost')],
    ops: LOGGED,
    maxRuns: 5000,
  },
  {
    name: 'the checkpoint passes what the volumes have not on disk',
    rule: 'L3',
    edits: [
      edit(CHECKPOINTS, 'await this.#state.syncVolumes();\n    await this.#record(', 'await this.#record('),
    ],
    ops: LOGGED,
    maxRuns: 5000,
  },
  {
    name: 'direct writes are not awaited and synced before anything is applied',
    rule: 'L4',
    edits: [
      edit(
        'log/write-path.ts',
        'pause(synced.catch(() => {}));\n    await synced;',
        'void pause;\n    synced.catch(() => {});',
      ),
    ],
    ops: ['write', 'flush', 'snapshot', 'delete', 'verify', 'settled', 'crash'],
    maxRuns: 5000,
  },
  {
    name: 'a start in logged mode trusts what direct writes left in the page cache',
    rule: 'L4',
    edits: [edit('group-recovery.ts', 'for (const volume of state.volumes) await volume.disk.sync();', ';')],
    ops: ['write', 'snapshot', 'crash'],
    prefer: {
      cycle: ['write', 'write', 'snapshot', 'write', 'crash', 'snapshot', 'crash'],
      hurry: 4,
      trouble: false,
      plan: { volumeSectors: [32, 32] },
    },
    maxRuns: 20000,
  },
  {
    name: 'direct mode is entered over a log that is not empty',
    rule: 'L4',
    edits: [
      edit(
        'log/direct-entry.ts',
        'await state.lane(() => applier.checkpoint());\n  };\n  const isEmpty',
        '};\n  const isEmpty',
      ),
      edit('log/direct-entry.ts', '&& state.log.endLsn === state.checkpointLsn;', ';'),
    ],
    ops: ['write', 'flush', 'snapshot', 'delete', 'verify', 'settled', 'crash'],
    maxRuns: 5000,
  },
  {
    name: 'the chain of checksums is not looked at',
    rule: 'L5',
    setting: [NOTHING_AHEAD],
    edits: [edit('log/scan.ts', 'header.chain === this.#crc &&', '')],
    ops: ['write', 'snapshot', 'wait', 'crash'],
    prefer: {
      plan: { volumeSectors: [1], createCrashes: [] },
      cycle: ['snapshot', 'wait', 'crash', 'write', 'write', 'crash', 'write', 'crash'],
      wholeVolumes: 1,
      hurry: 0,
      trouble: false,
    },
    maxRuns: 5000,
  },
  {
    name: 'neither is the first header after a torn end spoiled, nor does the log say which opening wrote a batch',
    rule: 'L5',
    setting: [NOTHING_AHEAD],
    edits: [
      edit('log/recovery.ts', 'await spoilHeader(ring, endLsn);', ''),
      edit('log/batch-builder.ts', 'this.#sealer.run = run;', 'void run;'),
    ],
    // What follows the torn end counts again once the very bytes that were torn are written anew.
    prefer: {
      plan: { volumeSectors: [1], createCrashes: [] },
      cycle: ['snapshot', 'wait', 'crash', 'trim', 'write', 'crash', 'trim', 'crash'],
      wholeVolumes: 1,
      hurry: 0,
      trouble: false,
    },
    maxRuns: 5000,
  },
  {
    name: 'damage of what was durable passes for a torn end',
    rule: 'L5',
    edits: [
      edit(
        'log/recovery.ts',
        'if (durable !== undefined) throw gap(found.endLsn, durable);',
        'void durable;',
      ),
    ],
    ops: ['write', 'flush', 'snapshot', 'damage'],
    maxRuns: 2000,
  },
  {
    name: 'what a failed sync of a volume lost is not applied again',
    rule: 'L6',
    edits: [
      edit(
        'log/applier.ts',
        'state.onVolumeLost = () => this.#volumeLost();',
        'state.onVolumeLost = () => {};',
      ),
    ],
    ops: ['write', 'flush', 'snapshot', 'fault', 'verify', 'settled', 'crash', 'heal'],
    prefer: { trouble: true },
    maxRuns: 10_000,
  },
  {
    name: 'a failed sync of the log is tried again in hope',
    rule: 'L6',
    edits: [
      edit(
        'log/syncs.ts',
        'throw this.#hooks.failed(error);',
        'this.#disk.forgive();\n      return await this.#syncWritten();',
      ),
    ],
    ops: ['write', 'flush', 'snapshot', 'fault', 'verify', 'crash', 'heal'],
    prefer: { trouble: true },
    maxRuns: 10_000,
  },
  {
    name: 'a control record passes a sync that failed meanwhile',
    rule: 'L6',
    edits: [edit(BARRIER, 'if (losses !== state.volumeLosses) return;', 'void losses;')],
    ops: ['write', 'flush', 'snapshot', 'delete', 'fault', 'verify', 'idle', 'settled', 'crash', 'heal'],
    prefer: {
      trouble: true,
      weights: { fault: 6, crash: 6, heal: 4, snapshot: 12, delete: 8 },
      faults: [{ operation: 'sync', file: 'volume' }],
    },
    maxRuns: 10_000,
  },
  {
    name: 'a checkpoint passes a sync that failed meanwhile',
    rule: 'L6',
    edits: [edit(CHECKPOINTS, 'if (losses !== this.#state.volumeLosses ||', 'if (losses < 0 ||')],
    ops: ['write', 'flush', 'snapshot', 'fault', 'verify', 'idle', 'settled', 'crash', 'heal'],
    prefer: {
      trouble: true,
      weights: { fault: 6, crash: 6, heal: 4 },
      faults: [{ operation: 'sync', file: 'volume' }],
    },
    maxRuns: 10_000,
  },
  {
    name: 'log space is used again before the superblock that frees it is durable',
    rule: 'L7',
    edits: [
      edit('log/tail.ts', 'await this.#superblocks.write(state, sync);', ''),
      edit(
        'log/tail.ts',
        'this.#lsn = lsn;\n    this.#crc = crc;\n  }',
        'this.#lsn = lsn;\n    this.#crc = crc;\n    await this.#superblocks.write(state, sync);\n  }',
      ),
    ],
    ops: ['write', 'snapshot', 'flush', 'crash'],
    prefer: {
      plan: { volumeSectors: [160, 160], logBytes: 256 * 1024 },
      weights: { write: 80, crash: 6 },
      wholeVolumes: 0.4,
      trouble: false,
    },
    maxRuns: 10_000,
  },
  {
    name: 'no room is kept for control records',
    rule: 'L7',
    edits: [
      edit(
        'log/log.ts',
        '!this.#hasRoom(endLsn, reserveSectors)',
        '!this.#hasRoom(endLsn, 0 * reserveSectors)',
      ),
    ],
    ops: ['write', 'snapshot', 'restore', 'delete'],
    prefer: {
      plan: { volumeSectors: [160, 160], logBytes: 256 * 1024 },
      weights: { write: 80, snapshot: 20 },
      wholeVolumes: 0.4,
      trouble: false,
    },
    maxRuns: 10_000,
  },
  {
    name: 'a control record counts without its last part',
    rule: 'L8',
    setting: [
      edit(
        'log/batch-builder.ts',
        'const mostBytes = this.#limits.maxBatchBytes - BATCH_HEADER_BYTES;\n    const full',
        'const mostBytes = 96;\n    const full',
      ),
      edit(
        'log/batch-builder.ts',
        'full * sectorsOf(this.#limits.maxBatchBytes) +',
        'full * sectorsOf(BATCH_HEADER_BYTES + 96) +',
      ),
      edit(
        'log/batch-builder.ts',
        'const mostBytes = this.#limits.maxBatchBytes - BATCH_HEADER_BYTES;\n    const endLsn',
        'const mostBytes = 96;\n    const endLsn',
      ),
    ],
    edits: [
      edit(
        'log/scan.ts',
        'return { batches, endLsn: this.#span.lsn, endCrc: this.#span.crcBefore, durableLsn, torn: true };',
        'return { batches, endLsn: this.#lsn, endCrc: this.#crc, durableLsn, torn: true };',
      ),
    ],
    ops: ['write', 'snapshot', 'rename', 'restore', 'delete', 'flush', 'crash'],
    prefer: { weights: { crash: 10, snapshot: 15 }, trouble: false },
    maxRuns: 10_000,
  },
  {
    name: 'the log is never synced unasked',
    rule: 'L9',
    edits: [edit('log/syncs.ts', 'if (this.#isBehind()) this.start();\n    });', '});')],
    ops: ['write', 'snapshot', 'idle', 'settled'],
    maxRuns: 1000,
  },
  {
    name: 'the effect of a control record is durable before the checkpoint past it',
    rule: 'L10',
    edits: [
      edit(
        BARRIER,
        'await state.writeRecord(batch.endLsn);',
        'await state.writeRecord(state.checkpointLsn);\n    await state.writeRecord(batch.endLsn);',
      ),
    ],
    ops: ['write', 'snapshot', 'restore', 'refresh', 'delete', 'crash', 'verify'],
    prefer: { weights: { crash: 10 }, trouble: false },
    maxRuns: 5000,
  },
  {
    name: 'a unit leaves the pending index before it is written',
    rule: 'L10',
    edits: [
      edit(UNIT, 'queue.unitApplied(unit);', ''),
      edit(
        UNIT,
        'const pieces = await load(state, unit);\n',
        'const pieces = await load(state, unit);\n    queue.unitApplied(unit);\n',
      ),
    ],
    ops: ['write', 'read', 'snapshot', 'snapshot-read', 'verify', 'flush', 'idle'],
    maxRuns: 5000,
  },
  {
    name: 'a region of zeroes leaves what its place in the store held before',
    rule: 'L11',
    edits: [
      edit(
        'snapshot/region-copy.ts',
        'if (isZero(content)) await store.punch(offsetBytes, content.length);',
        'if (isZero(content)) return;',
      ),
    ],
    ops: ['write', 'trim', 'snapshot', 'detach', 'refresh', 'settled', 'verify', 'snapshot-read'],
    prefer: { plan: { volumeSectors: [32] }, weights: { trim: 20, detach: 6, refresh: 12 }, trouble: false },
    maxRuns: 10_000,
  },
  {
    name: 'a logged trim is not applied',
    rule: 'L11',
    edits: [
      edit(
        UNIT,
        'if (mayPunch) await volume.disk.punch(offsetBytes, lengthBytes);',
        'if (mayPunch) return true;',
      ),
    ],
    maxRuns: 1000,
  },
  {
    name: 'a full log drops a write',
    rule: 'L12',
    edits: [
      edit(
        'log/write-path.ts',
        'this.#notice.waits();\n        }',
        'if (!this.#held) return true;\n        }',
      ),
    ],
    ops: ['write', 'read', 'snapshot', 'verify'],
    maxRuns: 2000,
  },
  {
    name: 'writers that wait for the log are never woken',
    rule: 'L12',
    edits: [
      edit('log/write-path.ts', 'state.log.onRoom = () => this.wake();', 'state.log.onRoom = () => {};'),
    ],
    ops: ['write', 'read', 'snapshot', 'verify'],
    maxRuns: 2000,
  },
];
