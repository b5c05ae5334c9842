// The rendezvous of canvas, which is written for libp2p 2.
import { readFile } from 'node:fs/promises'
import { registerHooks } from 'node:module'
import { privateKeyFromProtobuf } from '@libp2p/crypto/keys'
import { createLibp2p } from 'libp2p-2'
import { identify } from 'libp2p-2-identify'
import { multiaddr } from 'libp2p-2-multiaddr'
import { noise } from 'libp2p-2-noise'
import { tcp } from 'libp2p-2-tcp'
import { yamux } from 'libp2p-2-yamux'

async function node (options, service) {
  return createLibp2p({
    privateKey: options.key == null ? undefined : privateKeyFromProtobuf(await readFile(options.key)),
    addresses: { listen: options.listen },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    services: { identify: identify(), rendezvous: service }
  })
}

/** Runs a point; returns what it listens on, as events. */
export async function point (options) {
  registerHooks({
    resolve: (specifier, context, next) => specifier === 'better-sqlite3'
      ? { url: new URL('./sqlite.js', import.meta.url).href, shortCircuit: true }
      : next(specifier, context)
  })
  const { rendezvousServer } = await import('@canvas-js/libp2p-rendezvous/server')
  const host = await node(options, rendezvousServer({}))
  const peer = host.peerId.toString()
  return host.getMultiaddrs().map(addr => ({ event: 'listening', peer, addr: String(addr) }))
}

const ASK = {
  register: async (point, { ns, ttl }, emit) => {
    const answer = await point.register(ns, { ttl })
    emit({ event: 'registered', ns, ttl: answer.ttl })
  },
  discover: async (point, { ns, limit }, emit) => {
    const found = await point.discover(ns, { limit })
    for (const { id, addresses } of found) {
      const addrs = addresses.map(({ multiaddr }) => String(multiaddr))
      emit({ event: 'registration', peer: id.toString(), ns, addrs })
    }
    emit({ event: 'discovered', count: found.length, pages: 1 })
  },
  unregister: async (point, { ns }, emit) => {
    await point.unregister(ns)
    // Nothing answers, and the request has to be on its way before the end of the connection.
    await point.discover(ns)
    emit({ event: 'unregistered', ns })
  }
}

export async function ask (what, addr, options, emit) {
  if (ASK[what] == null) {
    throw new Error(`unknown command rendezvous ${what}`)
  }
  const { rendezvousClient } = await import('@canvas-js/libp2p-rendezvous/client')
  const host = await node(options, rendezvousClient({ autoDiscover: false }))
  await host.services.rendezvous.connect(multiaddr(addr), point => ASK[what](point, options, emit))
}
