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
  return usage(() => nameOf('group', text));
}

export interface VolumeOfGroup {
  readonly group: string;
  readonly volume: string;
}

export interface ImageArgument extends VolumeOfGroup {
  readonly snapshot: string;
}

export interface SnapshotArgument {
  readonly group: string;
  readonly snapshot: string;
}

const IMAGE = /^([^/@]*)\/([^/@]*)(?:@([^/@]*))?$/;

/** Throws `invalid`, with how it is written. */
function parseImage(text: string, form: string): VolumeOfGroup & { readonly snapshot: string | undefined } {
  const [, group, volume, snapshot] = IMAGE.exec(text) ?? [];
  if (group === undefined || volume === undefined)
    throw new EngineError('invalid', `${JSON.stringify(text)} is not a volume: write ${form}`);
  checkName('group', group);
  checkName('volume', volume);
  if (snapshot !== undefined) checkName('snapshot', snapshot);
  return { group, volume, snapshot };
}

/** `GROUP/VOLUME` or `GROUP/VOLUME@SNAPSHOT`. */
export function exportArgument(text: string): string {
  return usage(() => {
    parseImage(text, 'GROUP/VOLUME or GROUP/VOLUME@SNAPSHOT');
    return text;
  });
}

/** `GROUP/VOLUME`. */
export function exportOfVolumeArgument(text: string): VolumeOfGroup {
  return usage(() => {
    const { group, volume, snapshot } = parseImage(text, 'GROUP/VOLUME');
    if (snapshot !== undefined)
      throw new EngineError('invalid', `${JSON.stringify(text)} is a snapshot: write GROUP/VOLUME`);
    return { group, volume };
  });
}

/** `GROUP/VOLUME@SNAPSHOT`. */
export function imageArgument(text: string): ImageArgument {
  return usage(() => {
    const { snapshot, ...rest } = parseImage(text, 'GROUP/VOLUME@SNAPSHOT');
    if (snapshot === undefined)
      throw new EngineError(
        'invalid',
        `${JSON.stringify(text)} names no snapshot: write GROUP/VOLUME@SNAPSHOT`,
      );
    return { ...rest, snapshot };
  });
}

/** `@SNAPSHOT`; its name. */
export function atSnapshotArgument(text: string): string {
  return usage(() => {
    if (!text.startsWith('@'))
      throw new EngineError('invalid', `${JSON.stringify(text)} is not a snapshot: write @SNAPSHOT`);
    return nameOf('snapshot', text.slice(1));
  });
}

/** `GROUP@SNAPSHOT`. */
export function snapshotArgument(text: string): SnapshotArgument {
  return usage(() => {
    const [group = '', snapshot, more] = text.split('@');
    if (snapshot === undefined || more !== undefined)
      throw new EngineError('invalid', `${JSON.stringify(text)} is not a snapshot: write GROUP@NAME`);
    return { group: nameOf('group', group), snapshot: nameOf('snapshot', snapshot) };
  });
}

export function snapshotNameArgument(text: string): string {
  return usage(() => nameOf('snapshot', text));
}

export function volumeNameArgument(text: string): string {
  return usage(() => nameOf('volume', text));
}

function nameOf(kind: string, text: string): string {
  checkName(kind, text);
  return text;
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

const SECONDS_IN: Readonly<Record<string, number>> = { '': 1, s: 1, m: 60, h: 3600, d: 86_400 };

/** A time in whole seconds, or with a unit: `90`, `90s`, `15m`, `2h`, `1d`. */
export function secondsArgument(text: string): number {
  const [, count, unit = ''] = /^(\d{1,9})([smhd]?)$/.exec(text) ?? [];
  const factor = SECONDS_IN[unit];
  if (count === undefined || factor === undefined)
    throw new InvalidArgumentError('write seconds, or a number with a unit: 90s, 15m, 2h, 1d.');
  return Number(count) * factor;
}

/** How often, in seconds: `5`, `0.5`. */
export function periodArgument(text: string): number {
  const seconds = Number(text);
  if (/^\d{1,5}(\.\d{1,3})?$/.test(text) && seconds >= 0.1) return seconds;
  throw new InvalidArgumentError('write seconds, 0.1 or more.');
}

export function linkNameArgument(text: string): string {
  return usage(() => nameOf('link', text));
}
