import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { DEFAULT_GROUP_LIMITS, loadSettings } from '../../server/config.ts';
import { DEFAULT_LIMITS } from '../../server/limits.ts';
import { temporaryFolder } from '../fixtures/local-node.ts';

t.test('without a word, everything is in the state folder', async (t) => {
  const settings = await loadSettings({ state: '/s' }, undefined);
  t.same(settings, {
    stateFolder: '/s',
    listen: [
      { scheme: 'nbd+unix', tls: false, address: { kind: 'unix', path: '/s/nbd.sock' }, exportName: '' },
    ],
    controlPath: '/s/control.sock',
    advertise: undefined,
    logLevel: 'info',
    limits: DEFAULT_LIMITS,
    groups: DEFAULT_GROUP_LIMITS,
  });
});

t.test('the file is read, and flags win over it', async (t) => {
  const file = join(await temporaryFolder(t), 'c.toml');
  await writeFile(
    file,
    `listen = ["nbd://127.0.0.1:1000", "nbd+unix:///?socket=/x/y"]
     control = "/x/control"
     advertise = "nbd://storage.example:10809"
     log-level = "warn"
     [limits]
     max-connections = 7
     handshake-timeout-ms = 1
     max-requests-in-flight = 2
     private-bytes-per-connection = "2M"
     shared-bytes = 67108864
     stall-timeout-ms = 3
     shutdown-grace-ms = 4
     [groups]
     memory-bytes = "64M"
     copy-bytes-per-second = "10M"`,
  );
  const settings = await loadSettings({ state: '/s' }, file);
  t.same(
    settings.listen.map((uri) => uri.address),
    [
      { kind: 'tcp', host: '127.0.0.1', port: 1000 },
      { kind: 'unix', path: '/x/y' },
    ],
  );
  t.match(settings, { controlPath: '/x/control', logLevel: 'warn', advertise: /storage\.example/ });
  t.same(settings.limits, {
    maxConnections: 7,
    handshakeTimeoutMs: 1,
    maxRequestsInFlight: 2,
    privateBytesPerConnection: 2 * 1024 * 1024,
    sharedBytes: 64 * 1024 * 1024,
    stallTimeoutMs: 3,
    shutdownGraceMs: 4,
  });
  t.same(settings.groups, { memoryBytes: 64 * 1024 * 1024, copyBytesPerSecond: 10 * 1024 * 1024 });
  const flagged = await loadSettings(
    {
      state: '/s',
      listen: ['nbd://localhost:2'],
      control: '/c',
      logLevel: 'error',
      advertise: 'nbd://other.example',
    },
    file,
  );
  t.match(flagged, { controlPath: '/c', logLevel: 'error', advertise: /other\.example/ });
  t.same(flagged.listen.length, 1);
});

t.test('a file that is wrong is refused with its name and the setting', async (t) => {
  const file = join(await temporaryFolder(t), 'c.toml');
  const cases: [string, RegExp][] = [
    ['lisen = []', /c\.toml: unknown setting 'lisen'$/],
    ['[limits]\nmax-conections = 1', /c\.toml: unknown setting 'limits\.max-conections'$/],
    ['[groups]\nmemory = 1', /c\.toml: unknown setting 'groups\.memory'$/],
    ['[groups]\nmemory-bytes = "1M"', /setting 'groups\.memory-bytes' is below 33554432 bytes/],
    ['[groups]\nmemory-bytes = "999T"', /setting 'groups\.memory-bytes' is more than the memory/],
    ['[groups]\ncopy-bytes-per-second = "fast"', /setting 'groups\.copy-bytes-per-second': 'fast' is not/],
    ['[limit]\n', /unknown setting 'limit'/],
    ['state = "/x"', /unknown setting 'state'/],
    ['listen = "nbd://localhost"', /setting 'listen' must be array/],
    ['listen = []', /setting 'listen'/],
    ['listen = [1]', /setting 'listen\.0' must be string/],
    ['listen = ["http://localhost"]', /c\.toml: setting 'listen': .*not a usable NBD URI/],
    ['listen = ["nbds://localhost"]', /TLS/],
    ['listen = ["nbd://localhost/g/v"]', /names an export/],
    ['listen = ["nbd+unix:///?socket=relative"]', /not an absolute path/],
    [`listen = ["nbd+unix:///?socket=/${'x'.repeat(120)}"]`, /107/],
    ['log-level = "loud"', /setting 'log-level' must be one of "trace", "debug", .*"silent"$/],
    ['control = "relative"', /c\.toml: setting 'control': .*not an absolute path/],
    [`control = "/${'x'.repeat(120)}"`, /121 bytes, Linux takes 107/],
    ['advertise = "storage.example"', /c\.toml: setting 'advertise': .*not a usable NBD URI/],
    ['[limits]\nmax-connections = 0', /setting 'limits\.max-connections' must be >= 1/],
    ['[limits]\nmax-connections = "7"', /setting 'limits\.max-connections' must be integer/],
    ['[limits]\nshared-bytes = "1M"', /setting 'limits\.shared-bytes' is below 33554432 bytes/],
    ['[limits]\nshared-bytes = "lots"', /setting 'limits\.shared-bytes': 'lots' is not a size/],
    [
      '[limits]\nshared-bytes = "999T"',
      /setting 'limits\.shared-bytes' is more than the memory of this machine, /,
    ],
    [
      '[limits]\nprivate-bytes-per-connection = "999T"',
      /'limits\.private-bytes-per-connection' is more than the memory/,
    ],
    ['listen = [', /c\.toml:1:\d+: /],
    ['a = 1\na = 2', /c\.toml:2:\d+: /],
  ];
  for (const [text, message] of cases) {
    await writeFile(file, text);
    await t.rejects(loadSettings({ state: '/s' }, file), { name: 'EngineError', message }, text);
    await loadSettings({ state: '/s' }, file).catch((error: Error) =>
      t.notMatch(error.message, /\n/, 'one line'),
    );
  }
  await writeFile(file, 'log-level = "warn"');
  const flagged = await loadSettings({ state: '/s', control: 'relative' }, file).catch(
    (error: Error) => error,
  );
  t.match(flagged, { message: /^the control socket relative/ }, 'a flag is not the fault of the file');
  await t.rejects(loadSettings({ state: '/s' }, `${file}.none`), {
    code: 'not-found',
    message: /no configuration file/,
  });
});
