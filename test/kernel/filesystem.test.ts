import t from 'tap';
import { MACHINE_TEST_BOUND_MS, runInMachine } from '../fixtures/kernel-machine.ts';

// The file's bound is another than its test's.
t.setTimeout(MACHINE_TEST_BOUND_MS);

t.test('filesystems and a database on the kernel device', (t) =>
  runInMachine(t, ['machine', 'ext4', 'fio', 'database', 'discard', 'read-only']),
);
