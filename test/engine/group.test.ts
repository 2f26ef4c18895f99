import { readdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { FileFolder } from '../../engine/disk/file-folder.ts';
import { EngineError } from '../../engine/errors.ts';
import { GROUP_RECORD_SLOT_BYTES } from '../../engine/formats.ts';
import { Group } from '../../engine/group.ts';
import type { GroupSpec } from '../../engine/group-spec.ts';
import { GIB, KIB, MIB, TIB } from '../../engine/units.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { MemoryFolder, type MemoryOperation } from '../fixtures/memory-disk.ts';
import { Random } from '../fixtures/random.ts';

const spec: GroupSpec = {
  name: 'g',
  regionBytes: 64 * KIB,
  volumes: [
    { name: 'own', sizeBytes: 1 * MIB },
    { name: 'theirs', file: '/outside/existing' },
    { name: 'new', file: '/outside/new', sizeBytes: 3 * 512 },
  ],
};
const clock = new ManualClock();

async function folderWithFile(seed = 1): Promise<MemoryFolder> {
  const folder = new MemoryFolder(new Random(seed));
  const outside = await folder.create('/outside/existing', 2 * MIB);
  await outside.write(Buffer.from('precious'), 0, 8, 0);
  await outside.sync();
  await outside.close();
  return folder;
}

const files = (folder: MemoryFolder): string[] => [...folder.media.keys()].sort();

async function precious(folder: MemoryFolder): Promise<boolean> {
  const disk = await folder.open('/outside/existing');
  const bytes = Buffer.alloc(8);
  await disk.read(bytes, 0, 8, 0);
  await disk.close();
  return bytes.toString() === 'precious';
}

t.test('a group is made, closed, opened, and removed', async (t) => {
  const folder = await folderWithFile();
  const group = await Group.create(folder, spec, clock);
  t.same(files(folder), [
    '/outside/existing',
    '/outside/new',
    'group.record',
    'log.ring',
    'maps/new.map',
    'maps/own.map',
    'maps/theirs.map',
    'volumes/own.img',
  ]);
  await t.rejects(Group.open(folder, clock), { code: 'in-use' });
  await t.rejects(Group.destroy(folder), { code: 'in-use' });
  await group.close();
  await t.rejects(Group.create(folder, spec, clock), { code: 'exists' });
  const again = await Group.open(folder, clock);
  t.same([again.name, again.id, again.role, again.createdAt], ['g', group.id, 'primary', group.createdAt]);
  t.same(
    [...again.volumes.values()].map((volume) => [volume.name, volume.sizeBytes, volume.written.count]),
    [
      ['own', 1 * MIB, 0],
      ['theirs', 2 * MIB, 32],
      ['new', 3 * 512, 0],
    ],
  );
  t.same(again.warnings, []);
  await again.close();
  await Group.destroy(folder);
  t.same(files(folder), ['/outside/existing', '/outside/new'], "the user's files stay");
  await t.rejects(Group.open(folder, clock), { code: 'not-found' });
});

t.test('what can never be right is refused, and nothing is touched', async (t) => {
  const size = 1 * MIB;
  const one = (volume: GroupSpec['volumes'][number]): GroupSpec => ({ ...spec, volumes: [volume] });
  const cases: [GroupSpec, string, RegExp][] = [
    [{ ...spec, name: '../x' }, 'invalid', /cannot name a group/],
    [{ ...spec, name: 'x'.repeat(300) }, 'invalid', /…/],
    [{ ...spec, volumes: [] }, 'invalid', /at least one volume/],
    [{ ...spec, regionBytes: 3000 }, 'invalid', /power of two/],
    [{ ...spec, regionBytes: 2048 }, 'invalid', /power of two/],
    [{ ...spec, regionBytes: 64 * MIB }, 'invalid', /power of two/],
    [{ ...spec, regionBytes: Number.NaN }, 'invalid', /power of two/],
    [one({ name: 'a/b', sizeBytes: size }), 'invalid', /cannot name a volume/],
    [one({ name: 'v' }), 'invalid', /needs a size/],
    [one({ name: 'v', sizeBytes: 0 }), 'invalid', /cannot be/],
    [one({ name: 'v', sizeBytes: 1000 }), 'invalid', /multiple of 512/],
    [one({ name: 'v', sizeBytes: 1.5 }), 'invalid', /cannot be/],
    [one({ name: 'v', sizeBytes: 5000 * TIB }), 'invalid', /above the limit/],
    [{ ...one({ name: 'v', sizeBytes: 4000 * TIB }), regionBytes: 4 * KIB }, 'invalid', /larger regions/],
    [one({ name: 'v', file: 'relative', sizeBytes: size }), 'invalid', /absolute/],
    [one({ name: 'v', file: '/nul\0', sizeBytes: size }), 'invalid', /absolute/],
    [one({ name: 'v', file: '/missing' }), 'not-found', /give a size/],
    [one({ name: 'v', file: '/outside/existing', sizeBytes: 1 * GIB }), 'invalid', /less than/],
    [one({ name: 'v', file: '/outside/odd' }), 'invalid', /multiple of 512/],
    [{ ...spec, logBytes: 0 }, 'invalid', /cannot be/],
    [{ ...spec, logBytes: Number.NaN }, 'invalid', /cannot be/],
    [{ ...spec, logBytes: 1 * MIB + 512 }, 'invalid', /multiple of 4096/],
    [{ ...spec, logBytes: 2 ** 53 - 4096 }, 'invalid', /above the limit/],
    [{ ...spec, logBytes: 252 * KIB }, 'invalid', /too small.*262144 bytes would do/],
    [{ ...spec, logFile: 'relative' }, 'invalid', /log: .*absolute/],
    [{ ...spec, logFile: '/outside/./new' }, 'invalid', /volume new and the log name the same file/],
    [{ ...spec, logFile: '/outside/existing' }, 'invalid', /volume theirs and the log/],
    [{ ...spec, logFile: '/outside/odd' }, 'exists', /holds something.*dd if=/],
    [{ ...spec, logFile: '/outside/blank' }, 'invalid', /too small.*262144 bytes would do/],
    [{ ...spec, logFile: '/outside/blank', logBytes: 1 * MIB }, 'invalid', /blank has 4096 bytes, less than/],
    [{ ...spec, onFull: 'shrug' as 'hold' }, 'invalid', /no policy/],
  ];
  const folder = await folderWithFile();
  const odd = await folder.create('/outside/odd', 1000);
  await odd.write(Buffer.from([1]), 0, 1, 999);
  await odd.close();
  await (await folder.create('/outside/blank', 4096)).close();
  const before = files(folder);
  for (const [bad, code, message] of cases) {
    await t.rejects(Group.create(folder, bad, clock), { code, message });
    t.same(files(folder), before, message.source);
  }
  const twice = { name: 'v', sizeBytes: size };
  await t.rejects(Group.create(folder, { ...spec, volumes: [twice, twice] }, clock), { code: 'invalid' });
  const many = Array.from({ length: 65 }, (_, i) => ({ name: `v${i}`, sizeBytes: size }));
  await t.rejects(Group.create(folder, { ...spec, volumes: many }, clock), { code: 'invalid' });
  const same = ['a', 'b'].map((name) => ({ name, file: '/outside/existing' }));
  await t.rejects(Group.create(folder, { ...spec, volumes: same }, clock), {
    code: 'invalid',
    message: /volumes a and b name the same file/,
  });
  const again = [
    { name: 'a', file: '/outside/fresh', sizeBytes: size },
    { name: 'b', file: '/outside/../outside//fresh', sizeBytes: size },
  ];
  await t.rejects(Group.create(folder, { ...spec, volumes: again }, clock), { code: 'invalid' });
  t.same(files(folder), before);
  t.ok(await precious(folder), 'and its locks are given back');
});

t.test('one new file under two names is told as that', async (t) => {
  const real = t.testdir({ a: {} });
  symlinkSync(join(real, 'a'), join(real, 'b'));
  const folder = await FileFolder.open(join(real, 'group'));
  const volumes = ['a', 'b'].map((name) => ({ name, sizeBytes: 512, file: join(real, name, 'x') }));
  const attempt = Group.create(folder, { ...spec, volumes }, clock);
  await t.rejects(attempt, { code: 'exists', message: /volume b: .*made just now.*name another file/ });
  t.same([readdirSync(join(real, 'a')), await folder.list()], [[], []], 'nothing is left');
  const nowhere = [{ name: 'a', file: join(real, 'none', 'x') }];
  const missing = Group.create(folder, { ...spec, volumes: nowhere }, clock);
  await t.rejects(missing, { code: 'not-found', message: /the folder .*none does not exist/ });
});

/** Runs `action` with the nth disk operation failing or, when `crash`, with the power going at it. */
async function withFaultAt(
  folder: MemoryFolder,
  nth: number,
  crash: boolean,
  action: () => Promise<unknown>,
) {
  let count = 0;
  folder.faults.decide = (operation: MemoryOperation) => {
    if (operation === 'read' || ++count !== nth) return undefined;
    if (crash) folder.crash();
    return 'ENOSPC';
  };
  const error = await action().then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  folder.faults.decide = undefined;
  return { error, reached: count >= nth };
}

t.test('create is all or nothing, whichever operation fails', async (t) => {
  for (let nth = 1; ; nth++) {
    const folder = await folderWithFile(nth);
    const before = files(folder);
    const { error, reached } = await withFaultAt(folder, nth, false, () => Group.create(folder, spec, clock));
    if (!reached) {
      t.ok(nth > 15, `${nth - 1} operations failed in turn`);
      break;
    }
    t.ok(error instanceof EngineError && error.errno === 'ENOSPC', `operation ${nth}: the error is told`);
    t.same(files(folder), before, `operation ${nth}: nothing is left`);
    await (await Group.create(folder, spec, clock)).close();
  }
});

t.test('so it is with a log in a file of the user, which is blank again then', async (t) => {
  const small: GroupSpec = {
    ...spec,
    volumes: [{ name: 'own', sizeBytes: 1 * MIB }],
    logFile: '/outside/log',
    logBytes: 512 * KIB,
  };
  for (let nth = 1, reached = true; reached; nth++) {
    const folder = new MemoryFolder(new Random(nth));
    await (await folder.create('/outside/log', 1 * MIB)).close();
    const fault = await withFaultAt(folder, nth, false, () => Group.create(folder, small, clock));
    reached = fault.reached;
    if (!reached) continue;
    t.match(fault.error, { errno: 'ENOSPC' });
    t.same(files(folder), ['/outside/log'], `operation ${nth}: nothing is left`);
    await (await Group.create(folder, small, clock)).close();
  }
});

t.test('what cannot be undone either keeps its record, and goes at the next try', async (t) => {
  for (const kept of ['maps/own.map', 'volumes/own.img', '/outside/new', 'log.ring']) {
    for (let nth = 1, reached = true; reached; nth++) {
      const folder = await folderWithFile(nth);
      let count = 0;
      folder.faults.decide = (operation, name) => {
        if (operation === 'remove' && name === kept) return 'EIO';
        return operation !== 'read' && operation !== 'remove' && ++count === nth ? 'ENOSPC' : undefined;
      };
      const made = await Group.create(folder, spec, clock).catch((error: unknown) => error);
      reached = count >= nth;
      folder.faults.decide = undefined;
      if (made instanceof Group) await made.close();
      else {
        const left = files(folder).filter((name) => !name.startsWith('/'));
        t.ok(left.length === 0 || left.includes('group.record'), `${kept} ${nth}: left are ${left}`);
        await t.rejects(Group.open(folder, clock), { code: 'not-found' }, `${kept} ${nth}`);
        t.same(
          files(folder).filter((name) => !name.startsWith('/')),
          [],
        );
        await (await Group.create(folder, spec, clock)).close();
      }
    }
  }
});

t.test(
  'create is all or nothing, when an operation fails and the power goes while it is undone',
  async (t) => {
    for (let nth = 1, reached = true; reached; nth++) {
      for (let more = 1; more < 20; more++) {
        const folder = await folderWithFile(nth * 100 + more);
        let count = 0;
        folder.faults.decide = (operation) => {
          if (operation !== 'read') count++;
          if (operation !== 'read' && count === nth + more) folder.crash();
          return operation !== 'read' && (count === nth || count >= nth + more) ? 'EIO' : undefined;
        };
        const made = await Group.create(folder, spec, clock).catch((error: unknown) => error);
        folder.faults.decide = undefined;
        reached = count >= nth;
        folder.crash();
        if (made instanceof Group) break;
        const opened = await Group.open(folder, clock).catch((error: unknown) => error);
        if (opened instanceof Group) await opened.close();
        else
          t.match(
            opened,
            { code: 'not-found', message: /there is no group|never finished/ },
            `${nth} ${more}`,
          );
        if (count < nth + more) break;
      }
    }
  },
);

t.test('create is all or nothing, whenever the power goes', async (t) => {
  for (let nth = 1; nth < 200; nth++) {
    const folder = await folderWithFile(nth);
    const { reached } = await withFaultAt(folder, nth, true, () => Group.create(folder, spec, clock));
    if (!reached) break;
    folder.crash();
    // Either it is whole, or opening says that it is not there; then it can be made again.
    const opened = await Group.open(folder, clock).catch((error: unknown) => error);
    if (opened instanceof Group) {
      t.equal(opened.volumes.size, 3);
      await opened.close();
    } else {
      t.match(opened, { code: 'not-found' }, `operation ${nth}`);
      t.same(
        files(folder).filter((name) => !name.startsWith('/')),
        [],
        `operation ${nth}: nothing is left`,
      );
      await (await Group.create(folder, spec, clock)).close();
    }
    t.ok(await precious(folder), `operation ${nth}: the user's file is as it was`);
  }
});

t.test('a removal cut short is finished by whoever comes next', async (t) => {
  for (let nth = 1; nth < 50; nth++) {
    const folder = await folderWithFile(nth);
    await (await Group.create(folder, spec, clock)).close();
    const { reached } = await withFaultAt(folder, nth, true, () => Group.destroy(folder));
    if (!reached) break;
    folder.crash();
    const opened = await Group.open(folder, clock).catch(() => undefined);
    if (opened instanceof Group) await opened.close();
    else await (await Group.create(folder, spec, clock)).close();
    t.ok(await precious(folder), `operation ${nth}`);
  }
});

async function spoilRecord(folder: MemoryFolder, offsets: number[]): Promise<void> {
  const disk = await folder.open('group.record');
  for (const at of offsets) await disk.write(Buffer.from([0xff]), 0, 1, at);
  await disk.sync();
  await disk.close();
}

t.test('a group whose record is damaged is never taken for none', async (t) => {
  const folder = await folderWithFile();
  await (await Group.create(folder, spec, clock)).close();
  const before = files(folder);
  await spoilRecord(folder, [50, GROUP_RECORD_SLOT_BYTES + 50]);
  await t.rejects(Group.open(folder, clock), { code: 'corrupt', message: /without an intact record/ });
  await t.rejects(Group.create(folder, spec, clock), { code: 'corrupt' });
  await t.rejects(Group.destroy(folder), { code: 'corrupt' });
  t.same(files(folder), before, 'and its data is not touched');
  await folder.remove('group.record');
  await t.rejects(Group.create(folder, spec, clock), { code: 'corrupt' });
});

t.test('a volume whose files do not fit is refused, and the rest is closed', async (t) => {
  const folder = await folderWithFile();
  await (await Group.create(folder, spec, clock)).close();
  const data = folder.media.get('/outside/existing');
  if (data === undefined) throw new Error('no file');
  data.sizeBytes = 1 * MIB;
  for (let i = 0; i < 2; i++)
    await t.rejects(Group.open(folder, clock), {
      code: 'corrupt',
      message: /theirs.*\/outside\/existing, has 1048576 bytes.*truncate/,
    });
  data.sizeBytes = 8 * MIB;
  const larger = await Group.open(folder, clock);
  t.equal(larger.volumes.get('theirs')?.sizeBytes, 2 * MIB, 'a file that grew changes nothing');
  await larger.close();
  await folder.remove('maps/own.map');
  await t.rejects(Group.open(folder, clock), { code: 'not-found' });
});
