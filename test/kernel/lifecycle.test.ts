import t from 'tap';
import { MACHINE_TEST_BOUND_MS, runInMachine } from '../fixtures/kernel-machine.ts';

// The file's bound is another than its test's.
t.setTimeout(MACHINE_TEST_BOUND_MS);

t.test(
  'devices are chosen, refused, lost and freed; other clients work; a killed server loses nothing synced',
  (t) => runInMachine(t, ['server-killed', 'detach', 'nbd-client', 'choose-device']),
);

t.test(
  'a snapshot beside its volume, and restores with devices attached; and what goes wrong without T4',
  (t) => runInMachine(t, ['restore', 'restore-mutants']),
);
