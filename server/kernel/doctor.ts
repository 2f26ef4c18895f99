/**
 * `tidemark doctor`: looks whether this machine has what a node, and the kernel device, need. It changes nothing but a
 * file of its own in the state folder, which it removes. Native parts are loaded here on demand, so that one that does
 * not load is a finding.
 */
import { constants } from 'node:fs';
import { access, mkdtemp, open, rm, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { GIB, MIB } from '../../engine/units.ts';
import {
  hasSysAdmin,
  KERNEL_PATHS,
  type KernelPaths,
  listDeviceNames,
  readDeviceState,
} from './device-state.ts';
import { findModule, loadedModuleParameter } from './kernel-module.ts';

/** What a finding that is not `ok` stands in the way of. */
export type NeededFor = 'serve' | 'attach' | 'nothing';

export interface DoctorFinding {
  /** Stable short name. */
  readonly check: string;
  readonly ok: boolean;
  readonly detail: string;
  /** What to do, where there is something to do. */
  readonly remedy?: string;
  readonly neededFor: NeededFor;
}

const MINIMUM_NODE_MAJOR = 20;
/** Less free space than this is worth a word. */
const LOW_SPACE_BYTES = GIB;
const PROBE_FILE_BYTES = MIB;
const PROBE_HOLE_BYTES = 64 * 1024;

/** Runs every check. Never rejects: what goes wrong is a finding. */
export async function runDoctor(
  stateFolder: string,
  paths: KernelPaths = KERNEL_PATHS,
): Promise<DoctorFinding[]> {
  return [
    checkNode(),
    await checkNative('koffi', () => import('koffi')),
    await checkNative('ioctl-napi', () => import('ioctl-napi')),
    ...(await checkStateFolder(stateFolder)),
    await checkModule(paths),
    await checkDevices(paths),
    await checkRights(paths),
    ...(await checkTools(['nbd-client', 'fio'])),
  ];
}

function checkNode(): DoctorFinding {
  const ok = Number(process.versions.node.split('.')[0]) >= MINIMUM_NODE_MAJOR;
  const finding = {
    check: 'node',
    ok,
    detail: `Node.js ${process.versions.node}`,
    neededFor: 'serve',
  } as const;
  return ok ? finding : { ...finding, remedy: `install Node.js ${MINIMUM_NODE_MAJOR} or later` };
}

async function checkNative(name: string, load: () => Promise<unknown>): Promise<DoctorFinding> {
  const check = `package ${name}`;
  try {
    await load();
    return { check, ok: true, detail: 'loads', neededFor: 'serve' };
  } catch (error) {
    return {
      check,
      ok: false,
      detail: `does not load: ${firstLine(error)}`,
      remedy:
        name === 'koffi'
          ? 'install the dependencies on this machine, optional ones included (npm ci)'
          : 'install a C++ compiler, make and python3, then build it: npm rebuild ioctl-napi',
      neededFor: 'serve',
    };
  }
}

/** The folder, or the nearest one above it that exists: `serve` makes what is missing. */
async function existingFolder(path: string): Promise<string> {
  for (let folder = path; ; folder = join(folder, '..')) {
    try {
      await stat(folder);
      return folder;
    } catch {
      if (folder === '/' || folder === '.') return folder;
    }
  }
}

async function checkStateFolder(stateFolder: string): Promise<DoctorFinding[]> {
  const check = 'state folder';
  const folder = await existingFolder(stateFolder);
  const where = folder === stateFolder ? stateFolder : `${stateFolder} (to be made in ${folder})`;
  let scratch: string;
  try {
    await access(folder, constants.W_OK | constants.X_OK);
    scratch = await mkdtemp(join(folder, '.tidemark-doctor-'));
  } catch (error) {
    return [
      {
        check,
        ok: false,
        detail: `${where} cannot be written: ${firstLine(error)}`,
        remedy: 'choose another with --state DIR or TIDEMARK_STATE, or run as root',
        neededFor: 'serve',
      },
    ];
  }
  try {
    return [
      { check, ok: true, detail: `${where} can be written`, neededFor: 'serve' },
      await checkSpace(folder),
      ...(await checkFilesystem(scratch)),
    ];
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function checkSpace(folder: string): Promise<DoctorFinding> {
  const { bavail, bsize } = await statfs(folder);
  const freeBytes = bavail * bsize;
  const detail = `${(freeBytes / GIB).toFixed(1)} GiB free`;
  if (freeBytes >= LOW_SPACE_BYTES) return { check: 'free space', ok: true, detail, neededFor: 'nothing' };
  return {
    check: 'free space',
    ok: false,
    detail,
    remedy: 'volumes are sparse and grow as they are written: make room before they do',
    neededFor: 'nothing',
  };
}

/** Holes are given back and cached reads do not wait: both are optional, and say how well volumes will do here. */
async function checkFilesystem(scratch: string): Promise<DoctorFinding[]> {
  const file = await open(join(scratch, 'probe'), 'w+');
  try {
    const native = await import('../../engine/disk/native.ts');
    await file.write(Buffer.alloc(PROBE_FILE_BYTES, 1), 0, PROBE_FILE_BYTES, 0);
    const mode = native.FALLOC_FL_PUNCH_HOLE | native.FALLOC_FL_KEEP_SIZE;
    const punch = await native.fallocate(file.fd, mode, 0, PROBE_HOLE_BYTES);
    const target = Buffer.alloc(4096);
    const got = native.preadNoWait(file.fd, target, 0, target.length, PROBE_HOLE_BYTES);
    const failure = got === target.length ? undefined : native.noWaitFailure();
    return [
      filesystemFinding(
        'punch hole',
        punch,
        'trimmed space is given back',
        'trimmed space is zeroed and stays allocated',
      ),
      filesystemFinding(
        'read without waiting',
        failure === 'would-wait' ? undefined : failure,
        'cached reads are served at once',
        'reads take the thread pool, which is slower',
      ),
    ];
  } catch (error) {
    return [{ check: 'filesystem', ok: false, detail: firstLine(error), neededFor: 'nothing' }];
  } finally {
    await file.close();
  }
}

function filesystemFinding(
  check: string,
  failure: string | undefined,
  good: string,
  bad: string,
): DoctorFinding {
  if (failure === undefined) return { check, ok: true, detail: good, neededFor: 'nothing' };
  const remedy = 'put the state folder on ext4, XFS or btrfs';
  return { check, ok: false, detail: `${bad} (${failure})`, remedy, neededFor: 'nothing' };
}

async function checkModule(paths: KernelPaths): Promise<DoctorFinding> {
  const check = 'nbd module';
  const found = await findModule(paths, 'nbd');
  const neededFor = 'attach';
  switch (found.kind) {
    case 'loaded': {
      const partitions = await loadedModuleParameter(paths, 'nbd', 'max_part');
      const detail = partitions === '0' ? 'loaded, with max_part=0: partitions do not show' : 'loaded';
      return { check, ok: true, detail, neededFor };
    }
    case 'built-in':
      return { check, ok: true, detail: 'built into the kernel', neededFor };
    case 'loadable':
      return {
        check,
        ok: false,
        detail: 'there, but not loaded',
        remedy: "modprobe nbd max_part=8 (as root; at each start: 'nbd' in /etc/modules-load.d/nbd.conf)",
        neededFor,
      };
    case 'absent':
      return {
        check,
        ok: false,
        detail: `the kernel ${found.release} has none`,
        remedy:
          'boot a kernel with CONFIG_BLK_DEV_NBD (those of the distributions have it); serving works without',
        neededFor,
      };
  }
}

async function checkDevices(paths: KernelPaths): Promise<DoctorFinding> {
  const check = 'nbd devices';
  const names = await listDeviceNames(paths);
  const states = await Promise.all(names.map((name) => readDeviceState(paths, name)));
  const free = states.filter((state) => state !== undefined && state.ownerPid === undefined).length;
  const missing: string[] = [];
  for (const name of names) {
    await access(join(paths.dev, name)).catch(() => missing.push(name));
  }
  if (names.length > 0 && missing.length === names.length) {
    return {
      check,
      ok: false,
      detail: `the kernel has ${names.length}, but ${paths.dev} shows none`,
      remedy: 'in a container, pass the devices in (--device /dev/nbd0); else start udev or mount devtmpfs',
      neededFor: 'attach',
    };
  }
  if (free > 0)
    return { check, ok: true, detail: `${names.length}, of which ${free} free`, neededFor: 'attach' };
  return {
    check,
    ok: false,
    detail: names.length === 0 ? 'none' : `all ${names.length} in use`,
    remedy:
      names.length === 0 ? 'load the nbd module' : 'detach one, or load the module with a larger nbds_max',
    neededFor: 'attach',
  };
}

async function checkRights(paths: KernelPaths): Promise<DoctorFinding> {
  const check = 'rights';
  if (await hasSysAdmin(paths)) return { check, ok: true, detail: 'CAP_SYS_ADMIN', neededFor: 'attach' };
  return {
    check,
    ok: false,
    detail: 'no CAP_SYS_ADMIN',
    remedy: 'run the node as root to attach kernel devices; serving works without',
    neededFor: 'attach',
  };
}

/** Never missing in a way that matters: Tidemark attaches by itself. */
async function checkTools(tools: readonly string[]): Promise<DoctorFinding[]> {
  const folders = (process.env['PATH'] ?? '').split(':').concat('/usr/sbin', '/sbin');
  return Promise.all(
    tools.map(async (tool) => {
      for (const folder of folders) {
        try {
          await access(join(folder, tool), constants.X_OK);
          return { check: tool, ok: true, detail: 'installed (not needed)', neededFor: 'nothing' } as const;
        } catch {
          // Not in this folder: look into the next.
        }
      }
      return {
        check: tool,
        ok: true,
        detail: 'not installed, and not needed',
        neededFor: 'nothing',
      } as const;
    }),
  );
}

function firstLine(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return message.split('\n')[0] ?? message;
}
