/** Readers of arguments. What they refuse is wrong usage (exit status 2), told by commander with the argument's name. */
import { resolve } from 'node:path';
import { InvalidArgumentError } from 'commander';
import { EngineError } from '../../engine/errors.ts';
import { checkName } from '../../engine/names.ts';
import type { GroupRequest } from '../control/schemas.ts';
import { parseSize } from '../sizes.ts';
import { parseListenUri, parseUri } from '../uris.ts';

export type VolumeArgument = GroupRequest['volumes'][number];

function usage<Value>(read: () => Value): Value {
  try {
    return read();
  } catch (error) {
    if (error instanceof EngineError) throw new InvalidArgumentError(error.message);
    throw error;
  }
}

export function groupArgument(text: string): string {
  return usage(() => {
    checkName('group', text);
    return text;
  });
}

/** `GROUP/VOLUME`. */
export function exportArgument(text: string): string {
  return usage(() => {
    const [group = '', volume, more] = text.split('/');
    if (volume === undefined || more !== undefined) {
      throw new EngineError('invalid', `${JSON.stringify(text)} is not a volume: write GROUP/VOLUME`);
    }
    checkName('group', group);
    checkName('volume', volume);
    return text;
  });
}

export function sizeArgument(text: string): number {
  return usage(() => parseSize(text));
}

/**
 * `NAME:SIZE`, `NAME:SIZE,file=PATH`, or `NAME,file=PATH` for a file or device that is there and says its own size. The
 * path goes to the end, commas and all; a relative one is taken from the current folder.
 */
export function volumeArgument(text: string, previous: VolumeArgument[] = []): VolumeArgument[] {
  const volume = usage((): VolumeArgument => {
    const [, name = '', size, file] = /^([^:,]*)(?::([^,]*))?(?:,file=(.*))?$/s.exec(text) ?? [];
    if (name === '' || (size === undefined && file === undefined) || file === '') {
      throw new EngineError(
        'invalid',
        `${JSON.stringify(text)} is not a volume: write NAME:SIZE, or NAME:SIZE,file=PATH`,
      );
    }
    checkName('volume', name);
    const sizeBytes = size === undefined ? undefined : parseSize(size);
    if (sizeBytes === 0) throw new EngineError('invalid', `volume ${name} has no size`);
    return {
      name,
      ...(sizeBytes === undefined ? {} : { size: sizeBytes }),
      ...(file === undefined ? {} : { file: resolve(file) }),
    };
  });
  return [...previous, volume];
}

export function deviceArgument(text: string): string {
  if (/^\/dev\/nbd[0-9]{1,5}$/.test(text)) return text;
  throw new InvalidArgumentError(`${JSON.stringify(text)} is not an nbd device: write /dev/nbd0`);
}

/** A whole number between bounds. */
export function countArgument(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d{1,9}$/.test(text) && value >= least && value <= most) return value;
    throw new InvalidArgumentError(`it is a whole number from ${least} to ${most}.`);
  };
}

/** Checked here, kept as text: the settings are read in one place. */
export function listenArgument(text: string, previous: string[] = []): string[] {
  usage(() => parseListenUri(text));
  return [...previous, text];
}

export function uriArgument(text: string): string {
  usage(() => parseUri(text));
  return text;
}

export function pathArgument(text: string): string {
  if (text === '') throw new InvalidArgumentError('it is empty.');
  return resolve(text);
}
