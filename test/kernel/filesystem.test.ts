import t from 'tap';
import { runInMachine } from '../fixtures/kernel-machine.ts';

t.test('filesystems and a database on the kernel device', (t) =>
  runInMachine(t, ['machine', 'ext4', 'fio', 'database', 'discard', 'read-only']),
);
