import { systemClock } from '../../engine/clock.ts';
import { FileFolder } from '../../engine/disk/file-folder.ts';
import { formatNbdUri } from '../../protocol/uri.ts';
import { loadSettings } from '../config.ts';
import { EventLog } from '../events.ts';
import { KernelDevices } from '../kernel/kernel-devices.ts';
import { guardAgainstMemoryPressure } from '../kernel/process-guard.ts';
import { type LogOutput, openLog } from '../logger.ts';
import { TidemarkNode } from '../node.ts';
import { machineDigest } from '../state-folder.ts';
import { DONE, REFUSED } from './exit-status.ts';
import type { ServeFlags } from './serve.ts';
import type { Output } from './session.ts';

/** Runs a node until it is told to stop; returns the exit status. */
export async function serve(flags: ServeFlags, output: Output): Promise<number> {
  const settings = await loadSettings(flags, flags.config);
  const log = openLog(settings.logLevel);
  dieLoudly(log);
  const events = new EventLog();
  const node = await TidemarkNode.start({
    settings,
    machine: await machineDigest(),
    adopt: flags.adopt === true,
    clock: systemClock,
    logger: log.logger,
    events,
    devices: new KernelDevices({ logger: log.logger, events }),
    guard: () => {
      const report = guardAgainstMemoryPressure();
      log.logger.debug(report, 'guarded against memory pressure');
    },
    openFolder: (path) => FileFolder.open(path),
  });
  const listeners = node.listeners.map(formatNbdUri).join(' ');
  output.line(`tidemark ready: ${listeners} control ${node.controlPath}`);
  const signal = await stopSignal();
  log.logger.info({ signal }, 'stopping');
  // Whoever asks twice does not want to wait: what was flushed is safe, the rest is as after a crash.
  for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, () => process.exit(REFUSED));
  const failures = await node.stop();
  log.logger.info({ failures }, 'stopped');
  log.flush();
  return failures.length === 0 ? DONE : REFUSED;
}

function stopSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    const stop = (signal: NodeJS.Signals): void => {
      process.removeListener('SIGTERM', stop);
      process.removeListener('SIGINT', stop);
      resolve(signal);
    };
    process.on('SIGTERM', stop);
    process.on('SIGINT', stop);
  });
}

/** A bug ends the process, with its stack in the log: going on with a state that nobody foresaw could harm data. */
function dieLoudly(log: LogOutput): void {
  process.on('uncaughtException', (error, origin) => {
    log.logger.fatal({ err: error, origin }, 'a bug ended the node');
    log.flush();
    process.exit(REFUSED);
  });
}
