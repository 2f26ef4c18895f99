import t from 'tap';
import { judgePeer, judgePosition } from '../../../engine/link/judgement.ts';
import type { Announcement, PeerState } from '../../../engine/link/peer.ts';
import { REPLICATION_PROTOCOL } from '../../../engine/link/peer.ts';

const generation = { number: 1, id: 'generation', firstLsn: 0 };
const own: Announcement = {
  protocol: REPLICATION_PROTOCOL,
  origin: { groupId: 'group', generation },
  linkId: 'link',
  linkName: 'l',
  memberId: 'primary',
  path: ['above'],
  regionBytes: 65536,
  volumes: [
    { name: 'a', sizeBytes: 1 << 20 },
    { name: 'b', sizeBytes: 1 << 20 },
  ],
  durableLsn: 100,
  named: { lsn: 100, snapshots: [] },
};
const peer: PeerState = {
  protocol: REPLICATION_PROTOCOL,
  memberId: 'secondary',
  role: 'secondary',
  name: 'g',
  origin: own.origin,
  regionBytes: own.regionBytes,
  volumes: own.volumes,
  logBytes: 1 << 20,
  endLsn: 80,
  endChain: 7,
  durableLsn: 80,
  appliedLsn: 80,
  horizonLsn: 80,
  holding: null,
  resyncing: false,
  needs: 0,
  restoredByReferenceLsn: null,
  isShort: false,
  handOvers: 0,
  heldBack: null,
  snapshots: [],
};

t.test('K2: who can be no secondary of the link is refused by name', (t) => {
  t.equal(judgePeer(own, [], peer), undefined);
  t.equal(judgePeer(own, [], { ...peer, origin: null }), undefined, 'a blank one is fit');
  const [a, b] = own.volumes;
  const rows: [Partial<PeerState>, string, RegExp][] = [
    [{ protocol: 2 }, 'protocol', /version 2/],
    [{ memberId: 'primary' }, 'self', /back to this node/],
    [{ memberId: 'above', role: 'primary' }, 'loop', /feeds this one.*loop/],
    [{ role: 'primary' }, 'role', /--replica/],
    [{ regionBytes: 4096 }, 'volumes', /4096 bytes/],
    [{ volumes: a === undefined ? [] : [a] }, 'volumes', /lacks volume b/],
    [
      { volumes: b === undefined || a === undefined ? [] : [b, a] },
      'volumes',
      /volume 1 is b, and has to be a/,
    ],
    [{ volumes: own.volumes.map(({ name }) => ({ name, sizeBytes: 512 })) }, 'volumes', /512 bytes/],
    [{ volumes: [...own.volumes, { name: 'c', sizeBytes: 512 }] }, 'volumes', /volume c more/],
    [{ origin: { ...own.origin, groupId: 'other' } }, 'group', /another group/],
    [
      { origin: { ...own.origin, generation: { ...generation, id: 'other' } } },
      'roles',
      /generation 1, .*delete the replica/,
    ],
    [{ horizonLsn: 101 }, 'roles', /^diverged: it shows records up to LSN 101, .*delete the replica/],
  ];
  for (const [changes, issue, reason] of rows) {
    const refusal = judgePeer(own, [], { ...peer, ...changes });
    t.equal(refusal?.issue, issue, JSON.stringify(changes).slice(0, 60));
    t.match(refusal?.reason, reason);
  }
  const others = [{ linkName: 'other', peerId: 'secondary' }];
  t.match(judgePeer(own, others, peer), { issue: 'taken', reason: /link other/ });
  t.end();
});

t.test('K2: one number says where the log goes on, or that it begins anew', (t) => {
  const link = { position: { baseLsn: 70, logLsn: 70 }, peerId: 'secondary' };
  const facts = { floorLsn: 50, durableLsn: 100, chain: 7 };
  t.same(judgePosition(link, facts, peer), { kind: 'stream', fromLsn: 80 });
  t.same(
    judgePosition(link, facts, { ...peer, endLsn: 60 }),
    { kind: 'stream', fromLsn: 60 },
    'it is kept still',
  );
  const marked = { ...link, position: { baseLsn: 70, logLsn: null } };
  t.same(judgePosition(marked, facts, peer), { kind: 'restart', lost: undefined }, 'K5: marks are made');
  t.same(
    judgePosition({ ...link, peerId: null }, facts, peer),
    { kind: 'restart', lost: undefined },
    'nothing is known of one that was never fed',
  );
  t.same(judgePosition({ ...link, peerId: null }, facts, { ...peer, origin: null }), {
    kind: 'restart',
    lost: undefined,
  });
  const lost = { kind: 'restart', lost: String };
  t.match(judgePosition(link, facts, { ...peer, origin: null }), lost, 'what it had is gone');
  t.match(judgePosition(link, { ...facts, chain: undefined }, { ...peer, endLsn: 40, horizonLsn: 40 }), lost);
  t.match(judgePosition({ ...link, peerId: 'another' }, facts, peer), lost, 'another copy of the group');
  const diverged = { kind: 'refused', issue: 'roles', reason: /^diverged/ };
  t.match(judgePosition(link, { ...facts, chain: 8 }, peer), diverged, 'the chains differ');
  t.match(judgePosition(link, facts, { ...peer, endLsn: 101 }), diverged, 'it has more than there ever was');
  t.match(judgePosition(link, facts, { ...peer, horizonLsn: 101 }), diverged, 'and shows it');
  t.end();
});
