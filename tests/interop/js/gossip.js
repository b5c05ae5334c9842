// Subscribing and publishing over gossipsub.
import { gossipsub } from '@libp2p/gossipsub'
import { multiaddr } from '@multiformats/multiaddr'
import { randomBytes, sha256 } from './bytes.js'
import { drained } from './client.js'

const FLOODSUB = '/floodsub/1.0.0'

/** How long a subscriber waits for a mesh with peers that may subscribe to nothing, in milliseconds. */
const PATIENCE = 5000

const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))

/** The service for `createLibp2p`; nothing for whoever has no topic. */
export function pubsub (options) {
  if (options.topics.length === 0) {
    return {}
  }
  const init = {
    // js-libp2p knows no message with an author and without a signature.
    globalSignaturePolicy: options.sign === 'strict' ? 'StrictSign' : 'StrictNoSign'
  }
  if (options.heartbeat != null) {
    init.heartbeatInterval = options.heartbeat
  }
  if (options.maxMessageSize != null) {
    init.maxInboundDataLength = options.maxMessageSize
  }
  if (options.messageId === 'sha256') {
    init.msgIdFn = async ({ data }) => new Uint8Array(await crypto.subtle.digest('SHA-256', data))
  }
  return {
    pubsub: components => {
      const router = gossipsub(init)(components)
      router.protocols = offered(router.protocols, options.version)
      return router
    }
  }
}

/** From the newest wanted on; js-libp2p knows no 1.3. */
function offered (protocols, version) {
  const wanted = version === 'floodsub' ? FLOODSUB : `/meshsub/${version}.0`
  return protocols.slice(Math.max(protocols.indexOf(wanted), 0))
}

async function tell (emit, event, from, topic, data) {
  emit({ event, from: from?.toString() ?? null, topic, len: data.byteLength, sha256: await sha256(data) })
}

function join (router, options, onMessage) {
  router.addEventListener('message', ({ detail }) => {
    if (options.topics.includes(detail.topic)) {
      onMessage(detail)
    }
  })
  if (options.verbose) {
    for (const event of ['graft', 'prune']) {
      router.addEventListener(`gossipsub:${event}`, ({ detail }) => {
        options.emit({ event, peer: detail.peerId, topic: detail.topic })
      })
    }
  }
  options.topics.forEach(topic => router.subscribe(topic))
}

/** Whether a peer is subscribed that would be sent what is published now, or read from. */
function reached (router, topic, fanout) {
  const mesh = router.getMeshPeers(topic)
  return router.getSubscribers(topic).map(String).some(id =>
    fanout || mesh.includes(id) || router.streamsOutbound.get(id)?.protocol === FLOODSUB)
}

/** What a listener does for its topics. */
export async function relay (host, options) {
  join(host.services.pubsub, options, ({ from, topic, data }) => {
    if (!options.quiet) {
      tell(options.emit, 'message', from, topic, data)
    }
  })
}

export async function connect (host, addrs) {
  await Promise.all(addrs.map(addr => host.dial(multiaddr(addr))))
}

export async function subscribe (host, addrs, options) {
  const router = host.services.pubsub
  const show = !options.quiet && (options.verbose || (options.expect ?? 0) <= 1000)
  const seen = { count: 0, bytes: 0 }
  let told = Promise.resolve()
  let complete
  const all = new Promise(resolve => { complete = resolve })
  join(router, options, ({ from, topic, data }) => {
    seen.last = performance.now()
    seen.first ??= seen.last
    seen.count++
    seen.bytes += data.byteLength
    if (show) {
      told = told.then(() => tell(options.emit, 'message', from, topic, data))
    }
    if (seen.count === options.expect) {
      complete()
    }
  })
  // Whoever started this kills it for being late a little later.
  const late = sleep(options.timeout * 1000 - 500).then(() => true)
  const ended = options.ended ?? new Promise(() => {})
  await connect(host, addrs)
  let since
  while (!options.topics.every(topic => reached(router, topic, false))) {
    since ??= router.streamsOutbound.size > 0 ? performance.now() : undefined
    if (performance.now() - since > PATIENCE) {
      break
    }
    await sleep(20)
  }
  options.emit({ event: 'subscribed', topics: options.topics })
  const isLate = await Promise.race([all, ended, late])
  await told
  const secs = seen.count === 0 ? 0 : (seen.last - seen.first) / 1000
  options.emit({ event: 'received', count: seen.count, bytes: seen.bytes, secs })
  if (isLate && options.expect != null) {
    throw new Error(`got ${seen.count} of ${options.expect} messages within ${options.timeout} s`)
  }
  if (options.leave) {
    options.topics.forEach(topic => router.unsubscribe(topic))
    options.emit({ event: 'unsubscribed', topics: options.topics })
    await Promise.race([ended, late])
  }
}

export async function publish (host, addrs, options) {
  const router = host.services.pubsub
  if (options.topics.length !== 1) {
    throw new Error('exactly one --topic is needed')
  }
  if (options.file == null && options.size == null) {
    throw new Error('publish needs --file, or --count and --size')
  }
  const [topic] = options.topics
  const payload = options.file == null ? randomBytes(options.size) : await options.readFile(options.file)
  const count = options.count ?? 1
  if (!options.fanout) {
    join(router, options, () => {})
  }
  await connect(host, addrs)
  while (!reached(router, topic, options.fanout)) {
    await sleep(20)
  }
  await sleep(options.settle)
  const start = performance.now()
  let dropped = 0
  for (let number = 0; number < count; number++) {
    const data = options.file == null ? numbered(payload, number) : payload
    const { recipients } = await router.publish(topic, data)
    if (recipients.length === 0) {
      dropped++
    }
    if (options.verbose) {
      await tell(options.emit, 'sent', null, topic, data)
    }
    // gossipsub itself has no backpressure.
    for (const { rawStream } of router.streamsOutbound.values()) {
      await drained(rawStream)
    }
  }
  for (const { rawStream } of router.streamsOutbound.values()) {
    while (rawStream.writeBufferLength > 0) {
      await sleep(1)
    }
  }
  const secs = (performance.now() - start) / 1000
  options.emit({ event: 'published', count, bytes: count * payload.byteLength, secs, dropped })
  // What is written is not yet read at the other end, and the end of a connection may overtake it.
  await sleep(options.linger)
}

/** Differs from message to message, so that a message id made of the content does. */
function numbered (payload, number) {
  const data = payload.slice()
  for (let at = 0; at < Math.min(data.byteLength, 6); at++) {
    data[at] = Math.floor(number / 2 ** (8 * at)) % 256
  }
  return data
}

export const GOSSIP = { subscribe, publish }
