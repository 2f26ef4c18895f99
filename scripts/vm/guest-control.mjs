// The control API from the shell of the guest, with the words of the CLI and a fraction of its start-up time, which is
// long on an emulated processor. Scenarios that are about the CLI use the CLI.
//   node guest-control.mjs create GROUP --volume NAME:SIZE[,file=PATH]... [--log-size SIZE]   attach EXPORT [DEVICE] [--connections N]
//     [--read-only] [--timeout S]   detach DEVICE [--force]   snapshot create|delete GROUP@NAME
//     restore GROUP@NAME [--volume V] [--force]   status   events
import { request } from 'node:http';

const [command, ...words] = process.argv.slice(2);
const flags = new Map();
const plain = [];
const SWITCHES = ['--force', '--read-only', '--json'];
for (let index = 0; index < words.length; index += 1) {
  const word = words[index];
  if (!word.startsWith('--')) plain.push(word);
  else if (SWITCHES.includes(word)) flags.set(word, ['true']);
  else {
    index += 1;
    flags.set(word, [...(flags.get(word) ?? []), words[index]]);
  }
}

function send(method, path, body) {
  return new Promise((done, failed) => {
    const text = body === undefined ? undefined : JSON.stringify(body);
    const headers =
      text === undefined ? {} : { 'content-type': 'application/json', 'content-length': text.length };
    const call = request(
      { socketPath: `${process.env.TIDEMARK_STATE}/control.sock`, method, path, headers },
      (answer) => {
        let received = '';
        answer.setEncoding('utf8').on('data', (part) => {
          received += part;
        });
        answer.once('end', () => done({ ok: answer.statusCode < 300, text: received }));
      },
    );
    call.once('error', failed);
    call.end(text);
  });
}

const UNITS = { M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

function bytes(size) {
  const unit = UNITS[size.at(-1)];
  return unit === undefined ? Number(size) : Number(size.slice(0, -1)) * unit;
}

function volume(text) {
  const [first, ...options] = text.split(',');
  const [name, size] = first.split(':');
  const file = options.find((option) => option.startsWith('file='))?.slice('file='.length);
  return { name, size: bytes(size), ...(file === undefined ? {} : { file }) };
}

function ask() {
  const number = (flag) => (flags.has(flag) ? Number(flags.get(flag)[0]) : undefined);
  switch (command) {
    case 'create':
      return send('POST', '/v1/groups', {
        name: plain[0],
        volumes: flags.get('--volume').map(volume),
        logSize: flags.has('--log-size') ? bytes(flags.get('--log-size')[0]) : undefined,
      });
    case 'attach':
      return send('POST', '/v1/devices', {
        export: plain[0],
        device: plain[1],
        connections: number('--connections'),
        readOnly: flags.has('--read-only') ? true : undefined,
        timeoutSeconds: number('--timeout'),
      });
    case 'detach':
      return send(
        'DELETE',
        `/v1/devices/${plain[0].slice('/dev/'.length)}${flags.has('--force') ? '?force=true' : ''}`,
      );
    case 'snapshot': {
      const [group, name] = plain[1].split('@');
      const snapshots = `/v1/groups/${group}/snapshots`;
      if (plain[0] === 'create') return send('POST', snapshots, { name });
      if (plain[0] === 'delete') return send('DELETE', `${snapshots}/${name}`);
      throw new Error(`no command snapshot ${plain[0]}`);
    }
    case 'restore': {
      const [group, name] = plain[0].split('@');
      return send('POST', `/v1/groups/${group}/snapshots/${name}/restore`, {
        volume: flags.get('--volume')?.[0],
        force: flags.has('--force') ? true : undefined,
      });
    }
    case 'status':
      return send('GET', '/v1/status');
    case 'events':
      return send('GET', '/v1/events');
    default:
      throw new Error(`no command ${command}`);
  }
}

const { ok, text } = await ask();
if (ok) console.log(command === 'attach' ? JSON.parse(text).device : text);
else {
  console.error(`tidemark: ${JSON.parse(text).message}`);
  process.exitCode = 1;
}
