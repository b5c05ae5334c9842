import { readFile } from 'node:fs/promises'
import tls from 'node:tls'
import { noise } from '@chainsafe/libp2p-noise'
import { quic } from '@chainsafe/libp2p-quic'
import { yamux } from '@chainsafe/libp2p-yamux'
import { privateKeyFromProtobuf } from '@libp2p/crypto/keys'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { tls as tlsSecurity } from '@libp2p/tls'
import { webSockets } from '@libp2p/websockets'
import { createLibp2p } from 'libp2p'
import { pubsub } from './gossip.js'

/** A node without the limits that a test on one machine would run into; everything else is js-libp2p's default. */
export async function newHost (options, listen = [], peerDiscovery = []) {
  if (options.wsCa != null) {
    // The WebSocket of Node trusts what the process trusts.
    const ca = await readFile(options.wsCa, 'utf8')
    tls.setDefaultCACertificates([...tls.getCACertificates('default'), ca])
  }
  const https = options.wsCert == null
    ? undefined
    : { cert: await readFile(options.wsCert), key: await readFile(options.wsKey) }
  return createLibp2p({
    privateKey: options.key == null ? undefined : privateKeyFromProtobuf(await readFile(options.key)),
    addresses: { listen },
    peerDiscovery,
    transports: [tcp(), webSockets({ https }), quic()],
    connectionEncrypters: [options.security === 'tls' ? tlsSecurity() : noise()],
    streamMuxers: [yamux()],
    connectionManager: { inboundConnectionThreshold: 100_000, maxIncomingPendingConnections: 1000 },
    services: { identify: identify(), ping: ping({ maxInboundStreams: 1000 }), ...pubsub(options) },
    nodeInfo: { userAgent: 'barewire-peer-js/0.1.0' }
  })
}
