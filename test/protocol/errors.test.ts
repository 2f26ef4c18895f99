import t from 'tap';
import { nbdErrorName, nbdErrorOf, replyErrorName } from '../../protocol/errors.ts';

t.test('errno names map to the eight values of the specification', async (t) => {
  const expected: [string | undefined, number][] = [
    ['EPERM', 1],
    ['EROFS', 1],
    ['EACCES', 1],
    ['EIO', 5],
    ['ENOMEM', 12],
    ['EINVAL', 22],
    ['ENOSPC', 28],
    ['EDQUOT', 28],
    ['EFBIG', 28],
    ['EOVERFLOW', 75],
    ['ENOTSUP', 95],
    ['EOPNOTSUPP', 95],
    ['ESHUTDOWN', 108],
    ['ENXIO', 5],
    ['ESTALE', 5],
    ['no errno at all', 5],
    [undefined, 5],
  ];
  for (const [errno, value] of expected) t.equal(nbdErrorOf(errno), value, String(errno));
});

t.test('values have one name each, and unknown ones count as EINVAL', async (t) => {
  for (const name of ['EPERM', 'EIO', 'ENOMEM', 'EINVAL', 'ENOSPC', 'EOVERFLOW', 'ENOTSUP', 'ESHUTDOWN']) {
    t.equal(nbdErrorName(nbdErrorOf(name)), name);
  }
  t.equal(nbdErrorName(0), 'success');
  t.equal(nbdErrorName(30), 'EINVAL', 'EROFS has no place on the wire');
  t.equal(nbdErrorName(0xffffffff), 'EINVAL');
});

t.test('option errors are called by their names in the specification', async (t) => {
  t.equal(replyErrorName(2 ** 31 + 1), 'NBD_REP_ERR_UNSUP');
  t.equal(replyErrorName(2 ** 31 + 10), 'NBD_REP_ERR_EXT_HEADER_REQD');
  t.equal(replyErrorName(2 ** 31 + 4711), '0x80001267');
});
