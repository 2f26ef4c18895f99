/** Up to where things may be acknowledged, for links of a few lines (rule K4). */
import t from 'tap';
import { EngineError } from '../../../engine/errors.ts';
import { Acknowledgement, type AcknowledgingLink } from '../../../engine/link/acknowledgement.ts';
import { settingsOf } from '../../../engine/link/link-settings.ts';
import type { LinkSettings } from '../../../engine/link/link-state.ts';

class FakeLink implements AcknowledgingLink {
  readonly link: {
    settings: LinkSettings;
    metLsn: number;
    openRestoreLsn: number | undefined;
    met(lsn: number): void;
  };
  readonly live = {
    isStreaming: true,
    peer: { needs: 0 },
    obstacle: undefined,
    shipping: { receivedLsn: 0, durableLsn: 0, isCaughtUp: true },
  };
  isConnected = true;
  readonly told: string[] = [];
  readonly tell = (what: string): void => void this.told.push(what);

  constructor(settings: Partial<LinkSettings>) {
    const link = {
      settings: { ...settingsOf({ name: 'b', uri: 'nbd://b' }), ...settings },
      metLsn: 0,
      openRestoreLsn: undefined,
      met(lsn: number): void {
        link.metLsn = Math.max(link.metLsn, lsn);
      },
    };
    this.link = link;
  }

  get connection() {
    return this.isConnected ? this.live : undefined;
  }
}

function make(...settings: Partial<LinkSettings>[]) {
  const log = { writtenLsn: 0, durableLsn: 0, syncs: 0, sync: async () => void log.syncs++ };
  const clock = { ms: 0, nowMs: () => clock.ms };
  const links = settings.map((one) => new FakeLink(one));
  const acknowledgement = new Acknowledgement(clock, log);
  acknowledgement.links = links;
  acknowledgement.changed();
  const [link] = links;
  if (link === undefined) throw new Error('there is a link');
  return { log, clock, links, link, acknowledgement };
}

interface Answer {
  now: 'waits' | 'acknowledged' | EngineError;
}

function follow(promise: Promise<void>): Answer {
  const answer: Answer = { now: 'waits' };
  promise.then(
    () => {
      answer.now = 'acknowledged';
    },
    (error: EngineError) => {
      answer.now = error;
    },
  );
  return answer;
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

t.test('each mode has its position, and async has none', async (t) => {
  for (const [mode, reachedAt] of [
    ['async', 'nothing'],
    ['memory', 'received'],
    ['sync', 'durable'],
  ] as const) {
    const { acknowledgement, link } = make({ mode });
    t.equal(acknowledgement.isNeeded, mode !== 'async');
    const answer = follow(acknowledgement.reached(10));
    const at: string[] = [];
    const look = async (what: string) => {
      acknowledgement.moved();
      await turn();
      if (answer.now === 'acknowledged') at.push(what);
    };
    await look('nothing');
    link.live.shipping.receivedLsn = 10;
    await look('received');
    link.live.shipping.durableLsn = 9;
    await look('less durable');
    link.live.shipping.durableLsn = 10;
    await look('durable');
    t.equal(at[0], reachedAt, mode);
  }
});

t.test('who waits has the log synced, and one turn shares one settling', async (t) => {
  const { acknowledgement, log, link } = make({ mode: 'sync' });
  let settles = 0;
  const settle = () => {
    settles++;
    log.writtenLsn = 8;
  };
  const answers = [1, 2, 3].map(() => follow(acknowledgement.settled(settle)));
  await turn();
  t.equal(settles, 1);
  t.equal(log.syncs, 1);
  t.same(acknowledgement.standingOf(link), {
    inMode: true,
    reason: undefined,
    heldRequests: 3,
    heldSeconds: 0,
  });
  link.live.shipping.durableLsn = 8;
  acknowledgement.moved();
  await turn();
  t.same(
    answers.map(({ now }) => now),
    ['acknowledged', 'acknowledged', 'acknowledged'],
  );
  const later = follow(acknowledgement.settled(settle));
  await turn();
  t.equal(settles, 2);
  t.equal(later.now, 'acknowledged', 'what is there already waits for nothing');
});

t.test('of several links, all have to have it', async (t) => {
  const { acknowledgement, links } = make({ mode: 'sync' }, { mode: 'memory' }, { mode: 'async' });
  const [sync, memory] = links;
  const answer = follow(acknowledgement.reached(5));
  if (sync !== undefined) sync.live.shipping.durableLsn = 5;
  acknowledgement.moved();
  await turn();
  t.equal(answer.now, 'waits');
  if (memory !== undefined) memory.live.shipping.receivedLsn = 5;
  acknowledgement.moved();
  await turn();
  t.equal(answer.now, 'acknowledged');
});

t.test('what a link is not in its mode for, and what each policy does then', async (t) => {
  const cases: readonly [string, (link: FakeLink) => void, RegExp][] = [
    [
      'lost',
      (link) => {
        link.isConnected = false;
      },
      /not connected/,
    ],
    [
      'resync',
      (link) => {
        link.live.isStreaming = false;
      },
      /lacks regions/,
    ],
    [
      'needs',
      (link) => {
        link.live.peer.needs = 3;
      },
      /lacks regions/,
    ],
    [
      'catching up',
      (link) => {
        link.live.shipping.isCaughtUp = false;
      },
      /still to get/,
    ],
    [
      'a restore',
      (link) => {
        link.link.openRestoreLsn = 7;
      },
      /restore at LSN 7/,
    ],
    [
      'paused',
      (link) => {
        link.link.settings = { ...link.link.settings, wanted: 'paused' };
      },
      /is paused/,
    ],
  ];
  for (const [what, lose, reason] of cases)
    for (const onLost of ['go-on', 'block'] as const) {
      const { acknowledgement, link, clock } = make({ mode: 'sync', onLost });
      const answer = follow(acknowledgement.reached(10));
      await turn();
      t.equal(answer.now, 'waits');
      lose(link);
      clock.ms = 4000;
      acknowledgement.moved();
      await turn();
      t.equal(answer.now, onLost === 'go-on' ? 'acknowledged' : 'waits', `${what}, ${onLost}`);
      const standing = acknowledgement.standingOf(link);
      t.equal(standing.inMode, false);
      t.match(standing.reason, reason);
      t.same([standing.heldRequests, standing.heldSeconds], onLost === 'go-on' ? [0, 0] : [1, 4]);
      t.same(link.told, onLost === 'go-on' ? [] : ['holding']);
    }
});

t.test('one that blocks lets go of what it had, and tells when it holds nobody any more', async (t) => {
  const { acknowledgement, link } = make({ mode: 'sync', onLost: 'block' });
  link.live.shipping.durableLsn = 6;
  acknowledgement.moved();
  t.equal(follow(acknowledgement.reached(6)).now, 'waits');
  link.isConnected = false;
  const [before, after] = [follow(acknowledgement.reached(6)), follow(acknowledgement.reached(7))];
  await turn();
  t.equal(before.now, 'acknowledged');
  t.equal(after.now, 'waits');
  link.isConnected = true;
  link.live.shipping.durableLsn = 7;
  acknowledgement.moved();
  await turn();
  t.equal(after.now, 'acknowledged');
  t.same(link.told, ['holding', 'released']);
});

t.test('closing refuses whom a policy holds, and waits for a link that is in its mode', async (t) => {
  const { acknowledgement, link } = make({ mode: 'sync', onLost: 'block' });
  const answer = follow(acknowledgement.reached(7));
  acknowledgement.close();
  await turn();
  t.equal(answer.now, 'waits');
  link.isConnected = false;
  acknowledgement.moved();
  const late = follow(acknowledgement.reached(8));
  await turn();
  t.match(answer.now, { code: 'unavailable', errno: 'ESHUTDOWN' });
  t.match(late.now, { code: 'unavailable', errno: 'ESHUTDOWN' });
});

t.test('a failure refuses all', async (t) => {
  const { acknowledgement, link } = make({ mode: 'sync' });
  const answer = follow(acknowledgement.reached(7));
  const error = new EngineError('unavailable', 'the log has failed', { errno: 'EIO' });
  acknowledgement.fail(error);
  link.live.shipping.durableLsn = 9;
  acknowledgement.moved();
  const late = follow(acknowledgement.reached(7));
  await turn();
  t.equal(answer.now, error);
  t.equal(late.now, error);
});
