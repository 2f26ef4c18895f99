/** Bugs against the rules of snapshots: S1 to S8. */
import { edit, type Mutant } from './mutant.ts';

const PRESERVE = 'snapshot/preserve.ts';
const SNAPSHOT_VOLUME = 'snapshot/snapshot-volume.ts';

export const SNAPSHOT_MUTANTS: readonly Mutant[] = [
  {
    name: 'nothing is preserved',
    rule: 'S1',
    edits: [edit('log/unit.ts', 'await preserve(state, volume, regions);', 'void preserve;')],
    maxRuns: 1000,
  },
  {
    name: 'the bits of a store before its copies',
    rule: 'S1',
    edits: [
      edit(
        PRESERVE,
        'await syncStore(store);\n  await addRegions(store, missing);',
        'await addRegions(store, missing);\n  await syncStore(store);',
      ),
    ],
    ops: ['write', 'flush', 'snapshot', 'crash', 'verify', 'idle'],
    prefer: { weights: { crash: 10 }, trouble: false },
    maxRuns: 10_000,
  },
  {
    name: 'a bit counts before it is durable',
    rule: 'S1',
    edits: [
      edit(
        'map/durable-map.ts',
        'await this.#write(group.first, group.end, group.runs, on);\n      await this.#disk.sync();',
        'await this.#write(group.first, group.end, group.runs, on);',
      ),
    ],
    ops: ['write', 'flush', 'snapshot', 'crash', 'verify', 'idle'],
    prefer: { weights: { crash: 10 }, trouble: false },
    maxRuns: 10_000,
  },
  {
    name: 'a reader does not look again',
    rule: 'S2',
    edits: [
      edit(
        'snapshot/image-reader.ts',
        'if (!samePlace(piece.place, this.#chain.locate(volume.index, region, view))) return false;',
        'if (region < 0) return false;',
      ),
    ],
    ops: ['write', 'flush', 'snapshot', 'snapshot-read', 'restore', 'verify', 'read', 'idle'],
    prefer: { trouble: false },
    maxRuns: 10_000,
  },
  {
    name: 'the rest of a region is not copied up',
    rule: 'S3',
    edits: [
      edit(
        SNAPSHOT_VOLUME,
        'const content = await readRegion(this.#state, this.#volume, snapshot, region);',
        'void readRegion;\n    const content = Buffer.alloc(this.#state.bytesOf(this.#volume, region));',
      ),
    ],
    maxRuns: 1000,
  },
  {
    name: 'a write through a snapshot changes its image',
    rule: 'S3',
    edits: [
      edit(
        SNAPSHOT_VOLUME,
        `const store = await storeOf(this.#state, snapshot.id, part, this.#volume, 'modified');\n`,
        `const kept = (part as any).preserved;
    const store = kept?.map.has(region) ? kept : await storeOf(this.#state, snapshot.id, part, this.#volume, 'modified');\n`,
      ),
    ],
    ops: ['write', 'snapshot', 'snapshot-write', 'snapshot-read', 'verify', 'idle'],
    maxRuns: 5000,
  },
  {
    name: 'a deletion is told before it is durable',
    rule: 'S4',
    edits: [
      edit(
        'snapshots.ts',
        'await this.#state.writeRecord(this.#state.checkpointLsn);',
        'await Promise.resolve();',
      ),
    ],
    ops: ['write', 'snapshot', 'delete', 'crash', 'idle'],
    prefer: { weights: { crash: 8, delete: 8 }, trouble: false },
    maxRuns: 2000,
  },
  {
    name: 'a deletion before the record of the snapshot is applied does not hold',
    rule: 'S4',
    edits: [
      edit(
        'snapshot/control-effects.ts',
        'const given = this.#state.voided.delete(id);',
        'const given = this.#state.voided.delete(id) && false;',
      ),
      edit(
        'snapshot/control-effects.ts',
        'const name = voided.has(identity.id) ? null : identity.name;',
        'const { name } = identity; void voided;',
      ),
    ],
    ops: ['write', 'snapshot', 'delete', 'crash'],
    prefer: { weights: { crash: 8, delete: 12, snapshot: 12 }, trouble: false },
    maxRuns: 5000,
  },
  {
    name: 'the janitor clears its own bit before the older one is there',
    rule: 'S4',
    edits: [
      edit(
        'snapshot/janitor.ts',
        'await syncStore(target);\n    await addRegions(target, missing);',
        'await store.remove(regions);\n    await syncStore(target);\n    await addRegions(target, missing);',
      ),
    ],
    ops: ['write', 'snapshot', 'delete', 'snapshot-read', 'crash', 'verify', 'idle'],
    prefer: { weights: { crash: 8, delete: 8 }, trouble: false },
    maxRuns: 10_000,
  },
  {
    name: 'a layer that has lost its name does not move what older ones read',
    rule: 'S4',
    edits: [
      edit(
        'snapshot/janitor.ts',
        'await eachRegion(state, missing, (region) => move(state, volume, store, target, region));',
        '',
      ),
    ],
    ops: ['write', 'snapshot', 'delete', 'snapshot-read', 'verify', 'idle'],
    prefer: { trouble: false },
    maxRuns: 2000,
  },
  {
    name: 'a snapshot takes room before it is applied',
    rule: 'S5',
    edits: [
      edit(
        'snapshot/control-effects.ts',
        "case 'snapshot':\n        return this.#applyLayer",
        `case 'snapshot':
        for (const volume of this.#state.volumes) {
          const part = this.byId(control.id)?.parts[volume.index] as any;
          if (part !== undefined) part.preserved ??= await this.#state.createStore(control.id, volume, 'preserved');
        }
        return this.#applyLayer`,
      ),
    ],
    ops: ['write', 'flush', 'snapshot', 'when-full', 'settled'],
    maxRuns: 1000,
  },
  {
    name: 'a refresh forgets what was written through the snapshot',
    rule: 'S6',
    edits: [
      edit(
        'snapshot/refresh.ts',
        'const toCome = restorationMap(state, volume, snapshot);',
        'const toCome = changedSince(state, volume, snapshot);',
      ),
      edit('snapshot/refresh.ts', 'import { restorationMap }', 'import { changedSince }'),
    ],
    ops: ['write', 'snapshot', 'detach', 'refresh', 'snapshot-write', 'settled', 'verify'],
    prefer: { weights: { detach: 5, refresh: 8 }, trouble: false },
    maxRuns: 5000,
  },
  {
    name: 'a detached snapshot does not know what changed before',
    rule: 'S6',
    edits: [
      edit(
        'snapshot/detach.ts',
        'const runs = changedSince(state, volume, layer).runs();',
        'const runs: never[] = [];',
      ),
    ],
    ops: ['write', 'snapshot', 'detach', 'restore', 'settled', 'verify', 'wait'],
    prefer: { weights: { detach: 5 }, trouble: false },
    maxRuns: 2000,
  },
  {
    name: 'what changes is not noted for a detached snapshot',
    rule: 'S6',
    edits: [
      edit(
        'log/unit.ts',
        'for (const tracker of state.trackers) tracker.noteChanged(volume.index, regions);',
        '',
      ),
    ],
    ops: ['write', 'snapshot', 'detach', 'restore', 'settled', 'verify', 'wait', 'idle'],
    prefer: { weights: { detach: 5 }, trouble: false },
    maxRuns: 2000,
  },
  {
    name: 'the map of a detached snapshot is not durable before the checkpoint',
    rule: 'S6',
    edits: [edit('group.ts', 'for (const tracker of this.#state.trackers) await tracker.flush();', '')],
    ops: ['write', 'snapshot', 'detach', 'settled', 'verify', 'wait', 'crash', 'idle'],
    prefer: { weights: { detach: 5, crash: 8 }, trouble: false },
    maxRuns: 5000,
  },
  {
    name: 'a snapshot is known by its name alone',
    rule: 'S7',
    edits: [
      edit(
        'snapshots.ts',
        'const id = this.#state.newId();\n      const local',
        "const id = '00000000-0000-4000-8000-' + Buffer.from(name.padEnd(6)).toString('hex').slice(0, 12);\n      const local",
      ),
    ],
    ops: ['write', 'snapshot', 'delete', 'snapshot-write', 'snapshot-read', 'verify', 'crash'],
    prefer: { weights: { delete: 8, snapshot: 10 }, trouble: false },
    maxRuns: 5000,
  },
  {
    name: 'that a snapshot is local is forgotten',
    rule: 'S7',
    edits: [edit('group-state.ts', 'local: node.local,', 'local: false,')],
    ops: ['write', 'snapshot', 'settled', 'crash', 'reopen'],
    prefer: { trouble: false },
    maxRuns: 1000,
  },
  {
    name: 'a full disk takes snapshots where writers are to be held',
    rule: 'S8',
    edits: [edit('giving-up.ts', "if (this.#state.record.onFull === 'hold') return false;", '')],
    ops: ['write', 'flush', 'snapshot', 'space', 'settled', 'verify', 'heal', 'idle'],
    prefer: { plan: { onFull: 'hold' }, trouble: true },
    maxRuns: 5000,
  },
  {
    name: 'the newest snapshot is given up first',
    rule: 'S8',
    edits: [edit('snapshots.ts', 'candidates.find(isUndo) ?? candidates[0]', 'candidates.at(-1)')],
    ops: ['write', 'flush', 'snapshot', 'restore', 'space', 'settled', 'verify', 'heal', 'idle'],
    prefer: { plan: { onFull: 'give-up' }, weights: { space: 4 }, trouble: true },
    maxRuns: 5000,
  },
  {
    name: 'nothing is given up, and writers wait for ever',
    rule: 'S8',
    edits: [edit('giving-up.ts', 'if (!(await this.#snapshots.giveUpOne())) return false;', 'return false;')],
    ops: ['write', 'flush', 'snapshot', 'space', 'wait'],
    prefer: {
      plan: { onFull: 'give-up', volumeSectors: [160, 160], logBytes: 256 * 1024 },
      weights: { space: 4, write: 60, wait: 8 },
      wholeVolumes: 0.3,
      trouble: true,
    },
    maxRuns: 5000,
  },
];
