import t from 'tap';
import {
  decodeMetaContextRequest,
  encodeMetaContextRequest,
  listContexts,
  selectContexts,
} from '../../protocol/meta-context.ts';
import { hex } from '../fixtures/handshake.ts';

t.test('the request, byte for byte', async (t) => {
  const bytes = hex("00000003 'vol' 00000002 0000000f 'base:allocation' 00000002 'x:'");
  const request = { exportName: 'vol', queries: ['base:allocation', 'x:'] };
  t.strictSame(encodeMetaContextRequest(request), bytes);
  t.strictSame(decodeMetaContextRequest(bytes), { ok: true, value: request });
  for (let length = 0; length < bytes.length; length += 1) {
    t.equal(decodeMetaContextRequest(bytes.subarray(0, length)).ok, false, `cut to ${length} bytes`);
  }
});

t.test('wrong lengths say why', async (t) => {
  const reasons: [string, RegExp][] = [
    ["00000003 'vol' 0000", /number of queries/],
    ["00000003 'vol' ffffffff", /length of the query/],
    ["00000003 'vol' 00000001 00000005 'base'", /query is longer than the data/],
    ["00000003 'vol' 00000001 00001001", /query has 4097 bytes/],
    ["00000000 00000000 'IHAVEOPT'", /8 bytes follow the last query/],
    ['00000000 00000001 00000001 ff', /UTF-8/],
  ];
  for (const [bytes, reason] of reasons) t.match(decodeMetaContextRequest(hex(bytes)), { ok: false, reason });
});

t.test('which contexts a query names', async (t) => {
  const available = ['base:allocation', 'qemu:dirty-bitmap:a', 'qemu:dirty-bitmap:b', 'tidemark:written'];
  const cases: { queries: string[]; listed: string[]; selected: string[] }[] = [
    { queries: [], listed: available, selected: [] },
    { queries: ['base:'], listed: ['base:allocation'], selected: [] },
    { queries: ['base:allocation'], listed: ['base:allocation'], selected: ['base:allocation'] },
    {
      queries: ['base:allocation', 'base:allocation', 'base:'],
      listed: ['base:allocation'],
      selected: ['base:allocation'],
    },
    { queries: ['qemu:dirty-bitmap:'], listed: ['qemu:dirty-bitmap:a', 'qemu:dirty-bitmap:b'], selected: [] },
    { queries: ['qemu:'], listed: ['qemu:dirty-bitmap:a', 'qemu:dirty-bitmap:b'], selected: [] },
    {
      queries: ['tidemark:written', 'base:allocation'],
      listed: ['base:allocation', 'tidemark:written'],
      selected: ['base:allocation', 'tidemark:written'],
    },
    { queries: ['base:alloc', 'base', '', ':', 'x-other:', 'BASE:allocation'], listed: [], selected: [] },
  ];
  for (const { queries, listed, selected } of cases) {
    t.strictSame(listContexts(available, queries), listed, `list ${queries}`);
    t.strictSame(selectContexts(available, queries), selected, `set ${queries}`);
  }
});
