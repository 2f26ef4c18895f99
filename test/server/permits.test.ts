import t from 'tap';
import { type PermitHolder, Permits } from '../../server/permits.ts';
import { Random } from '../fixtures/random.ts';

class Holder implements PermitHolder {
  lastProgressMs = 0;
  readonly evictions: string[] = [];
  evict(reason: string): void {
    this.evictions.push(reason);
  }
}

t.test('first come, first served: a small request does not overtake a large one', async (t) => {
  const permits = new Permits(100, 1000);
  const [a, b, c] = [new Holder(), new Holder(), new Holder()];
  t.ok(permits.tryAcquire(80, a));
  const granted: string[] = [];
  t.notOk(permits.tryAcquire(90, b));
  permits.acquire(90, b, 0, () => granted.push('b'));
  t.notOk(permits.tryAcquire(10, c), 'there would be room, but b was first');
  permits.acquire(10, c, 0, () => granted.push('c'));
  t.equal(permits.waiting, 2);
  permits.release(80, a);
  t.strictSame(granted, ['b', 'c']);
  t.equal(permits.freeBytes, 0);
  permits.release(90, b);
  permits.release(10, c);
  t.equal(permits.freeBytes, 100);
});

t.test('who stops waiting lets the next one through', async (t) => {
  const permits = new Permits(100, 1000);
  const [a, b, c] = [new Holder(), new Holder(), new Holder()];
  permits.tryAcquire(60, a);
  let granted = false;
  permits.acquire(90, b, 0, () => t.fail('b has gone'));
  permits.acquire(40, c, 0, () => {
    granted = true;
  });
  permits.cancel(b);
  t.ok(granted);
});

t.test('a stuck holder is closed only when somebody waits, and only when it does not move', async (t) => {
  const permits = new Permits(100, 1000);
  const [stuck, moving, waiter] = [new Holder(), new Holder(), new Holder()];
  permits.tryAcquire(50, stuck);
  permits.tryAcquire(50, moving);
  t.equal(permits.evictStuck(1e9), 0, 'nobody waits');
  permits.acquire(50, waiter, 10_000, () => undefined);
  moving.lastProgressMs = 10_900;
  t.equal(permits.evictStuck(10_999), 0, 'not for long enough');
  t.equal(permits.evictStuck(11_000), 1);
  t.equal(stuck.evictions.length, 1);
  t.equal(moving.evictions.length, 0);
});

t.test('a stuck holder may keep itself waiting, and is closed for those who queue behind it', async (t) => {
  const permits = new Permits(100, 1000);
  const [stuck, behind] = [new Holder(), new Holder()];
  permits.tryAcquire(80, stuck);
  permits.acquire(50, stuck, 0, () => undefined);
  t.equal(permits.evictStuck(60_000), 0);
  permits.acquire(10, behind, 60_000, () => undefined);
  t.equal(permits.evictStuck(60_500), 0);
  t.equal(permits.evictStuck(61_000), 1);
  t.equal(stuck.evictions.length, 1);
});

t.test('the sum is kept whatever happens', async (t) => {
  const random = new Random(5);
  const permits = new Permits(1000, 1000);
  const held: { holder: Holder; bytes: number }[] = [];
  for (let round = 0; round < 5000; round += 1) {
    const bytes = random.between(1, 400);
    const holder = new Holder();
    if (random.chance(0.5)) {
      if (permits.tryAcquire(bytes, holder)) held.push({ holder, bytes });
      else permits.acquire(bytes, holder, 0, () => held.push({ holder, bytes }));
    } else if (held.length > 0) {
      const [gone] = held.splice(random.below(held.length), 1);
      if (gone !== undefined) permits.release(gone.bytes, gone.holder);
    }
    const sum = held.reduce((total, { bytes: of }) => total + of, 0);
    if (sum + permits.freeBytes !== 1000) {
      t.fail(`round ${round}: ${sum} held, ${permits.freeBytes} free`);
      return;
    }
  }
  t.pass('5000 rounds');
});
