import t from 'tap';
import { BUSY_POLL_MS, BusyPoll } from '../../server/busy-poll.ts';

class Loop {
  nowMs = 1000;
  readonly turns: (() => void)[] = [];
  poll(cores: number): BusyPoll {
    return new BusyPoll(
      () => this.nowMs,
      (run) => this.turns.push(run),
      cores,
    );
  }
  turn(): void {
    for (const run of this.turns.splice(0)) run();
  }
}

t.test('the loop looks on for a moment after the last bytes, and then sleeps', async (t) => {
  const loop = new Loop();
  const poll = loop.poll(2);
  poll.awake();
  poll.awake();
  t.equal(loop.turns.length, 1, 'once a turn, however much comes');
  loop.turn();
  t.equal(loop.turns.length, 1);
  loop.nowMs += BUSY_POLL_MS / 2;
  poll.awake();
  loop.nowMs += (BUSY_POLL_MS * 3) / 4;
  loop.turn();
  t.equal(loop.turns.length, 1, 'counted from the last bytes');
  loop.nowMs += BUSY_POLL_MS;
  loop.turn();
  t.equal(loop.turns.length, 0, 'asleep');
  poll.awake();
  t.equal(loop.turns.length, 1, 'and awake again');
});

t.test('a single core is left to the client', async (t) => {
  const loop = new Loop();
  loop.poll(1).awake();
  t.equal(loop.turns.length, 0);
});
