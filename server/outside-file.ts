/** Where a file that a user named, for a volume or a log, really lies. */
import { lstat, realpath } from 'node:fs/promises';
import { dirname, normalize, sep } from 'node:path';
import { diskError } from '../engine/disk/disk-error.ts';
import { EngineError, errnoOf } from '../engine/errors.ts';

/** Throws `invalid` when `file`, an absolute path, lies inside `folder`, by whatever name; it need not exist. `whose` begins the refusal. */
export async function refuseInside(folder: string, whose: string, file: string): Promise<void> {
  const [real, inside] = await Promise.all([realPathOf(whose, file), realpath(folder)]);
  if (real !== inside && !real.startsWith(inside.endsWith(sep) ? inside : inside + sep)) return;
  const what =
    `${whose}: ${file} lies inside the state folder of this node, ${folder}: ` +
    'name a file elsewhere, or name none, and the node keeps one itself';
  throw new EngineError('invalid', what);
}

/** The real path of a file or, while it does not exist, of the nearest folder above it that does. */
async function realPathOf(whose: string, file: string): Promise<string> {
  // Of `/a/link/..` the disks make `/a`, so that is the one to look at.
  for (let path = normalize(file); ; path = dirname(path)) {
    try {
      return await realpath(path);
    } catch (error) {
      const errno = errnoOf(error);
      if (errno !== 'ENOENT' && errno !== 'ENOTDIR') throw diskError(file, 'looking it up', error);
      // What a link that leads nowhere will lead to, once we have made our own folders, cannot be told now.
      const own = await lstat(path).catch(() => undefined);
      if (own?.isSymbolicLink() !== true) continue;
      const what = `${whose}: ${path} is a symbolic link that leads nowhere: make what it leads to first`;
      throw new EngineError('invalid', what, { cause: error });
    }
  }
}
