/**
 * The settings of `tidemark serve`: flags, then a TOML file, then defaults; the first that says something counts.
 * The file is described in docs/configuration.md.
 */
import { readFile } from 'node:fs/promises';
import { totalmem } from 'node:os';
import { isAbsolute } from 'node:path';
import { parse, TomlError } from 'smol-toml';
import { type Static, Type } from 'typebox';
import { Value } from 'typebox/value';
import { EngineError, errnoOf } from '../engine/errors.ts';
import { MIB } from '../engine/units.ts';
import { MAX_PAYLOAD_BYTES } from '../protocol/limits.ts';
import { formatNbdUri, type NbdUri } from '../protocol/uri.ts';
import { DEFAULT_LIMITS, LARGE_REQUEST_BYTES, type ServerLimits } from './limits.ts';
import { LOG_LEVELS, type LogLevel } from './log-levels.ts';
import { describeShapeError } from './shape-errors.ts';
import { formatSize, parseSize } from './sizes.ts';
import { defaultStateFolder, statePaths } from './state-paths.ts';
import { checkSocketPath } from './unix-socket.ts';
import { parseListenUri, parseUri } from './uris.ts';

/** Listeners of one node: a bound on what a configuration can ask for. */
const MAX_LISTENERS = 16;

export interface Settings {
  readonly stateFolder: string;
  readonly listen: readonly NbdUri[];
  readonly controlPath: string;
  /** The URI at which other nodes reach this one; kept and shown, not interpreted. */
  readonly advertise: string | undefined;
  readonly logLevel: LogLevel;
  readonly limits: ServerLimits;
  readonly groups: GroupLimits;
}

/** What each group of the node may take. */
export interface GroupLimits {
  /** Memory for writes that are logged and not applied, and for maps, in bytes. */
  readonly memoryBytes: number;
  /** What a restore copies in the background, in bytes a second; 0: no limit. */
  readonly copyBytesPerSecond: number;
}

export const DEFAULT_GROUP_LIMITS: GroupLimits = {
  memoryBytes: 256 * MIB, // payload of some seconds of writing; the maps of 1 TiB at 64 KiB a region take 2 MiB each
  copyBytesPerSecond: 0,
};

/** What was given on the command line. */
export interface SettingFlags {
  readonly state?: string | undefined;
  readonly listen?: readonly string[] | undefined;
  readonly control?: string | undefined;
  readonly advertise?: string | undefined;
  readonly logLevel?: LogLevel | undefined;
}

const Bytes = Type.Union([Type.Integer({ minimum: 0 }), Type.String()]);
const Milliseconds = Type.Integer({ minimum: 1, maximum: 86_400_000 });

const LimitsTable = Type.Object(
  {
    'max-connections': Type.Optional(Type.Integer({ minimum: 1, maximum: 65_536 })),
    'handshake-timeout-ms': Type.Optional(Milliseconds),
    'max-requests-in-flight': Type.Optional(Type.Integer({ minimum: 1, maximum: 65_536 })),
    'private-bytes-per-connection': Type.Optional(Bytes),
    'shared-bytes': Type.Optional(Bytes),
    'stall-timeout-ms': Type.Optional(Milliseconds),
    'shutdown-grace-ms': Type.Optional(Milliseconds),
  },
  { additionalProperties: false },
);

const GroupsTable = Type.Object(
  { 'memory-bytes': Type.Optional(Bytes), 'copy-bytes-per-second': Type.Optional(Bytes) },
  { additionalProperties: false },
);

const ConfigFile = Type.Object(
  {
    listen: Type.Optional(Type.Array(Type.String(), { minItems: 1, maxItems: MAX_LISTENERS })),
    control: Type.Optional(Type.String({ minLength: 1 })),
    advertise: Type.Optional(Type.String({ minLength: 1 })),
    'log-level': Type.Optional(Type.Union(LOG_LEVELS.map((level) => Type.Literal(level)))),
    limits: Type.Optional(LimitsTable),
    groups: Type.Optional(GroupsTable),
  },
  { additionalProperties: false },
);
type ConfigFile = Static<typeof ConfigFile>;

/** Puts flags, file and defaults together. Throws `invalid`, `not-found` or `disk`, in one line that names the file and the setting. */
export async function loadSettings(flags: SettingFlags, configPath: string | undefined): Promise<Settings> {
  const file = configPath === undefined ? {} : await readConfigFile(configPath);
  const paths = statePaths(flags.state ?? defaultStateFolder());
  const listen = flags.listen ?? file.listen ?? [];
  if (listen.length > MAX_LISTENERS) {
    throw new EngineError('invalid', `${listen.length} listeners asked for, ${MAX_LISTENERS} are the most`);
  }
  const controlPath = flags.control ?? file.control ?? paths.controlSocket;
  // A refusal names the file when the file said it.
  const from = <Value>(key: keyof SettingFlags & keyof ConfigFile, read: () => Value): Value =>
    flags[key] === undefined && file[key] !== undefined ? inFile(configPath ?? '', key, read) : read();
  from('control', () => checkControlPath(controlPath));
  const advertise = flags.advertise ?? file.advertise;
  return {
    stateFolder: paths.folder,
    listen: listen.length > 0 ? from('listen', () => listen.map(parseListenUri)) : [unixUri(paths.nbdSocket)],
    controlPath,
    advertise:
      advertise === undefined ? undefined : from('advertise', () => formatNbdUri(parseUri(advertise))),
    logLevel: flags.logLevel ?? (file['log-level'] as LogLevel | undefined) ?? 'info',
    limits: limitsOf(file.limits ?? {}, configPath ?? ''),
    groups: groupLimitsOf(file.groups ?? {}, configPath ?? ''),
  };
}

function checkControlPath(path: string): void {
  if (!isAbsolute(path))
    throw new EngineError('invalid', `the control socket ${path} is not an absolute path`);
  checkSocketPath(path);
}

/** Does what may refuse a value of the file, and puts the file and the setting before the refusal. */
function inFile<Value>(path: string, key: string, read: () => Value): Value {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof EngineError)) throw error;
    throw new EngineError(error.code, `${path}: setting '${key}': ${error.message}`, { cause: error });
  }
}

function unixUri(path: string): NbdUri {
  checkSocketPath(path);
  return { scheme: 'nbd+unix', tls: false, address: { kind: 'unix', path }, exportName: '' };
}

async function readConfigFile(path: string): Promise<ConfigFile> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'ENOENT') throw new EngineError('not-found', `there is no configuration file ${path}`);
    throw new EngineError('disk', `cannot read the configuration file ${path}: ${errno ?? String(error)}`);
  }
  let value: unknown;
  try {
    value = parse(text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const reason = error.message.split('\n')[0]?.replace('Invalid TOML document: ', '') ?? '';
    throw new EngineError('invalid', `${path}:${error.line}:${error.column}: ${reason}`);
  }
  const errors = Value.Errors(ConfigFile, value);
  const [first] = errors;
  if (first === undefined) return value as ConfigFile;
  const setting = first.instancePath.slice(1).replaceAll('/', '.');
  throw new EngineError(
    'invalid',
    isUnknown(ConfigFile, setting)
      ? `${path}: unknown setting '${setting}'`
      : `${path}: setting '${setting}' ${describeShapeError(errors)}`,
  );
}

function isUnknown(schema: typeof ConfigFile, setting: string): boolean {
  const [head = '', tail] = setting.split('.');
  if (!(head in schema.properties)) return true;
  const table = head === 'limits' ? LimitsTable : head === 'groups' ? GroupsTable : undefined;
  return table !== undefined && tail !== undefined && !(tail in table.properties);
}

/** Smallest bound of each setting in bytes: below it one request could never be served. */
const LEAST_BYTES = {
  privateBytesPerConnection: LARGE_REQUEST_BYTES,
  sharedBytes: MAX_PAYLOAD_BYTES,
  memoryBytes: MAX_PAYLOAD_BYTES,
};

/** A size of the file: a number of bytes, or text. */
function sizeOf(value: number | string, path: string, key: string): number {
  return typeof value === 'number' ? value : inFile(path, key, () => parseSize(value));
}

/** A size of the file that memory is taken for. */
function memorySizeOf(value: number | string, path: string, key: string, least: number): number {
  const size = sizeOf(value, path, key);
  if (size < least)
    throw new EngineError(
      'invalid',
      `${path}: setting '${key}' is below ${least} bytes, the least that works`,
    );
  const memory = totalmem();
  if (size > memory)
    throw new EngineError(
      'invalid',
      `${path}: setting '${key}' is more than the memory of this machine, ${formatSize(memory)}`,
    );
  return size;
}

function groupLimitsOf(table: Static<typeof GroupsTable>, path: string): GroupLimits {
  const { 'memory-bytes': memory, 'copy-bytes-per-second': copy } = table;
  return {
    memoryBytes:
      memory === undefined
        ? DEFAULT_GROUP_LIMITS.memoryBytes
        : memorySizeOf(memory, path, 'groups.memory-bytes', LEAST_BYTES.memoryBytes),
    copyBytesPerSecond:
      copy === undefined
        ? DEFAULT_GROUP_LIMITS.copyBytesPerSecond
        : sizeOf(copy, path, 'groups.copy-bytes-per-second'),
  };
}

function limitsOf(table: Static<typeof LimitsTable>, path: string): ServerLimits {
  const bytes = (
    key: 'private-bytes-per-connection' | 'shared-bytes',
    field: 'privateBytesPerConnection' | 'sharedBytes',
  ): number => {
    const value = table[key];
    return value === undefined
      ? DEFAULT_LIMITS[field]
      : memorySizeOf(value, path, `limits.${key}`, LEAST_BYTES[field]);
  };
  return {
    maxConnections: table['max-connections'] ?? DEFAULT_LIMITS.maxConnections,
    handshakeTimeoutMs: table['handshake-timeout-ms'] ?? DEFAULT_LIMITS.handshakeTimeoutMs,
    maxRequestsInFlight: table['max-requests-in-flight'] ?? DEFAULT_LIMITS.maxRequestsInFlight,
    privateBytesPerConnection: bytes('private-bytes-per-connection', 'privateBytesPerConnection'),
    sharedBytes: bytes('shared-bytes', 'sharedBytes'),
    stallTimeoutMs: table['stall-timeout-ms'] ?? DEFAULT_LIMITS.stallTimeoutMs,
    shutdownGraceMs: table['shutdown-grace-ms'] ?? DEFAULT_LIMITS.shutdownGraceMs,
  };
}
