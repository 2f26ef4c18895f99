import t from 'tap';
import { GroupBench } from '../fixtures/group-bench.ts';

t.test('a damaged map of a refresh does not undo what was written through the snapshot', async (t) => {
  const bench = await GroupBench.make({ regions: 80 });
  await bench.write(0, 1, 15);
  await bench.group.createSnapshot('d');
  await bench.group.detachSnapshot('d');
  await bench.group.settled();
  for (let at = 0; at < 75; at += 15) {
    await bench.write(at, 2, 15);
    await bench.pass(60);
  }
  await bench.group.settled();
  let copies = 0;
  bench.watch((operation, name) =>
    operation === 'write' && name.endsWith('.copied') && ++copies > 66 ? 'EIO' : undefined,
  );
  await bench.group.refreshSnapshot('d');
  await bench.pass(60);
  await bench.write(0, 9, 1, bench.snapshot('d'));
  await bench.snapshot('d').flush();
  t.equal((await bench.fills(bench.snapshot('d')))[0], 9);
  t.equal(bench.group.snapshots[0]?.state, 'refreshing');
  await bench.group.close().catch(() => {});
  const name = [...bench.folder.media.keys()].find((file) => file.includes('v.refresh-')) ?? '';
  const now = bench.folder.media.get(name)?.now;
  const sector = Buffer.from(now?.get(0) ?? Buffer.alloc(512));
  sector[100] = 255;
  now?.set(0, sector);
  bench.folder.faults.decide = undefined;
  const opened = await bench.open().catch((error: unknown) => error);
  if (opened instanceof Error) {
    t.match(opened, { code: 'corrupt' });
    return;
  }
  const found = await bench.fills(bench.snapshot('d')).catch(() => [9]);
  t.equal(found[0], 9, 'or it is refused');
});
