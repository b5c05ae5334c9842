// barewire's command line, and its events as one JSON object per line.
import { parseArgs } from 'node:util'
import { ECHO } from './protocols.js'

const usage = name => `usage:
  ${name} listen [--listen MULTIADDR]... [--echo-protocol ID]...
  ${name} identify|ping|own-ping|echo|half-close|reset|hold ADDR
  ${name} bench streams|handshakes ADDR
options: --key FILE --security noise|tls --ws-cert FILE --ws-key FILE --ws-ca FILE --timeout SECONDS --json
         --count N --concurrency N --size BYTES --protocol ID --by local|remote`

/** Prints one event as one line. */
export function emit (event) {
  process.stdout.write(JSON.stringify(event) + '\n')
}

/** The command, the address of whoever is dialled, and the options. */
export function parse (name, args) {
  const text = { type: 'string' }
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      listen: { ...text, multiple: true, default: ['/ip4/127.0.0.1/tcp/0'] },
      'echo-protocol': { ...text, multiple: true, default: [] },
      key: text,
      security: { ...text, default: 'noise' },
      'ws-cert': text,
      'ws-key': text,
      'ws-ca': text,
      timeout: { ...text, default: '60' },
      json: { type: 'boolean' },
      count: text,
      concurrency: { ...text, default: '1' },
      size: text,
      protocol: { ...text, default: ECHO },
      by: { ...text, default: 'remote' }
    }
  })
  if (!['noise', 'tls'].includes(values.security)) {
    throw new Error(`security ${values.security} is unknown: noise or tls`)
  }
  const words = positionals[0] === 'bench' ? 2 : 1
  const command = positionals.slice(0, words).join(' ')
  if (positionals.length !== (command === 'listen' ? 1 : words + 1)) {
    throw new Error(`a command and one address are needed\n${usage(name)}`)
  }
  return {
    command,
    addr: positionals[words],
    options: {
      listen: values.listen,
      echoProtocols: values['echo-protocol'],
      key: values.key,
      security: values.security,
      wsCert: values['ws-cert'],
      wsKey: values['ws-key'],
      wsCa: values['ws-ca'],
      timeout: Number(values.timeout.replace(/s$/, '')),
      count: values.count == null ? undefined : bytes(values.count),
      concurrency: bytes(values.concurrency),
      size: values.size == null ? undefined : bytes(values.size),
      protocol: values.protocol,
      by: values.by
    }
  }
}

function bytes (text) {
  const units = { KiB: 1 << 10, MiB: 1 << 20, GiB: 1 << 30, kB: 1e3, MB: 1e6, GB: 1e9, B: 1, '': 1 }
  const [, number, unit] = /^(\d+)\s*([A-Za-z]*)$/.exec(text) ?? []
  if (number == null || units[unit] == null) {
    throw new Error(`${text} is not a count such as 100, 64KiB or 1GiB`)
  }
  return Number(number) * units[unit]
}
