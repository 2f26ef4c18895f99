import type { Socket } from 'node:net';
import t from 'tap';
import { BufferPool } from '../../server/buffer-pool.ts';
import { Sender } from '../../server/sender.ts';
import { Random } from '../fixtures/random.ts';

const BATCH_BYTES = 1024;

/** A socket that passes bytes on when it is told to. */
class SlowSocket {
  readonly passed: Buffer[] = [];
  readonly #waiting: { readonly bytes: Buffer; readonly done: (error?: Error) => void }[] = [];

  write(bytes: Buffer, done: (error?: Error) => void): boolean {
    this.#waiting.push({ bytes, done });
    return false;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  /** Passes the oldest write on; false when there is none. */
  pass(): boolean {
    const next = this.#waiting.shift();
    if (next === undefined) return false;
    this.passed.push(Buffer.from(next.bytes));
    next.done();
    return true;
  }

  fail(): void {
    for (const { done } of this.#waiting.splice(0)) done(new Error('the client is gone'));
  }
}

function make(gate: () => boolean = () => true): {
  socket: SlowSocket;
  pool: BufferPool;
  sender: Sender;
  progress: number[];
} {
  const socket = new SlowSocket();
  const pool = new BufferPool(BATCH_BYTES, 4);
  const progress: number[] = [];
  const sender = new Sender(socket as unknown as Socket, pool, (byteCount) => progress.push(byteCount), gate);
  return { socket, pool, sender, progress };
}

function reply(sender: Sender, bytes: Buffer): void {
  const out = sender.room(bytes.length);
  sender.advance(sender.used + bytes.copy(out, sender.used));
}

t.test('a client that takes nothing holds few buffers, however small its replies are', async (t) => {
  const { socket, pool, sender } = make();
  for (let count = 0; count < 500; count += 1) {
    reply(sender, Buffer.alloc(16, count));
    sender.flush();
  }
  t.equal(sender.unsentBytes, 500 * 16);
  t.ok(pool.lent <= Math.ceil((500 * 16) / BATCH_BYTES) + 1, `${pool.lent} buffers`);
  while (socket.pass());
  t.equal(sender.unsentBytes, 0);
  t.equal(pool.lent, 0);
  t.equal(Buffer.concat(socket.passed).length, 500 * 16);
});

t.test('everything leaves once and in order, whatever comes between', async (t) => {
  for (let seed = 1; seed <= 60; seed += 1) {
    const random = new Random(seed);
    const { socket, pool, sender, progress } = make();
    const expected: Buffer[] = [];
    let released = 0;
    let owned = 0;
    for (let step = 0; step < 200; step += 1) {
      const kind = random.below(5);
      if (kind < 3) {
        const bytes = random.bytes(random.between(1, BATCH_BYTES));
        expected.push(bytes);
        reply(sender, bytes);
        if (random.chance(0.5)) sender.flush();
      } else if (kind === 3) socket.pass();
      else if (random.chance(0.2)) {
        const bytes = random.bytes(random.between(1, 3 * 256 * 1024) >> random.below(12));
        if (bytes.length === 0) continue;
        expected.push(bytes);
        owned += 1;
        sender.sendOwned(bytes, () => {
          released += 1;
        });
      }
    }
    sender.flushAll();
    while (socket.pass());
    t.ok(Buffer.concat(socket.passed).equals(Buffer.concat(expected)), `seed ${seed}`);
    t.equal(released, owned);
    t.equal(pool.lent, 0);
    t.equal(
      progress.reduce((sum, count) => sum + count, 0),
      Buffer.concat(expected).length,
    );
  }
});

t.test('a connection that breaks gives all buffers back', async (t) => {
  const { socket, pool, sender, progress } = make();
  reply(sender, Buffer.alloc(100));
  sender.flush();
  reply(sender, Buffer.alloc(100));
  sender.close();
  socket.fail();
  t.equal(pool.lent, 0);
  t.equal(sender.unsentBytes, 0);
  t.strictSame(progress, [], 'bytes that were lost are no progress');
});

t.test('nothing reaches the socket but through the gate, and nothing after it stayed shut', async (t) => {
  const steps: string[] = [];
  let open = true;
  const { socket, pool, sender } = make(() => {
    steps.push(`gate with ${socket.waiting} in the socket`);
    return open;
  });
  reply(sender, Buffer.alloc(16));
  reply(sender, Buffer.alloc(16));
  t.strictSame(steps, [], 'what is gathered has not left');
  sender.flush();
  t.strictSame(steps, ['gate with 0 in the socket'], 'asked once, and first');
  t.equal(socket.waiting, 1);
  open = false;
  reply(sender, Buffer.alloc(16));
  let released = 0;
  sender.sendOwned(Buffer.alloc(600 * 1024), () => {
    released += 1;
  });
  open = true;
  reply(sender, Buffer.alloc(16));
  sender.flushAll();
  t.equal(socket.waiting, 1, 'it does not open again');
  t.equal(released, 1);
  t.equal(steps.length, 2);
  socket.pass();
  t.equal(sender.unsentBytes, 0);
  t.equal(pool.lent, 0);
});
