/** Bugs against the rules of restores: T1 to T3. T4 is about the kernel: test/kernel/snapshots.test.ts. */
import type { OperationName } from '../plan.ts';
import { edit, type Mutant } from './mutant.ts';

const RESTORES: readonly OperationName[] = [
  'write',
  'trim',
  'flush',
  'snapshot',
  'restore',
  'snapshot-read',
  'snapshot-write',
  'verify',
  'read',
  'settled',
  'idle',
];
const WITH_CRASHES: readonly OperationName[] = [...RESTORES, 'crash'];
const MATERIALISE = 'snapshot/materialise.ts';

export const RESTORE_MUTANTS: readonly Mutant[] = [
  {
    name: 'what a restore overwrites is not kept for older snapshots',
    rule: 'T1',
    edits: [
      edit(
        MATERIALISE,
        'await preserve(state, volume, regions, state.chain.nodes.indexOf(restore));',
        'void preserve;',
      ),
    ],
    ops: RESTORES,
    prefer: { trouble: false },
    maxRuns: 2000,
  },
  {
    // That it stops there, and does not look into newer layers, is no matter while rule T2 holds: they have none of its regions.
    name: 'an older snapshot reads through a restore',
    rule: 'T1',
    edits: [
      edit(
        'snapshot/chain.ts',
        'return this.#through(volumeIndex, region, start, {',
        'return this.#through(volumeIndex, region, this.nodes.length, {',
      ),
    ],
    ops: RESTORES,
    prefer: { plan: { copyBytesPerSecond: 1024 * 1024 }, weights: { restore: 10 }, trouble: false },
    maxRuns: 5000,
  },
  {
    name: 'the newest restore is materialised first',
    rule: 'T1',
    edits: [
      edit(
        MATERIALISE,
        'for (const restore of state.chain.restores) {',
        'for (const restore of [...state.chain.restores].reverse()) {',
      ),
      edit(
        'background.ts',
        'const [restore] = this.#state.chain.restores;',
        'const restore = this.#state.chain.restores.at(-1);',
      ),
    ],
    ops: RESTORES,
    prefer: { plan: { copyBytesPerSecond: 1024 * 1024 }, weights: { restore: 10 }, trouble: false },
    maxRuns: 5000,
  },
  {
    name: 'regions that a restore has to bring do not count as changed',
    rule: 'T1',
    edits: [
      edit(
        'snapshot/changes.ts',
        'restore.lsn >= above && restore.lsn < below',
        'restore.lsn < Math.min(above, below, 0)',
      ),
    ],
    ops: RESTORES,
    prefer: { weights: { restore: 10 }, trouble: false },
    maxRuns: 2000,
  },
  {
    name: 'the volume does not read through a restore',
    rule: 'T1',
    edits: [
      edit(
        'snapshot/chain.ts',
        'if (this.#restores.length === 0) return raw;',
        'if (before > 0) return raw;',
      ),
    ],
    ops: RESTORES,
    maxRuns: 1000,
  },
  {
    name: 'what is written over a region still to come is not materialised first',
    rule: 'T2',
    edits: [edit('log/unit.ts', 'await bringForward(state, volume, regions);', 'void bringForward;')],
    ops: RESTORES,
    prefer: { weights: { restore: 10 }, trouble: false },
    maxRuns: 5000,
  },
  {
    name: 'the bit of a region goes before the volume has it',
    rule: 'T3',
    edits: [
      edit(MATERIALISE, 'await state.syncVolumes();', ''),
      edit(
        MATERIALISE,
        'await changeMap(disk, () => durable.clear(regions));',
        'await changeMap(disk, () => durable.clear(regions));\n  await state.syncVolumes();',
      ),
    ],
    ops: WITH_CRASHES,
    prefer: { weights: { crash: 10, restore: 10 }, trouble: false },
    maxRuns: 10_000,
  },
  {
    name: 'a region of the source may be written while a restore reads it',
    rule: 'T3',
    edits: [
      edit(
        'snapshot/snapshot-volume.ts',
        'if (reads) await bringForward(this.#state, this.#volume, [region]);',
        'void reads;',
      ),
    ],
    ops: RESTORES,
    prefer: {
      plan: { copyBytesPerSecond: 1024 * 1024 },
      weights: { restore: 10, 'snapshot-write': 15 },
      trouble: false,
    },
    maxRuns: 5000,
  },
  {
    name: 'the source of a restore goes as soon as its name does',
    rule: 'T3',
    edits: [
      edit(
        'snapshot/chain.ts',
        'return this.recordedName !== null || this.users > 0;',
        'return this.recordedName !== null;',
      ),
    ],
    ops: [...RESTORES, 'delete'],
    prefer: {
      plan: { copyBytesPerSecond: 1024 * 1024 },
      weights: { restore: 10, delete: 8 },
      trouble: false,
    },
    maxRuns: 5000,
  },
  {
    // Where a store is concerned, whoever reads looks again and finds the copy; what is read from the log is read once.
    name: 'space of the log is freed while somebody reads there',
    rule: 'T3',
    edits: [edit('log/freeing.ts', 'await readers.drained();\n    await log.free', 'await log.free')],
    ops: ['write', 'snapshot', 'read', 'verify', 'crash', 'snapshot-read', 'idle'],
    prefer: {
      plan: {
        volumeSectors: [160, 160],
        logBytes: 256 * 1024,
        memoryBytes: 512 * 1024,
        traits: { tryRefusal: 1, tearing: 0.6, zeroesFast: true, lostAtFailedSync: 0 },
      },
      weights: { write: 60, crash: 8, read: 20 },
      wholeVolumes: 0.4,
      trouble: false,
    },
    maxRuns: 5000,
  },
  {
    name: 'a restore begins from what a power cut may still take',
    rule: 'T3',
    edits: [
      edit(
        'snapshots.ts',
        'for (const volume of this.#state.volumes) await this.#devices.of(snapshot, volume).flush();',
        '',
      ),
    ],
    ops: WITH_CRASHES,
    prefer: { weights: { crash: 10, restore: 10, 'snapshot-write': 15 }, trouble: false },
    maxRuns: 10_000,
  },
];
