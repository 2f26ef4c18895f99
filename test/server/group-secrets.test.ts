/** Secrets of groups: made once, kept to their owner, and what opens a replica over TCP. */
import { randomBytes } from 'node:crypto';
import { readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { formatNbdUri } from '../../protocol/uri.ts';
import {
  ensureSecret,
  parseSecret,
  readLinkSecret,
  removeLinkSecret,
  writeLinkSecret,
} from '../../server/group-secrets.ts';
import { NbdPeerConnector } from '../../server/replication/nbd-peer-connector.ts';
import { startLocal, temporaryFolder } from '../fixtures/local-node.ts';

t.test('a group has one secret, also when it is older than secrets', async (t) => {
  const folder = await temporaryFolder(t);
  const path = join(folder, 'groups', 'g', 'secret');
  const { node } = await startLocal(t, folder, {}, { listen: ['nbd://127.0.0.1:0'] });
  await node.createGroup({ name: 'g', volumes: [{ name: 'v', size: 1 << 20 }], logSize: 1 << 20 });
  const text = await readFile(path, 'utf8');
  t.match(text, /^[0-9a-f]{64}\n$/);
  t.equal((await stat(path)).mode & 0o777, 0o600);

  const [listener] = node.listeners;
  if (listener === undefined) throw new Error('it listens nowhere');
  const uri = formatNbdUri({ ...listener, exportName: 'g' });
  const connect = (secret: Buffer) => new NbdPeerConnector(async () => secret).connect(uri, 'other', 'l');
  // The proof comes before anything else is said of the group.
  await t.rejects(connect(randomBytes(32)), { code: 'unavailable', message: /not that of group g/ });
  await t.rejects(connect(parseSecret(path, text)), { code: 'unavailable', message: /create --replica/ });
  await node.stop();

  const again = await startLocal(t, folder, {}, { listen: ['nbd://127.0.0.1:0'] });
  t.equal(await readFile(path, 'utf8'), text);
  await again.node.stop();
  await rm(path);
  const third = await startLocal(t, folder, {}, { listen: ['nbd://127.0.0.1:0'] });
  t.match(await readFile(path, 'utf8'), /^[0-9a-f]{64}\n$/);
  await third.node.stop();
  await writeFile(path, 'what is this');
  const fourth = await startLocal(t, folder, {}, { listen: ['nbd://127.0.0.1:0'] });
  t.equal(fourth.node.groupStatus('g').state, 'open', 'it is served all the same');
  t.equal(await readFile(path, 'utf8'), 'what is this');
});

t.test('secrets of links', async (t) => {
  const folder = await temporaryFolder(t);
  const secret = randomBytes(32);
  t.equal(await readLinkSecret(folder, 'a'), undefined);
  await writeLinkSecret(folder, 'a', secret);
  t.strictSame(await readLinkSecret(folder, 'a'), secret);
  t.equal((await stat(join(folder, 'links', 'a.secret'))).mode & 0o777, 0o600);
  await removeLinkSecret(folder, 'a');
  await removeLinkSecret(folder, 'a');
  t.equal(await readLinkSecret(folder, 'a'), undefined);
  await t.rejects(ensureSecret(join(folder, 'none')), { code: 'disk', message: /none/ });
  for (const wrong of ['', 'a'.repeat(63), 'A'.repeat(64), 'g'.repeat(64), `${'a'.repeat(64)} b`])
    t.throws(() => parseSecret('f', wrong), { code: 'invalid', message: /64 hex digits/ }, wrong);
});
