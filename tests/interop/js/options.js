// barewire's command line, and its events as one JSON object per line.
import { parseArgs } from 'node:util'
import { ECHO } from './protocols.js'

const usage = name => `usage:
  ${name} listen [--listen MULTIADDR]... [--echo-protocol ID]...
  ${name} identify|ping|own-ping|echo|half-close|reset|hold ADDR
  ${name} bench streams|handshakes ADDR
  ${name} listen --topic T... [--connect ADDR]...
  ${name} subscribe ADDR... --topic T... [--expect N] [--leave]
  ${name} publish ADDR... --topic T (--count N --size BYTES | --file FILE) [--fanout] [--settle-ms MS] [--linger-ms MS]
  ${name} listen --rendezvous-server | --mdns
  ${name} rendezvous register|discover|unregister ADDR --ns NS [--ttl SECONDS] [--limit N]
options: --key FILE --security noise|tls --ws-cert FILE --ws-key FILE --ws-ca FILE --timeout SECONDS --json
         --count N --concurrency N --size BYTES --protocol ID --by local|remote
gossip:  --version 1.0|1.1|1.2|1.3|floodsub --sign strict|none|anonymous --message-id default|sha256 --max-message-size BYTES
         --heartbeat-ms MS --verbose --quiet`

const CHOICES = {
  security: ['noise', 'tls'],
  version: ['1.0', '1.1', '1.2', '1.3', 'floodsub'],
  sign: ['strict', 'none', 'anonymous'],
  'message-id': ['default', 'sha256']
}

/** Prints one event as one line. */
export function emit (event) {
  process.stdout.write(JSON.stringify(event) + '\n')
}

/** The command, the addresses of whoever is dialled, and the options. */
export function parse (name, args) {
  const text = { type: 'string' }
  const flag = { type: 'boolean', default: false }
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
      by: { ...text, default: 'remote' },
      topic: { ...text, multiple: true, default: [] },
      connect: { ...text, multiple: true, default: [] },
      expect: text,
      file: text,
      'settle-ms': { ...text, default: '1000' },
      'linger-ms': { ...text, default: '5000' },
      version: { ...text, default: '1.3' },
      sign: { ...text, default: 'strict' },
      'message-id': { ...text, default: 'default' },
      'max-message-size': text,
      'heartbeat-ms': text,
      fanout: flag,
      leave: flag,
      verbose: flag,
      quiet: flag,
      'rendezvous-server': flag,
      mdns: flag,
      ns: text,
      ttl: text,
      limit: text
    }
  })
  for (const [name, choices] of Object.entries(CHOICES)) {
    if (!choices.includes(values[name])) {
      throw new Error(`${name} ${values[name]} is unknown: ${choices.join(' or ')}`)
    }
  }
  const words = ['bench', 'rendezvous'].includes(positionals[0]) ? 2 : 1
  const command = positionals.slice(0, words).join(' ')
  const addrs = positionals.slice(words)
  const several = command === 'subscribe' || command === 'publish'
  if (command === 'listen' ? addrs.length > 0 : addrs.length !== 1 && !(several && addrs.length > 1)) {
    throw new Error(`a command and one address are needed\n${usage(name)}`)
  }
  const optional = value => value == null ? undefined : bytes(value)
  return {
    command,
    addrs,
    options: {
      listen: values.listen,
      echoProtocols: values['echo-protocol'],
      key: values.key,
      security: values.security,
      wsCert: values['ws-cert'],
      wsKey: values['ws-key'],
      wsCa: values['ws-ca'],
      timeout: Number(values.timeout.replace(/s$/, '')),
      count: optional(values.count),
      concurrency: bytes(values.concurrency),
      size: optional(values.size),
      protocol: values.protocol,
      by: values.by,
      topics: values.topic,
      connect: values.connect,
      expect: optional(values.expect),
      file: values.file,
      settle: bytes(values['settle-ms']),
      linger: bytes(values['linger-ms']),
      version: values.version,
      sign: values.sign,
      messageId: values['message-id'],
      maxMessageSize: optional(values['max-message-size']),
      heartbeat: optional(values['heartbeat-ms']),
      fanout: values.fanout,
      leave: values.leave,
      verbose: values.verbose,
      quiet: values.quiet,
      rendezvousServer: values['rendezvous-server'],
      mdns: values.mdns,
      ns: values.ns,
      ttl: optional(values.ttl),
      limit: optional(values.limit)
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
