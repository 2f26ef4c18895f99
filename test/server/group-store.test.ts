import { existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { FileFolder } from '../../engine/disk/file-folder.ts';
import type { VolumeSpec } from '../../engine/group-spec.ts';
import { DEFAULT_GROUP_LIMITS } from '../../server/config.ts';
import { EventLog } from '../../server/events.ts';
import { GroupStore } from '../../server/group-store.ts';
import { silentLogger } from '../../server/logger.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';

function makeStore(state: string): GroupStore {
  const openFolder = (path: string): Promise<FileFolder> => FileFolder.open(path);
  const clock = new ManualClock();
  const path = join(state, 'groups');
  const logger = silentLogger();
  const groupLimits = DEFAULT_GROUP_LIMITS;
  return new GroupStore({ path, clock, events: new EventLog(), logger, openFolder, groupLimits });
}

t.test('a volume cannot keep its data inside the state folder', async (t) => {
  const root = t.testdir({ state: { groups: {} }, elsewhere: {}, 'state-too': {} });
  const state = join(root, 'state');
  const store = makeStore(state);
  const create = (name: string, volume: Partial<VolumeSpec>) =>
    store.create({ name, regionBytes: 65536, volumes: [{ name: 'v', sizeBytes: 512, ...volume }] });
  await create('other', {});
  writeFileSync(join(state, 'existing.img'), Buffer.alloc(512));
  const link = (name: string, to: string): string => {
    symlinkSync(to, join(root, 'elsewhere', name));
    return join(root, 'elsewhere', name);
  };
  const inside = [
    join(state, 'groups/other/volumes/mine.img'),
    join(state, 'mine.img'),
    join(state, 'existing.img'),
    join(state, 'groups/new/mine.img'),
    join(state, 'groups/new/volumes/mine.img'),
    join(root, 'elsewhere', '..', 'state', 'mine.img'),
    link('file', join(state, 'existing.img')),
    join(link('folder', join(state, 'groups/other')), 'mine.img'),
    join(link('up', root), 'state', 'mine.img'),
    state,
  ];
  for (const file of inside) {
    const message = /volume v: .* inside the state folder .* name a file elsewhere/;
    await t.rejects(create('new', { file }), { code: 'invalid', message }, file);
    t.equal(existsSync(join(state, 'groups/new')), false, 'and nothing is left');
  }
  // It leads into the folder that is made for the group itself.
  const later = join(link('later', join(state, 'groups/new/volumes')), 'mine.img');
  await t.rejects(create('new', { file: later }), { code: 'invalid', message: /leads nowhere/ });

  await create('own', { file: join(root, 'elsewhere', 'mine.img') });
  await create('beside', { file: join(root, 'state-too', 'mine.img') });
  await create('stranger', { file: join(link('out', join(root, 'state-too')), 'too.img') });
  mkdirSync(join(root, 'elsewhere', 'deep'));
  await create('back', { file: join(link('down', join(state, 'groups')), '..', 'deep', 'mine.img') });
  t.ok(existsSync(join(root, 'elsewhere', 'deep', 'mine.img')), 'where it is made, it was looked for');
  await store.delete('own');
  t.ok(existsSync(join(root, 'elsewhere', 'mine.img')), 'a file outside outlives its group');
  await store.close();
});
