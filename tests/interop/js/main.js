// Foreign peer on js-libp2p in Node.js.
import { readFile } from 'node:fs/promises'
import * as client from './client.js'
import { GOSSIP, connect, relay } from './gossip.js'
import { newHost } from './host.js'
import { emit, parse } from './options.js'
import { serve } from './serve.js'

async function listen (options) {
  if (options.rendezvousServer) {
    const { point } = await import('./rendezvous.js')
    for (const event of await point(options)) {
      emit(event)
    }
    return untilEnd()
  }
  const host = await newHost(options, options.listen, await discovery(options))
  host.addEventListener('peer:discovery', ({ detail }) => {
    for (const addr of detail.multiaddrs) {
      emit({ event: 'mdns', peer: detail.id.toString(), addr: String(addr) })
    }
  })
  await serve(host, options.echoProtocols, emit)
  if (options.topics.length > 0) {
    await relay(host, { ...options, emit })
  }
  const peer = host.peerId.toString()
  for (const addr of host.getMultiaddrs()) {
    emit({ event: 'listening', peer, addr: String(addr) })
  }
  await connect(host, options.connect)
  await untilEnd()
}

/** What a listener finds peers by. */
async function discovery ({ mdns }) {
  if (!mdns) {
    return []
  }
  const module = await import('@libp2p/mdns')
  return [module.mdns({ interval: 1000 })]
}

/** Resolves when stdin closes or the process is asked to stop. */
function untilEnd () {
  return new Promise(resolve => {
    process.stdin.resume().on('end', resolve)
    process.once('SIGTERM', resolve)
    process.once('SIGINT', resolve)
  })
}

async function main (args) {
  const { command, addrs, options } = parse('peer-js', args)
  const [addr] = addrs
  if (command === 'listen') {
    return listen(options)
  }
  setTimeout(() => fail(new Error(`not done within ${options.timeout} s`)), options.timeout * 1000).unref()
  if (command === 'bench handshakes') {
    return emit(await client.benchHandshakes(() => newHost(options), addr, options))
  }
  if (command.startsWith('rendezvous ')) {
    const { ask } = await import('./rendezvous.js')
    return ask(command.slice('rendezvous '.length), addr, options, emit)
  }
  if (command in GOSSIP) {
    const ended = command === 'subscribe' ? untilEnd() : undefined
    return GOSSIP[command](await newHost(options), addrs, { ...options, emit, ended, readFile })
  }
  const what = client.COMMANDS[command]
  if (what == null) {
    throw new Error(`unknown command ${command}`)
  }
  emit(await client.run(what, await newHost(options), addr, { ...options, emit }))
}

function fail (cause) {
  for (const inner of [cause, ...cause.errors ?? []]) {
    console.error(`peer-js: ${inner.message ?? inner.type}`)
  }
  process.exit(1)
}

// Whoever waits for the end of this process waits for nothing else: open connections end with it.
main(process.argv.slice(2)).then(() => process.exit(0), fail)
