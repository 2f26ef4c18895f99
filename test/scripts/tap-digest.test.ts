import t from 'tap';
import { parseTotals, TapDigest } from '../../scripts/lib/tap-digest.ts';

function digest(text: string): { printed: string[]; digest: TapDigest } {
  const printed: string[] = [];
  const digest = new TapDigest((line) => printed.push(line));
  for (const line of text.split('\n')) digest.push(line);
  digest.end();
  return { printed, digest };
}

t.test('totals: counts that tap leaves out are zero', async (t) => {
  t.strictSame(parseTotals('# { total: 6, pass: 4, fail: 1, skip: 1 }'), {
    total: 6,
    pass: 4,
    fail: 1,
    skip: 1,
    todo: 0,
  });
  t.strictSame(parseTotals('# { total: 3, pass: 3 }')?.fail, 0);
  t.equal(parseTotals('    # { total: 3, pass: 3 }'), undefined, 'not those of a test inside');
  t.equal(parseTotals('# total: 3'), undefined);
});

t.test('of a passed file one line, of a failed one the failures with their diagnosis', async (t) => {
  const { printed, digest: done } = digest(
    [
      'TAP version 14',
      '# Subtest: test/good.test.ts',
      '    ok 1 - fine',
      '      ---',
      '      note: a passed test may have one too',
      '      ...',
      '    1..1',
      'ok 1 - test/good.test.ts # time=5ms',
      '',
      '# Subtest: test/bad.test.ts',
      '    ok 1 - fine',
      '    not ok 2 - broken',
      '      ---',
      '      compare: ===',
      '      ...',
      '    1..2',
      'not ok 2 - test/bad.test.ts # time=7ms',
      '  ---',
      '  exitCode: 1',
      '  ...',
      '',
      '1..2',
      '# { total: 3, pass: 2, fail: 1 }',
      'coverage follows',
    ].join('\n'),
  );
  t.strictSame(printed, [
    'ok 1 - test/good.test.ts # time=5ms',
    'not ok 2 - test/bad.test.ts # time=7ms',
    '    not ok 2 - broken',
    '      ---',
    '      compare: ===',
    '      ...',
    '  ---',
    '  exitCode: 1',
    '  ...',
    '# { total: 3, pass: 2, fail: 1 }',
    'coverage follows',
  ]);
  t.match(done.totals, { pass: 2, fail: 1 });
});

t.test('blocks between braces are understood too', async (t) => {
  const { printed } = digest(
    [
      'not ok 1 - test/bad.test.ts # time=7ms {',
      '    not ok 1 - broken',
      '    ok 2 - fine',
      '}',
      'ok 2 - test/good.test.ts {',
      '    ok 1 - fine',
      '}',
      '# { total: 3, pass: 2, fail: 1 }',
    ].join('\n'),
  );
  t.strictSame(printed, [
    'not ok 1 - test/bad.test.ts # time=7ms {',
    '    not ok 1 - broken',
    'ok 2 - test/good.test.ts {',
    '# { total: 3, pass: 2, fail: 1 }',
  ]);
});

t.test('tests that end without totals are told apart from tests that passed', async (t) => {
  const { printed, digest: done } = digest('# Subtest: test/dead.test.ts\n    ok 1 - so far');
  t.equal(done.totals, undefined);
  t.strictSame(printed, ['    ok 1 - so far', 'The tests ended without totals.']);
});
