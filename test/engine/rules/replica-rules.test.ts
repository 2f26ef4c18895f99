/** The rules K1 to K13 of the design, each by its name, as far as they are a secondary's. */
import t from 'tap';
import { EngineError } from '../../../engine/errors.ts';
import { GroupBench } from '../../fixtures/group-bench.ts';
import { ReplicaPair } from '../../fixtures/replica-pair.ts';

t.test('K2: a primary that does not fit is refused by name, and nothing is changed', async (t) => {
  const pair = await ReplicaPair.synchronised({ regions: 4, volumes: ['v', 'w'] });
  await pair.primary.write(0, 1, 4);
  await pair.stream();
  const before = pair.state;
  const { origin, volumes, memberId } = pair.announcement();
  const other = 'aaaaaaaa-2222-4333-8444-555555555555';
  const { generation } = origin;
  const refusals: [Parameters<ReplicaPair['begin']>[0], string, RegExp][] = [
    [{ protocol: 2 }, 'unsupported', /version 2 of replication/],
    [{ memberId: before.memberId }, 'invalid', /own/],
    [{ memberId: other }, 'in-use', /another primary, by its link b/],
    [{ regionBytes: 8192 }, 'invalid', /8192/],
    [{ volumes: volumes.toReversed() }, 'invalid', /v:16384, w:16384, the primary w:16384, v:16384/],
    [{ volumes: volumes.slice(1) }, 'invalid', /the primary w:16384/],
    [{ origin: { ...origin, groupId: other } }, 'invalid', /another group/],
    [{ origin: { ...origin, generation: { ...generation, number: 2 } } }, 'unavailable', /generation 2/],
    [{ origin: { ...origin, generation: { ...generation, id: other } } }, 'unavailable', /histories differ/],
    [{ durableLsn: before.horizonLsn - 1 }, 'unavailable', /diverged/],
  ];
  for (const [changes, code, message] of refusals) await t.rejects(pair.begin(changes), { code, message });
  t.same(pair.state, before);
  await pair.primary.write(1, 2);
  await pair.stream();
  t.same((await pair.images()).secondary, (await pair.images()).primary, 'the session before goes on');
  t.equal(memberId === before.memberId, false);
  const alone = await GroupBench.make();
  t.equal(alone.group.replica, undefined);
});

t.test(
  'K2: what lies above the announced LSN and was never shown is dropped; one number says where to go on',
  async (t) => {
    const pair = await ReplicaPair.synchronised({ regions: 4 });
    await pair.primary.write(0, 1, 4);
    await pair.stream();
    const { endLsn } = pair.state;
    await pair.secondary.group.replica?.freeze();
    const ends: number[] = [];
    for (let fill = 2; fill < 6; fill++) {
      await pair.primary.write(0, fill);
      await pair.ship();
      ends.push(pair.state.endLsn);
    }
    const state = await pair.begin({ durableLsn: ends[1] ?? 0 });
    t.equal(state.endLsn, ends[1]);
    t.equal(state.durableLsn, ends[1]);
    await pair.secondary.crash();
    t.equal(pair.state.endLsn, ends[1], 'for good');
    t.equal(
      (await pair.begin({ durableLsn: (ends[0] ?? 0) + 1 })).endLsn,
      endLsn,
      'where no batch ends: to the horizon',
    );
    await pair.secondary.group.replica?.thaw();
    await pair.stream();
    t.same((await pair.images()).secondary, (await pair.images()).primary);
  },
);

t.test(
  'K3, K12: received is not durable, durable is not shown, and only what was shown is replayed',
  async (t) => {
    const pair = await ReplicaPair.synchronised({ regions: 4 });
    const { horizonLsn } = pair.state;
    await pair.secondary.group.replica?.freeze();
    await pair.primary.write(0, 1, 4);
    await pair.ship();
    t.ok(pair.state.durableLsn > horizonLsn);
    t.equal(pair.state.horizonLsn, horizonLsn);
    await pair.secondary.group.replica?.thaw();
    // The horizon is durable before anybody sees what is below it.
    let seen: number | undefined;
    pair.secondary.watch((operation, name) => {
      if (operation === 'sync' && name === 'group.record') seen ??= pair.secondary.rawFills()[0];
      return undefined;
    });
    await pair.secondary.group.settled();
    const { replica } = pair.secondary.durableRecord() as unknown as { replica: { horizonLsn: number } };
    t.equal(replica.horizonLsn, pair.state.endLsn);
    t.equal(seen, 0);
    t.same(await pair.secondary.fills(), [1, 1, 1, 1]);
  },
);

t.test(
  'K7, L3: it holds where it is told, with the checkpoint there, and takes regions for that round alone',
  async (t) => {
    const pair = await ReplicaPair.synchronised({ regions: 4 });
    await pair.primary.write(0, 1, 4);
    await pair.stream();
    const behind = pair.state.endLsn - 1;
    await t.rejects(pair.port.hold(pair.session, 'r', behind), {
      code: 'unavailable',
      message: /applied beyond/,
    });
    const region = { region: 1, bytes: Buffer.alloc(4096, 9) };
    await t.rejects(pair.port.writeRegions(pair.session, 'r', 'v', [region]), { code: 'unavailable' });
    const round = await pair.round();
    t.match(pair.state, { holding: { lsn: round.lsn }, horizonLsn: round.lsn, resyncing: true });
    t.equal(pair.secondary.durableRecord().checkpointLsn, round.lsn);
    await pair.primary.write(3, 7);
    await pair.ship();
    await pair.secondary.pass(3000);
    t.equal(pair.state.horizonLsn, round.lsn, 'nothing goes past the hold');
    await t.rejects(pair.port.writeRegions(pair.session, 'r', 'v', [region]), { code: 'unavailable' });
    const bad = { code: 'invalid' };
    await t.rejects(
      pair.port.writeRegions(pair.session, round.id, 'v', [{ region: 4, bytes: undefined }]),
      bad,
    );
    await t.rejects(
      pair.port.writeRegions(pair.session, round.id, 'v', [{ region: 1, bytes: Buffer.alloc(1) }]),
      bad,
    );
    await t.rejects(pair.port.writeRegions(pair.session, round.id, 'x', []), { code: 'not-found' });
    await pair.send(round, { v: [0] });
    await pair.end(round, false);
    await pair.secondary.group.settled();
    t.equal(pair.state.horizonLsn, pair.state.endLsn, 'it goes on');
    t.same(await pair.secondary.fills(), [1, 1, 1, 1], 'and shows the guard');
    await pair.resync({});
    await pair.stream();
    t.same(await pair.secondary.fills(), [1, 1, 1, 7]);
  },
);

t.test('K8: a newer session ends the older one, whose calls are refused', async (t) => {
  const pair = await ReplicaPair.synchronised({ regions: 4 });
  const round = await pair.round();
  const old = pair.session;
  const release = pair.secondary.folder.hold('write', 'v.img', 1);
  const writing = pair.port.writeRegions(old, round.id, 'v', [{ region: 0, bytes: Buffer.alloc(4096, 5) }]);
  await pair.secondary.turns();
  let isBegun = false;
  const begun = pair.begin().then(() => {
    isBegun = true;
  });
  await pair.secondary.turns();
  t.equal(isBegun, false, 'it waits for the writes of the one before');
  release();
  await writing;
  await begun;
  t.equal(pair.state.holding, null);
  const over = { code: 'unavailable', message: /session is over/ };
  await t.rejects(pair.port.append(old, pair.state.endLsn, Buffer.alloc(512)), over);
  await t.rejects(pair.port.sync(old), over);
  await t.rejects(pair.port.hold(old, round.id, round.lsn), over);
  await t.rejects(pair.port.writeRegions(old, round.id, 'v', []), over);
  await t.rejects(pair.port.syncRegions(old, round.id), over);
  await t.rejects(pair.port.release(old, round.id, true), over);
  await t.rejects(pair.port.restart(old, { lsn: 1000, chain: 0, snapshots: [] }), over);
  t.throws(() => pair.port.needs(old, 'v'), over);
  const session = pair.session;
  pair.port.ended(session, 'test');
  await t.rejects(pair.port.sync(session), over);
});

t.test('K9: no room for a guard, no resync; readers never see a mixture', async (t) => {
  const pair = await ReplicaPair.synchronised({ regions: 4 });
  await pair.primary.write(0, 1, 4);
  await pair.stream();
  pair.secondary.folder.faults.spaceSectors = pair.secondary.folder.usedSectors() + 100;
  await pair.secondary.group.replica?.freeze();
  await pair.secondary.group.replica?.thaw();
  const round = await pair.round();
  t.equal(pair.state.holding, null);
  t.match(pair.state.heldBack, /no room/);
  t.equal(pair.state.resyncing, false);
  pair.secondary.folder.faults.spaceSectors = Number.POSITIVE_INFINITY;
  await pair.secondary.pass(3000);
  t.match(pair.state.holding, { roundId: round.id });
  await pair.port.writeRegions(pair.session, round.id, 'v', [{ region: 2, bytes: Buffer.alloc(4096, 9) }]);
  t.equal(pair.secondary.rawFills()[2], 9);
  t.same(await pair.secondary.fills(), [1, 1, 1, 1]);
  await pair.secondary.crash();
  t.same(await pair.secondary.fills(), [1, 1, 1, 1], 'after a power cut too');
  await pair.secondary.group.settled();
  t.same(await pair.secondary.fills(), [1, 1, 1, 1], 'the janitor leaves the guard alone');
});

t.test('K9: what a failed sync of a volume lost has to come again', async (t) => {
  const pair = await ReplicaPair.synchronised({ regions: 4 });
  await pair.primary.write(0, 1, 4);
  await pair.stream();
  const round = await pair.round();
  const region = { region: 2, bytes: Buffer.alloc(4096, 9) };
  await pair.port.writeRegions(pair.session, round.id, 'v', [region]);
  let left = 1;
  pair.secondary.watch((operation, name) =>
    operation === 'sync' && name.endsWith('v.img') && left-- > 0 ? 'EIO' : undefined,
  );
  await t.rejects(pair.port.syncRegions(pair.session, round.id), { code: 'disk' });
  await pair.port.writeRegions(pair.session, round.id, 'v', [region]);
  await pair.port.syncRegions(pair.session, round.id);
  t.ok(left < 0);
});

t.test(
  'a restart of the log, and a power cut at any operation of it: it is the one or the other',
  async (t) => {
    let done = 0;
    for (let at = 0; at < 40; at++) {
      const pair = await ReplicaPair.synchronised({ regions: 4, seed: at + 1 });
      await pair.primary.write(0, 1, 4);
      await pair.primary.group.createSnapshot('gone');
      await pair.primary.group.createSnapshot('old');
      await pair.stream();
      await pair.primary.group.deleteSnapshot('gone');
      await pair.primary.group.renameSnapshot('old', 'new');
      await pair.primary.write(1, 2, 2);
      let left = at;
      pair.secondary.folder.faults.decide = () => {
        if (left-- === 0) pair.secondary.folder.crash();
        return left < 0 ? 'EIO' : undefined;
      };
      const before = pair.state;
      let restarted = true;
      try {
        const round = await pair.round('restart');
        t.equal(pair.state.endLsn, round.lsn);
      } catch (error) {
        if (!(error instanceof EngineError)) throw error;
        restarted = false;
      }
      if (restarted) done++;
      await pair.secondary.crash();
      t.same(await pair.secondary.fills(), [1, 1, 1, 1]);
      const { endLsn } = pair.state;
      t.ok(endLsn === before.endLsn || pair.state.resyncing, 'a log that is another is one of a resync');
      const names = pair.state.snapshots.map(({ name }) => name);
      t.same(names, pair.state.resyncing ? ['new'] : ['gone', 'old']);
      await pair.begin();
      await pair.resync(pair.all(), 'restart');
      await pair.stream();
      t.same((await pair.images()).secondary, (await pair.images()).primary);
    }
    t.ok(done > 0 && done < 40, `${done} came through`);
  },
);

t.test('K9: … also where it was somebody else who synced', async (t) => {
  const slow = { group: { copyBytesPerSecond: 1 } };
  const pair = await ReplicaPair.synchronised({ regions: 4, secondary: slow });
  await pair.primary.write(0, 1, 4);
  await pair.primary.group.createSnapshot('a');
  await pair.primary.write(0, 2, 4);
  await pair.primary.group.restore('a');
  await pair.ship();
  await pair.secondary.pass(100);
  const round = await pair.round();
  t.match(pair.state, { holding: { roundId: round.id } });
  const region = (number: number) => [{ region: number, bytes: Buffer.alloc(4096, 9) }];
  const { operations } = pair.secondary.group;
  t.equal(operations.filter(({ kind }) => kind === 'restore').length, 1, 'there is something still to come');
  await pair.port.writeRegions(pair.session, round.id, 'v', region(3));
  let left = 1;
  pair.secondary.watch((operation, name) =>
    operation === 'sync' && name.endsWith('v.img') && left-- > 0 ? 'EIO' : undefined,
  );
  await t.rejects(pair.port.writeRegions(pair.session, round.id, 'v', region(2)), { code: 'disk' });
  await t.rejects(pair.port.syncRegions(pair.session, round.id), { code: 'disk' }, 'region 3 may be lost');
  await pair.port.writeRegions(pair.session, round.id, 'v', [...region(2), ...region(3)]);
  await pair.port.syncRegions(pair.session, round.id);
});
