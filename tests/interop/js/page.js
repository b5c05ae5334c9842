// Runs one command of the peer in a browser: fetches it, dials, and posts the events, or the error.
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { webSockets } from '@libp2p/websockets'
import { createLibp2p } from 'libp2p'
import { COMMANDS, run } from './client.js'
import { GOSSIP, pubsub } from './gossip.js'

const post = (path, value) => fetch(path, { method: 'POST', body: JSON.stringify(value) })

try {
  const { command, addrs, options } = await (await fetch('command')).json()
  options.emit = event => post('event', event)
  const host = await createLibp2p({
    transports: [webSockets()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    // js-libp2p in a browser refuses to dial private addresses, and everything here is one.
    connectionGater: { denyDialMultiaddr: () => false },
    services: { identify: identify(), ping: ping(), ...pubsub(options) },
    nodeInfo: { userAgent: 'barewire-peer-chromium/0.1.0' }
  })
  if (command in GOSSIP) {
    await GOSSIP[command](host, addrs, options)
  } else {
    await post('event', await run(COMMANDS[command], host, addrs[0], options))
  }
  await post('end', {})
} catch (cause) {
  await post('end', { error: [cause, ...cause.errors ?? []].map(cause => cause.message).join(': ') })
}
