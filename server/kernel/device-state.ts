/**
 * What the kernel says about its nbd devices: sysfs, the mount table and the swap table. Reads only; every path hangs
 * under a root that tests replace.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

/** Bytes of a sector in /sys/block/DEVICE/size, whatever the block size of the device. */
const SYSFS_SECTOR_BYTES = 512;

export interface KernelPaths {
  readonly sys: string;
  readonly proc: string;
  readonly dev: string;
}

export const KERNEL_PATHS: KernelPaths = { sys: '/sys', proc: '/proc', dev: '/dev' };

export interface DeviceState {
  /** `nbd0` */
  readonly name: string;
  readonly sizeBytes: number;
  /** The process that set the connection up; undefined while the device is free. */
  readonly ownerPid: number | undefined;
  readonly readOnly: boolean;
}

/** `nbd0` of `/dev/nbd0` or `nbd0`; undefined when that is not a whole nbd device (`/dev/nbd0p1`, `/dev/sda`). */
export function deviceName(device: string): string | undefined {
  return /^(?:\/dev\/)?(nbd(?:0|[1-9][0-9]{0,4}))$/.exec(device)?.[1];
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return (await readFile(path, 'utf8')).trim();
  } catch {
    return undefined;
  }
}

async function entriesOf(path: string): Promise<string[]> {
  try {
    return await readdir(path);
  } catch {
    return [];
  }
}

/** The state of one device, or undefined when the kernel has no such device. */
export async function readDeviceState(paths: KernelPaths, name: string): Promise<DeviceState | undefined> {
  const folder = join(paths.sys, 'block', name);
  const size = await readText(join(folder, 'size'));
  if (size === undefined) return undefined;
  const pid = await readText(join(folder, 'pid'));
  return {
    name,
    sizeBytes: Number(size) * SYSFS_SECTOR_BYTES,
    ownerPid: pid === undefined ? undefined : Number(pid),
    readOnly: (await readText(join(folder, 'ro'))) === '1',
  };
}

/** Names of all nbd devices the kernel has, by number. Empty when the module is not loaded. */
export async function listDeviceNames(paths: KernelPaths): Promise<string[]> {
  const names = (await entriesOf(join(paths.sys, 'block'))).filter((name) => deviceName(name) === name);
  return names.sort((a, b) => Number(a.slice(3)) - Number(b.slice(3)));
}

export interface MountEntry {
  /** `major:minor` of the mounted filesystem. */
  readonly deviceNumber: string;
  readonly mountPoint: string;
  readonly source: string;
}

/** Undoes the octal escapes of the tables in /proc: `\040` is a space. */
function unescapeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

/** Parses /proc/self/mountinfo (proc(5)): fixed fields, optional ones, a dash, then type and source. */
export function parseMountInfo(text: string): MountEntry[] {
  const entries: MountEntry[] = [];
  for (const line of text.split('\n')) {
    const fields = line.split(' ');
    const dash = fields.indexOf('-', 6);
    const [deviceNumber, mountPoint, source] = [
      fields[2],
      fields[4],
      dash < 0 ? undefined : fields[dash + 2],
    ];
    if (deviceNumber === undefined || mountPoint === undefined || source === undefined) continue;
    entries.push({ deviceNumber, mountPoint: unescapeOctal(mountPoint), source: unescapeOctal(source) });
  }
  return entries;
}

/** Paths of the swap areas in /proc/swaps. */
export function parseSwaps(text: string): string[] {
  return text
    .split('\n')
    .slice(1)
    .map((line) => unescapeOctal(line.split(/\s+/)[0] ?? ''))
    .filter((path) => path !== '');
}

/** One block device of a disk: the whole, or a partition. */
interface DevicePart {
  readonly name: string;
  readonly number: string | undefined;
  readonly holders: readonly string[];
}

async function partsOf(paths: KernelPaths, name: string): Promise<DevicePart[]> {
  const whole = join(paths.sys, 'block', name);
  const folders = [{ part: name, folder: whole }];
  for (const entry of await entriesOf(whole)) {
    if (entry.startsWith(`${name}p`)) folders.push({ part: entry, folder: join(whole, entry) });
  }
  return Promise.all(
    folders.map(async ({ part, folder }) => ({
      name: part,
      number: await readText(join(folder, 'dev')),
      holders: await entriesOf(join(folder, 'holders')),
    })),
  );
}

/**
 * Who uses the device or one of its partitions, each as a phrase for people (`mounted on /mnt`, `used as swap`,
 * `held by dm-0`). Mounts are compared by device number, and by source for filesystems that have numbers of their own
 * (btrfs). Mounts of other namespaces do not show here: opening the device exclusively is what decides.
 */
export async function usersOf(paths: KernelPaths, name: string): Promise<string[]> {
  const [parts, mounts, swaps] = await Promise.all([
    partsOf(paths, name),
    readText(join(paths.proc, 'self/mountinfo')),
    readText(join(paths.proc, 'swaps')),
  ]);
  const mounted = parseMountInfo(mounts ?? '');
  const swapped = parseSwaps(swaps ?? '');
  const users: string[] = [];
  for (const part of parts) {
    const which = part.name === name ? '' : ` (${part.name})`;
    for (const mount of mounted) {
      if (mount.deviceNumber === part.number || mount.source === `/dev/${part.name}`) {
        users.push(`mounted on ${mount.mountPoint}${which}`);
      }
    }
    if (swapped.includes(`/dev/${part.name}`)) users.push(`used as swap${which}`);
    for (const holder of part.holders) users.push(`held by ${holder}${which}`);
  }
  return users;
}

/** Whether this process has CAP_SYS_ADMIN (bit 21 of CapEff in /proc/self/status), which the driver asks for. */
export async function hasSysAdmin(paths: KernelPaths): Promise<boolean> {
  const status = await readText(join(paths.proc, 'self/status'));
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(status ?? '')?.[1];
  return effective !== undefined && ((BigInt(`0x${effective}`) >> 21n) & 1n) === 1n;
}
