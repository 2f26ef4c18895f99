import t from 'tap';
import { GroupCommit } from '../../engine/disk/group-commit.ts';
import { SharedRun } from '../../engine/shared-run.ts';
import { Random } from '../fixtures/random.ts';

/** A sync that ends when the test says so. */
class HeldSync {
  begun = 0;
  #end: ((error?: Error) => void) | undefined;

  readonly run = (): Promise<void> => {
    this.begun++;
    return new Promise((resolve, reject) => {
      this.#end = (error) => (error === undefined ? resolve() : reject(error));
    });
  };

  end(error?: Error): void {
    this.#end?.(error);
  }
}

const turns = async (): Promise<void> => {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
};

t.test('one at a time; those who come meanwhile share the next', async (t) => {
  const held = new HeldSync();
  const commit = new GroupCommit('disk', held.run);
  const done: string[] = [];
  const wait = (name: string) => commit.commit().then(() => done.push(name));
  const all = [wait('a')];
  await turns();
  all.push(wait('b'), wait('c'));
  await turns();
  t.equal(held.begun, 1);
  t.same(done, []);
  held.end();
  await turns();
  t.same(done, ['a'], 'b and c came after it began');
  t.equal(held.begun, 2);
  all.push(wait('d'));
  held.end();
  await turns();
  t.same(done, ['a', 'b', 'c']);
  t.equal(held.begun, 3);
  held.end();
  await Promise.all(all);
  t.equal(held.begun, 3);
  all.push(wait('e'));
  await turns();
  t.equal(held.begun, 4, 'and it starts anew from rest');
  held.end();
  await Promise.all(all);
});

t.test('L6: a failed sync is never repeated', async (t) => {
  const held = new HeldSync();
  const commit = new GroupCommit('/data/v.img', held.run);
  const first = commit.commit();
  await turns();
  const second = commit.commit();
  held.end(Object.assign(new Error('no'), { code: 'ENOSPC' }));
  const told = { code: 'disk', errno: 'ENOSPC', message: /\/data\/v\.img: a sync failed \(ENOSPC\)/ };
  await t.rejects(first, told);
  await t.rejects(second, told, 'neither for those who waited');
  await t.rejects(commit.commit(), told, 'nor for those who come later');
  t.equal(held.begun, 1);
  t.match(commit.failure, told);
});

t.test('every caller gets a run that began after its call', async (t) => {
  for (let seed = 1; seed <= 30; seed++) {
    const random = new Random(seed);
    let began = 0;
    let running = 0;
    const shared = new SharedRun(async () => {
      began++;
      running++;
      if (running > 1) throw new Error('two at a time');
      for (let n = random.below(6); n > 0; n--) await Promise.resolve();
      running--;
      if (random.chance(0.2)) throw new Error('refused');
    });
    let ended = 0;
    const caller = async (): Promise<void> => {
      for (let i = 0; i < 10; i++) {
        for (let n = random.below(8); n > 0; n--) await Promise.resolve();
        const before = began;
        await shared.join().catch((error: Error) => {
          if (error.message !== 'refused') throw error;
        });
        if (began <= before) throw new Error(`seed ${seed}: joined a run that had begun`);
        ended++;
      }
    };
    await Promise.all([caller(), caller(), caller()]);
    t.equal(ended, 30);
  }
});

t.test('L6: who writes everything again may ask for a sync again', async (t) => {
  const held = new HeldSync();
  const commit = new GroupCommit('disk', held.run);
  const first = commit.commit();
  await turns();
  held.end(Object.assign(new Error('no'), { code: 'EIO' }));
  await t.rejects(first, { code: 'disk' });
  commit.forgive();
  t.equal(commit.failure, undefined);
  const second = commit.commit();
  await turns();
  held.end();
  await second;
  t.equal(held.begun, 2);
});
