import t from 'tap';
import { MACHINE_TEST_BOUND_MS, runInMachine } from '../fixtures/kernel-machine.ts';

// The file's bound is another than its test's.
t.setTimeout(MACHINE_TEST_BOUND_MS);

t.test(
  'a database goes back to a snapshot (T4); the server is killed in a loop with a snapshot in place',
  (t) => runInMachine(t, ['snapshot-database', 'snapshot-killed']),
);
