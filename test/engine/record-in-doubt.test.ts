/**
 * A write of the group's record that failed may be on the disk all the same. So before a file is made anew that this record may name, it is
 * written over with what holds: a power cut in the midst would leave a record that names what is not there.
 */
import t from 'tap';
import { GroupBench, REGION } from '../fixtures/group-bench.ts';

interface Case {
  /** The file that is made, the record that names it cannot be written, and it is made again. */
  readonly file: RegExp;
  /** What leads to that. */
  readonly act: (bench: GroupBench) => Promise<void>;
  /** What the volume shows in the end. */
  readonly fills: readonly number[];
}

const cases: Readonly<Record<string, Case>> = {
  'a store of what is preserved': {
    file: /\.preserved$/,
    act: (bench) => bench.write(0, 9),
    fills: [9, 2, 3, 4],
  },
  'a store of what is written through a snapshot': {
    file: /\.modified$/,
    act: async (bench) => {
      const write = () => bench.snapshot('s').write(Buffer.alloc(REGION), 0, REGION, 0);
      await write().catch(write);
    },
    fills: [1, 2, 3, 4],
  },
  'a store of a snapshot that is being detached': {
    file: /\.copied$/,
    act: (bench) => bench.group.detachSnapshot('s'),
    fills: [1, 2, 3, 4],
  },
  'the map of a snapshot that has been detached': {
    file: /\.changed-/,
    act: (bench) => bench.group.detachSnapshot('s'),
    fills: [1, 2, 3, 4],
  },
  'the maps of a refresh': {
    file: /\.refresh-/,
    act: async (bench) => {
      await bench.group.refreshSnapshot('detached');
    },
    fills: [1, 2, 3, 4],
  },
  'the map of a restore': {
    file: /^restores\//,
    act: async (bench) => {
      await bench.group.restore('s');
    },
    fills: [1, 2, 3, 4],
  },
};

/** Regions filled with 1 to 4; a detached snapshot of that, and one in the chain that is newer. */
async function make(): Promise<GroupBench> {
  const bench = await GroupBench.make({ regions: 4 });
  for (let region = 0; region < 4; region++) await bench.write(region, region + 1);
  await bench.group.createSnapshot('detached');
  await bench.group.detachSnapshot('detached');
  await bench.group.settled();
  await bench.group.createSnapshot('s');
  await bench.group.settled();
  return bench;
}

/** The first write of the record after a file was made fails, and is on the disk; the power goes when the file is made again. */
function failOnce(bench: GroupBench, file: RegExp): { readonly made: () => number } {
  let made = 0;
  let failed = false;
  let isCut = false;
  bench.watch((operation, name) => {
    if (operation === 'create' && file.test(name) && ++made === 2) {
      isCut = true;
      bench.folder.crash();
    }
    if (isCut) return 'EIO';
    if (failed || made === 0 || operation !== 'sync' || name !== 'group.record') return undefined;
    failed = true;
    bench.folder.media.get(name)?.versions.clear();
    return 'EIO';
  });
  return { made: () => made };
}

for (const [label, { file, act, fills }] of Object.entries(cases))
  t.test(`a record in doubt names ${label}`, async (t) => {
    const bench = await make();
    const { made } = failOnce(bench, file);
    act(bench).catch(() => {});
    await bench.pass(2500);
    t.equal(made(), 2, 'it is made anew');
    await bench.crash();
    t.same(await bench.fills(), fills);
    for (const name of ['s', 'detached']) t.same(await bench.fills(bench.snapshot(name)), [1, 2, 3, 4], name);
    await bench.group.settled();
    t.equal(bench.group.stall, undefined);
    t.same(await bench.fills(), fills);
    for (const name of ['s', 'detached']) t.same(await bench.fills(bench.snapshot(name)), [1, 2, 3, 4], name);
    await bench.group.close();
  });
