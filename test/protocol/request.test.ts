import t from 'tap';
import * as nbd from '../../protocol/constants.ts';
import { payloadIsTolerable, type TransmissionRules, validateRequest } from '../../protocol/request.ts';

const MIB = 1024 * 1024;
const everything =
  nbd.NBD_FLAG_HAS_FLAGS |
  nbd.NBD_FLAG_SEND_FLUSH |
  nbd.NBD_FLAG_SEND_FUA |
  nbd.NBD_FLAG_SEND_TRIM |
  nbd.NBD_FLAG_SEND_WRITE_ZEROES |
  nbd.NBD_FLAG_SEND_DF |
  nbd.NBD_FLAG_SEND_CACHE |
  nbd.NBD_FLAG_SEND_FAST_ZERO;

function rules(changes: Partial<TransmissionRules> = {}): TransmissionRules {
  return {
    sizeBytes: 10 * MIB,
    transmissionFlags: everything,
    minimumBlockBytes: 1,
    maximumPayloadBytes: 4 * MIB,
    extendedHeaders: false,
    contextCount: 1,
    ...changes,
  };
}

const { NBD_SUCCESS: ok, NBD_EINVAL: invalid, NBD_ENOSPC: noSpace, NBD_EPERM: denied } = nbd;

t.test('ranges', async (t) => {
  const size = 10 * MIB;
  for (const [type, beyond] of [
    [nbd.NBD_CMD_READ, invalid],
    [nbd.NBD_CMD_WRITE, noSpace],
    [nbd.NBD_CMD_TRIM, invalid],
    [nbd.NBD_CMD_CACHE, invalid],
    [nbd.NBD_CMD_WRITE_ZEROES, noSpace],
    [nbd.NBD_CMD_BLOCK_STATUS, invalid],
  ] as const) {
    t.equal(validateRequest(type, 0, size - 1, 1, rules()), ok, `${type}: the last byte`);
    t.equal(validateRequest(type, 0, 7, 13, rules()), ok, `${type}: any alignment`);
    t.equal(validateRequest(type, 0, size - 1, 2, rules()), beyond, `${type}: one byte too far`);
    t.equal(validateRequest(type, 0, size + 1, 1, rules()), beyond, `${type}: starts beyond the end`);
    t.equal(
      validateRequest(type, 0, 2 ** 64, 4096, rules()),
      beyond,
      `${type}: an offset that wraps in 64 bits`,
    );
    t.equal(validateRequest(type, 0, 2 ** 63, 4096, rules()), beyond, `${type}: a negative offset`);
    t.equal(
      validateRequest(type, 0, 3, 512, rules({ minimumBlockBytes: 512 })),
      invalid,
      `${type}: offset within a block`,
    );
    t.equal(
      validateRequest(type, 0, 512, 3, rules({ minimumBlockBytes: 512 })),
      invalid,
      `${type}: length within a block`,
    );
  }
  t.equal(validateRequest(nbd.NBD_CMD_READ, 0, size, 0, rules()), ok, 'nothing, at the end');
});

t.test('payloads above the limit', async (t) => {
  const { NBD_CMD_READ, NBD_CMD_WRITE } = nbd;
  t.equal(validateRequest(NBD_CMD_READ, 0, 0, 4 * MIB, rules()), ok);
  t.equal(validateRequest(NBD_CMD_READ, 0, 0, 4 * MIB + 1, rules()), invalid);
  t.equal(validateRequest(NBD_CMD_READ, nbd.NBD_CMD_FLAG_DF, 0, 4 * MIB + 1, rules()), nbd.NBD_EOVERFLOW);
  t.equal(validateRequest(NBD_CMD_WRITE, 0, 0, 4 * MIB, rules()), ok);
  t.equal(validateRequest(NBD_CMD_WRITE, 0, 0, 4 * MIB + 1, rules()), invalid);
  t.equal(validateRequest(nbd.NBD_CMD_WRITE_ZEROES, 0, 0, 10 * MIB, rules()), ok, 'effects are not payloads');
  t.ok(payloadIsTolerable(8 * MIB, rules()));
  t.notOk(payloadIsTolerable(8 * MIB + 1, rules()));
});

t.test('read-only exports', async (t) => {
  const readOnly = rules({ transmissionFlags: everything | nbd.NBD_FLAG_READ_ONLY });
  for (const type of [nbd.NBD_CMD_WRITE, nbd.NBD_CMD_TRIM, nbd.NBD_CMD_WRITE_ZEROES]) {
    t.equal(validateRequest(type, 0, 0, 512, readOnly), denied);
    t.equal(validateRequest(type, 0, 11 * MIB, 512, readOnly), denied, 'also beyond the end');
  }
  for (const type of [nbd.NBD_CMD_READ, nbd.NBD_CMD_CACHE, nbd.NBD_CMD_BLOCK_STATUS]) {
    t.equal(validateRequest(type, 0, 0, 512, readOnly), ok);
  }
  t.equal(validateRequest(nbd.NBD_CMD_FLUSH, 0, 0, 0, readOnly), ok);
});

t.test('flags: each command takes its own, and FUA where it was offered', async (t) => {
  const own: Record<number, number> = {
    [nbd.NBD_CMD_READ]: nbd.NBD_CMD_FLAG_DF,
    [nbd.NBD_CMD_WRITE]: 0,
    [nbd.NBD_CMD_FLUSH]: 0,
    [nbd.NBD_CMD_TRIM]: 0,
    [nbd.NBD_CMD_CACHE]: 0,
    [nbd.NBD_CMD_WRITE_ZEROES]: nbd.NBD_CMD_FLAG_NO_HOLE | nbd.NBD_CMD_FLAG_FAST_ZERO,
    [nbd.NBD_CMD_BLOCK_STATUS]: nbd.NBD_CMD_FLAG_REQ_ONE,
  };
  for (const [name, flags] of Object.entries(own)) {
    const type = Number(name);
    const length = type === nbd.NBD_CMD_FLUSH ? 0 : 512;
    for (let bit = 0; bit < 16; bit += 1) {
      const flag = 1 << bit;
      const legal = (flags & flag) !== 0 || flag === nbd.NBD_CMD_FLAG_FUA;
      t.equal(
        validateRequest(type, flag, 0, length, rules()),
        legal ? ok : invalid,
        `${type} with bit ${bit}`,
      );
    }
  }
  const plain = rules({ transmissionFlags: nbd.NBD_FLAG_HAS_FLAGS | nbd.NBD_FLAG_SEND_WRITE_ZEROES });
  t.equal(validateRequest(nbd.NBD_CMD_WRITE, nbd.NBD_CMD_FLAG_FUA, 0, 1, plain), invalid);
  t.equal(validateRequest(nbd.NBD_CMD_READ, nbd.NBD_CMD_FLAG_DF, 0, 1, plain), invalid);
  t.equal(validateRequest(nbd.NBD_CMD_WRITE_ZEROES, nbd.NBD_CMD_FLAG_FAST_ZERO, 0, 1, plain), invalid);
  t.equal(validateRequest(nbd.NBD_CMD_WRITE_ZEROES, nbd.NBD_CMD_FLAG_NO_HOLE, 0, 1, plain), ok);
  const extended = rules({ extendedHeaders: true });
  t.equal(validateRequest(nbd.NBD_CMD_WRITE, nbd.NBD_CMD_FLAG_PAYLOAD_LEN, 0, 1, extended), ok);
  t.equal(validateRequest(nbd.NBD_CMD_READ, nbd.NBD_CMD_FLAG_PAYLOAD_LEN, 0, 1, extended), invalid);
});

t.test('commands that were not offered, and unknown ones', async (t) => {
  const nothing = rules({ transmissionFlags: nbd.NBD_FLAG_HAS_FLAGS, contextCount: 0 });
  t.equal(validateRequest(nbd.NBD_CMD_FLUSH, 0, 0, 0, nothing), invalid);
  for (const type of [4, 5, 6, 7, 8, 9, 0xffff]) {
    t.equal(validateRequest(type, 0, 0, 512, nothing), invalid, `type ${type}`);
  }
  t.equal(validateRequest(nbd.NBD_CMD_DISC, 0, 0, 0, nothing), ok);
  t.equal(validateRequest(nbd.NBD_CMD_FLUSH, 0, 512, 0, rules()), invalid, 'a flush with an offset');
  t.equal(validateRequest(nbd.NBD_CMD_FLUSH, 0, 0, 512, rules()), invalid, 'a flush with a length');
  t.equal(validateRequest(nbd.NBD_CMD_BLOCK_STATUS, 0, 0, 0, rules()), invalid, 'the status of nothing');
});
