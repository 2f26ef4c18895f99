/** Modes of links over real connections (rule K4): when clients are answered, and what operators see. */
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { ControlClient } from '../../../server/control/client.ts';
import type { LinkStatus } from '../../../server/control/link-schemas.ts';
import { NbdClient } from '../../../server/nbd-client.ts';
import type { TidemarkNode } from '../../../server/node.ts';
import { startLocal, temporaryFolder } from '../../fixtures/local-node.ts';

const BLOCK = 4096;
const GROUP = { name: 'g', logSize: 4 * 1024 * 1024, volumes: [{ name: 'v', size: 1024 * 1024 }] };

interface Side {
  readonly folder: string;
  node: TidemarkNode;
  control: ControlClient;
}

async function start(t: Test, folder: string): Promise<Side> {
  const { node } = await startLocal(t, folder);
  const control = new ControlClient(node.controlPath);
  t.teardown(() => control.close());
  return { folder, node, control };
}

async function client(t: Test, side: Side): Promise<NbdClient> {
  const opened = await NbdClient.connect(`nbd+unix:///g/v?socket=${join(side.folder, 'nbd.sock')}`);
  t.teardown(() => opened.close());
  return opened;
}

async function linkOf({ control }: Side): Promise<LinkStatus> {
  const [link] = await control.links('g');
  if (link === undefined) throw new Error('there is no link');
  return link;
}

async function until(side: Side, holds: (link: LinkStatus) => boolean): Promise<LinkStatus> {
  for (;;) {
    const link = await linkOf(side);
    if (holds(link)) return link;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

async function pair(t: Test): Promise<{ primary: Side; secondary: Side }> {
  const primary = await start(t, await temporaryFolder(t));
  const secondary = await start(t, await temporaryFolder(t));
  await primary.control.createGroup(GROUP);
  await secondary.control.createGroup({ ...GROUP, replica: {} });
  const uri = `nbd+unix:///g?socket=${join(secondary.folder, 'nbd.sock')}`;
  await primary.control.addLink('g', { uri, name: 'l', mode: 'sync', onLost: 'block' });
  await until(primary, ({ state, inMode }) => state === 'streaming' && inMode);
  return { primary, secondary };
}

/** LSN up to which the secondary has the log durably, and where the primary's ends. */
async function ends(primary: Side, secondary: Side): Promise<[number, number]> {
  const [here, there] = [await primary.control.group('g'), await secondary.control.group('g')];
  return [there.log?.durableLsn ?? 0, here.log?.endLsn ?? 0];
}

t.test('K4: in sync, whatever was answered is durable on the secondary', async (t) => {
  const { primary, secondary } = await pair(t);
  const writer = await client(t, primary);
  for (let round = 1; round <= 5; round++) {
    const writes = Array.from({ length: 16 }, (_, at) =>
      writer.write(Buffer.alloc(BLOCK, round), at * BLOCK),
    );
    await Promise.all([...writes, writer.write(Buffer.alloc(BLOCK, round), 40 * BLOCK, { fua: true })]);
    const [durable, end] = await ends(primary, secondary);
    t.equal(durable, end, `round ${round}`);
  }
  await writer.write(Buffer.alloc(512 * 1024, 7), 0);
  await writer.flush();
  t.equal(...(await ends(primary, secondary)));
  await primary.control.createSnapshot('g', { name: 's' });
  t.equal(...(await ends(primary, secondary)));
});

t.test('K4: while the secondary is away block holds writers; readers go on, and status tells', async (t) => {
  const { primary, secondary } = await pair(t);
  const [writer, reader] = [await client(t, primary), await client(t, primary)];
  await writer.write(Buffer.alloc(BLOCK, 1), 0);
  await secondary.node.stop();
  await until(primary, ({ inMode }) => !inMode);
  let answered = 0;
  const writes = Array.from({ length: 20 }, (_, at) =>
    writer.write(Buffer.alloc(BLOCK, 2), at * BLOCK).then(() => {
      answered++;
    }),
  );
  const link = await until(primary, ({ heldRequests }) => heldRequests === 20);
  t.match(link, { inMode: false, onLost: 'block' });
  t.ok(link.notInModeBecause);
  t.equal((await reader.readBuffer(0, BLOCK))[0], 2, 'another client reads');
  t.equal((await writer.readBuffer(BLOCK, BLOCK))[0], 2, 'and so does the one that waits');
  t.equal(answered, 0);
  t.ok(primary.node.events.since(0).some(({ type }) => type === 'link.holding'));
  await t.rejects(primary.control.steerLink('g', 'l', 'pause'), {
    code: 'in-use',
    message: /--on-lost go-on/,
  });
  const { text } = await primary.node.metrics();
  t.match(text, /tidemark_held_requests\{group="g"\} 20/);
  t.match(text, /tidemark_links_out_of_mode\{group="g"\} 1/);
  const back = await start(t, secondary.folder);
  await Promise.all(writes);
  t.equal(...(await ends(primary, back)));
  await until(primary, ({ inMode, heldRequests }) => inMode && heldRequests === 0);
  t.ok(primary.node.events.since(0).some(({ type }) => type === 'link.released'));
});

t.test('K4: a change of the policy releases who is held; a node that stops refuses them', async (t) => {
  const { primary, secondary } = await pair(t);
  const writer = await client(t, primary);
  await secondary.node.stop();
  await until(primary, ({ inMode }) => !inMode);
  const first = writer.write(Buffer.alloc(BLOCK, 3), 0);
  await until(primary, ({ heldRequests }) => heldRequests === 1);
  await primary.control.setLink('g', 'l', { onLost: 'go-on' });
  await first;
  await primary.control.setLink('g', 'l', { onLost: 'block' });
  const second = writer.write(Buffer.alloc(BLOCK, 4), 0);
  const refused = t.rejects(second, 'it is not acknowledged');
  await until(primary, ({ heldRequests }) => heldRequests === 1);
  await primary.node.stop();
  await refused;
});
