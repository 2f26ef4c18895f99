import t from 'tap';
import { BufferPool } from '../../server/buffer-pool.ts';
import { Receiver } from '../../server/receiver.ts';
import { Random } from '../fixtures/random.ts';

/**
 * Messages of a toy protocol: a kind, a length (4 bytes), and a body of pseudo-random bytes that depend on the message's
 * number. `whole` bodies are consumed in place, `own` ones are diverted, `skip` ones are thrown away.
 */
type Kind = 'whole' | 'own' | 'skip';
const KINDS: readonly Kind[] = ['whole', 'own', 'skip'];
const SHARED_BYTES = 1024;

function body(number: number, length: number): Buffer {
  return new Random(number * 7919 + 1).bytes(length);
}

function message(number: number, kind: Kind, length: number): Buffer {
  const header = Buffer.alloc(5);
  header[0] = KINDS.indexOf(kind);
  header.writeUInt32BE(length, 1);
  return Buffer.concat([header, body(number, length)]);
}

/** A consumer of that protocol, with a random wish to wait. */
class Consumer {
  readonly seen: { number: number; kind: Kind; bytes: Buffer }[] = [];
  waiting = false;
  receiver!: Receiver;
  readonly #random: Random;
  #next = 0;

  constructor(random: Random) {
    this.#random = random;
  }

  consume(buffer: Buffer, start: number, end: number): number {
    let at = start;
    this.waiting = false;
    while (end - at >= 5) {
      if (this.#random.chance(0.2)) {
        this.waiting = true;
        return at;
      }
      const kind = KINDS[buffer[at] ?? 0] ?? 'whole';
      const length = buffer.readUInt32BE(at + 1);
      const number = this.#next;
      if (kind === 'whole' && end - at - 5 < length) return at;
      this.#next += 1;
      const from = at + 5;
      const here = Math.min(length, end - from);
      at = from + here;
      if (kind === 'whole') {
        this.seen.push({ number, kind, bytes: Buffer.from(buffer.subarray(from, at)) });
      } else if (kind === 'skip') {
        this.receiver.discard(length - here);
        this.seen.push({ number, kind, bytes: body(number, length) });
      } else {
        const target = Buffer.alloc(length);
        buffer.copy(target, 0, from, at);
        const done = () => this.seen.push({ number, kind, bytes: target });
        if (here === length) done();
        else this.receiver.divert(target, here, done);
      }
    }
    return at;
  }
}

function run(seed: number, foreign: boolean): void {
  const random = new Random(seed);
  const shared = Buffer.alloc(SHARED_BYTES);
  const slabs = new BufferPool(2 * SHARED_BYTES, 4);
  const consumer = new Consumer(random);
  const receiver = new Receiver(shared, slabs, (buffer, start, end) => consumer.consume(buffer, start, end));
  consumer.receiver = receiver;
  const sent: { kind: Kind; length: number }[] = [];
  const parts: Buffer[] = [];
  for (let number = 0; number < 60; number += 1) {
    const kind = random.pick(KINDS);
    // What is consumed in place has to fit into a slab besides one read, as the server's limit has it.
    const length = random.below(kind === 'whole' ? SHARED_BYTES - 5 : 5 * SHARED_BYTES);
    sent.push({ kind, length });
    parts.push(message(number, kind, length));
  }
  const stream = Buffer.concat(parts);
  let at = 0;
  while (at < stream.length || consumer.waiting) {
    // A connection that waits is not read from; whatever it waits for comes at some moment.
    if (consumer.waiting) {
      receiver.pump();
      continue;
    }
    if (foreign) {
      const count = Math.min(random.between(1, 2 * SHARED_BYTES), stream.length - at);
      receiver.receivedForeign(stream.subarray(at, at + count));
      at += count;
      continue;
    }
    const room = receiver.nextBuffer();
    const count = Math.min(
      random.chance(0.3) ? room.length : random.between(1, room.length),
      stream.length - at,
    );
    stream.copy(room, 0, at, at + count);
    at += count;
    receiver.received(count);
    // Another connection uses the shared buffer between our reads.
    shared.fill(0xdd);
    // The socket is armed for its next read right after this one, also when it is paused then.
    receiver.nextBuffer();
  }
  for (let more = 0; more < 1000 && consumer.seen.length < sent.length; more += 1) receiver.pump();
  t.equal(consumer.seen.length, sent.length, `seed ${seed}: every message came`);
  for (const [number, { kind, length }] of sent.entries()) {
    const got = consumer.seen[number];
    if (got?.number !== number || got.kind !== kind || !got.bytes.equals(body(number, length))) {
      t.fail(`seed ${seed}: message ${number} (${kind}, ${length} bytes) came wrong`);
      return;
    }
  }
  receiver.close();
  t.equal(slabs.lent, 0, `seed ${seed}: slabs are given back`);
}

t.test('every message arrives whole and in order, however reads are cut and paused', async () => {
  for (let seed = 1; seed <= 150; seed += 1) run(seed, false);
});

t.test('the same where the socket brings memory of its own', async (t) => {
  for (let seed = 1; seed <= 60; seed += 1) {
    try {
      run(seed, true);
    } catch (error) {
      t.fail(`seed ${seed}`, { error });
    }
  }
});

t.test('a connection that has nothing incomplete holds no slab', async (t) => {
  const slabs = new BufferPool(2 * SHARED_BYTES, 4);
  const receiver = new Receiver(Buffer.alloc(SHARED_BYTES), slabs, (_buffer, _start, end) => end);
  receiver.nextBuffer();
  receiver.received(SHARED_BYTES);
  t.equal(slabs.lent, 0);
  t.equal(receiver.heldBytes, 0);
});
