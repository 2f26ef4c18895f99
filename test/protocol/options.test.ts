import t from 'tap';
import {
  decodeExportName,
  decodeInfoRequest,
  encodeInfoRequest,
  encodeOption,
} from '../../protocol/options.ts';
import { hex } from '../fixtures/handshake.ts';

t.test('an option is magic, number, length, data', async (t) => {
  t.strictSame(encodeOption(3), hex("'IHAVEOPT' 00000003 00000000"));
  t.strictSame(encodeOption(1, Buffer.from('vol')), hex("'IHAVEOPT' 00000001 00000003 'vol'"));
  t.throws(() => encodeOption(1, Buffer.alloc(65536)), /bug/);
});

t.test('INFO and GO, byte for byte', async (t) => {
  const bytes = hex("00000005 'a/bü' 0002 0001 0003");
  const request = { exportName: 'a/bü', infoTypes: [1, 3] };
  t.strictSame(encodeInfoRequest(request), bytes);
  t.strictSame(decodeInfoRequest(bytes), { ok: true, value: request });
  const shortest = hex('00000000 0000');
  t.strictSame(decodeInfoRequest(shortest), { ok: true, value: { exportName: '', infoTypes: [] } });
  t.strictSame(encodeInfoRequest({ exportName: '', infoTypes: [] }), shortest);
});

t.test('INFO and GO are refused at every wrong length, and say why', async (t) => {
  const whole = hex("00000003 'vol' 0002 0000 ffff");
  t.equal(decodeInfoRequest(whole).ok, true, 'types that are unknown here are no error');
  for (let length = 0; length < whole.length; length += 1) {
    t.equal(decodeInfoRequest(whole.subarray(0, length)).ok, false, `cut to ${length} bytes`);
  }
  t.equal(decodeInfoRequest(Buffer.concat([whole, Buffer.alloc(1)])).ok, false, 'a byte too many');
  const reasons: [string, RegExp][] = [
    ['0000', /length of the export name/],
    ["00000004 'vol'", /longer than the data/],
    ["ffffffff 'vol'", /4294967295 bytes, at most 4096/],
    ['00001001', /4097 bytes/],
    ["00000003 'vol'", /number of information requests/],
    ["00000003 'vol' ffff 0001", /65535 information requests in 2 bytes/],
    ["00000003 'vol' 0002 0003 0003", /3 is requested twice/],
    ["00000003 'v' 00 'l' 0000", /UTF-8/],
    ['00000001 ff 0000', /UTF-8/],
  ];
  for (const [bytes, reason] of reasons) t.match(decodeInfoRequest(hex(bytes)), { ok: false, reason });
});

t.test('EXPORT_NAME is a bare name', async (t) => {
  t.strictSame(decodeExportName(Buffer.from('vol')), { ok: true, value: 'vol' });
  t.strictSame(decodeExportName(Buffer.alloc(0)), { ok: true, value: '' });
  t.equal(decodeExportName(Buffer.alloc(4097, 'a')).ok, false);
});
