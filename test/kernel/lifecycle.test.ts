import t from 'tap';
import { runInMachine } from '../fixtures/kernel-machine.ts';

t.test(
  'devices are chosen, refused, lost and freed; other clients work; a killed server loses nothing synced',
  (t) => runInMachine(t, ['server-killed', 'detach', 'nbd-client', 'choose-device']),
);
