import t from 'tap';
import { Log, MIN_LOG_BYTES } from '../../../engine/log/log.ts';
import { ManualClock } from '../../fixtures/manual-clock.ts';
import { MemoryFolder } from '../../fixtures/memory-disk.ts';
import { Random } from '../../fixtures/random.ts';

const GROUP = '00112233-4455-6677-8899-aabbccddeeff';

t.test('what is synced is there after a restart, in order', async (t) => {
  const folder = new MemoryFolder(new Random(1));
  const clock = new ManualClock();
  const disk = await folder.create('log.ring', Log.bytesNeeded(MIN_LOG_BYTES));
  await Log.create(disk, { groupId: GROUP, generation: 1, firstLsn: 2 ** 44 - 5 });
  const { log, batches } = await Log.open(disk, { groupId: GROUP }, 2 ** 44 - 5, clock);
  t.same(batches, []);
  await log.allocate();
  const payload = Buffer.from('hello');
  const record = log.tryAppendWrite(3, 2 ** 50 + 1, payload, 0, 5);
  t.equal(record?.batch.bytes?.toString('latin1', record.dataStart, record.dataStart + 5), 'hello');
  log.tryAppendZeroes(0, 4096, 65536, true);
  await log.sync();
  log.appendControl(Buffer.alloc(200_000 - 80_000, 7));
  await log.close();
  const again = await folder.open('log.ring');
  const second = await Log.open(again, { groupId: GROUP }, 2 ** 44 - 5, clock);
  t.same(second.warnings, []);
  t.equal(second.batches.length, 2);
  t.equal(second.log.endLsn, log.endLsn);
  const [first, control] = second.batches;
  t.equal(first?.records.length, 2);
  t.equal(control?.control?.length, 120_000);
  const target = Buffer.alloc(5);
  if (first?.records[0] !== undefined)
    await second.log.readPayload(first, first.records[0].dataStart, target, 0, 5);
  t.equal(target.toString(), 'hello');
  await second.log.free(second.log.endLsn);
  await second.log.close();
});
