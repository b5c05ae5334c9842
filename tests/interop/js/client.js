// What a dialler does with one connection.
import { multiaddr } from '@multiformats/multiaddr'
import { equal, quantile, randomBytes, readAll, readExactly, sendAll, sha256 } from './bytes.js'
import * as protocol from './protocols.js'

/** Opens as many streams at once as a test wants; js-libp2p allows 64 of one protocol otherwise. */
const STREAM = { maxOutboundStreams: 1024 }

/** One command: dial with `host`, run `what`, return the event. */
export async function run (what, host, addr, options) {
  // js-libp2p asks each new peer for identify and refuses to ask it a second time meanwhile.
  const identified = new Promise(resolve => {
    host.addEventListener('peer:identify', event => resolve(event.detail), { once: true })
  })
  const connection = await host.dial(multiaddr(addr))
  const fields = await what({ host, connection, options, identified })
  return { peer: connection.remotePeer.toString(), ...fields }
}

export async function identify ({ connection, identified }) {
  const told = await identified
  return {
    event: 'identify',
    agent: told.agentVersion,
    protocol_version: told.protocolVersion,
    protocols: told.protocols,
    listen_addrs: told.listenAddrs.map(String),
    observed_addr: String(told.observedAddr ?? ''),
    // js-libp2p hands on only a record whose signature and peer id it has verified.
    signed_record: told.signedPeerRecord != null,
    security: connection.encryption,
    muxer: connection.multiplexer
  }
}

export async function ping ({ connection, options }) {
  const stream = await connection.newStream(protocol.PING, STREAM)
  const times = []
  for (let i = 0; i < (options.count ?? 1); i++) {
    times.push(await pingOnce(stream))
  }
  await stream.close()
  return {
    event: 'ping',
    count: times.length,
    min_us: quantile(times, 0),
    p50_us: quantile(times, 0.5),
    p99_us: quantile(times, 0.99)
  }
}

async function pingOnce (stream) {
  const sent = randomBytes(32)
  const start = performance.now()
  const answer = readExactly(stream, sent.byteLength)
  stream.send(sent)
  const got = await answer
  const took = performance.now() - start
  if (!equal(sent, got)) {
    throw new Error('the ping came back with other bytes')
  }
  return took
}

/** js-libp2p's own ping: it ends its direction before the answer comes. */
export async function ownPing ({ host, connection, options }) {
  const times = []
  for (let i = 0; i < (options.count ?? 1); i++) {
    times.push(await host.services.ping.ping(connection.remotePeer))
  }
  return { event: 'own_ping', count: times.length, p50_us: quantile(times, 0.5) }
}

export async function echo ({ connection, options }) {
  const payload = randomBytes(options.size ?? 10 << 20)
  const start = performance.now()
  const stream = await connection.newStream(options.protocol, STREAM)
  const back = readAll(stream)
  await sendAll(stream, payload)
  await stream.close()
  const [sent, got] = await Promise.all([sha256(payload), back.then(sha256)])
  if (sent !== got) {
    throw new Error(`the echo differs: sent ${payload.byteLength} bytes, got ${(await back).byteLength}`)
  }
  return { event: 'echo', bytes: payload.byteLength, secs: (performance.now() - start) / 1000, sha256: sent }
}

export async function halfClose ({ connection, options }) {
  const payload = randomBytes(options.size ?? 100_000)
  const stream = await connection.newStream(protocol.HALF_CLOSE, STREAM)
  const back = readAll(stream)
  await sendAll(stream, payload)
  await stream.close()
  if (!equal(payload, await back)) {
    throw new Error(`sent ${payload.byteLength} bytes, got ${(await back).byteLength} other ones back`)
  }
  return { event: 'half_close', bytes: payload.byteLength }
}

export async function reset ({ connection, options }) {
  if (options.by === 'local') {
    const stream = await openHold(connection)
    stream.abort(new Error('reset by us'))
  } else {
    const stream = await connection.newStream(protocol.RESET, STREAM)
    const lost = untilLost(stream)
    stream.send(new TextEncoder().encode('reset'))
    await lost
  }
  const stream = await connection.newStream(protocol.PING, STREAM)
  try {
    await pingOnce(stream)
  } catch (cause) {
    throw new Error(`the connection did not survive the reset: ${cause.message}`)
  }
  await stream.close()
  return { event: 'reset', by: options.by }
}

export async function hold ({ connection, options }) {
  const stream = await openHold(connection)
  const lost = untilLost(stream)
  options.emit({ event: 'holding', peer: connection.remotePeer.toString() })
  const cause = await lost
  return { event: 'lost', error: cause.message }
}

/** Resolves once the other side has shown that it serves the stream. */
async function openHold (connection) {
  const stream = await connection.newStream(protocol.HOLD, STREAM)
  const first = new Promise((resolve, reject) => {
    stream.addEventListener('message', resolve, { once: true })
    stream.addEventListener('close', () => reject(new Error('the stream was not served')), { once: true })
  })
  stream.send(new TextEncoder().encode('hold'))
  await first
  return stream
}

/** js-libp2p's own `onDrain` waits for the first drain of a stream only. */
export function drained (stream) {
  return new Promise((resolve, reject) => {
    if (!stream.writableNeedsDrain) {
      resolve()
    }
    stream.addEventListener('drain', resolve, { once: true })
    stream.addEventListener('close', event => reject(event.error ?? new Error('the connection closed')), { once: true })
  })
}

/** Resolves to the cause when the stream is lost; a clean end is an error. */
export function untilLost (stream) {
  return new Promise((resolve, reject) => {
    stream.addEventListener('close', event => resolve(event.error ?? new Error('the connection closed')))
    stream.addEventListener('remoteCloseWrite', async () => {
      // js-libp2p's QUIC tells of a reset as of an end; only after a real end can one still write.
      try {
        await drained(stream)
        stream.send(new TextEncoder().encode('?'))
        await drained(stream)
        reject(new Error('the stream ended cleanly'))
      } catch (cause) {
        resolve(cause)
      }
    })
    stream.addEventListener('message', () => {})
  })
}

/** One stream after another on one connection: open, echo --size bytes, end. */
export async function benchStreams ({ connection, options }) {
  const payload = new Uint8Array(options.size ?? 100).fill(0x5a)
  const figures = await measure(options, async () => {
    const stream = await connection.newStream(options.protocol, STREAM)
    const back = readAll(stream)
    await sendAll(stream, payload)
    await stream.close()
    if (!equal(payload, await back)) {
      throw new Error(`the echo differs: sent ${payload.byteLength} bytes, got ${(await back).byteLength}`)
    }
  })
  return { event: 'streams', size: payload.byteLength, ...figures }
}

/** One fresh connection after another: dial, one ping, close. Each worker has a host of its own. */
export async function benchHandshakes (newHost, addr, options) {
  const hosts = await Promise.all(Array.from({ length: options.concurrency }, newHost))
  let peer
  const figures = await measure(options, async worker => {
    const connection = await hosts[worker].dial(multiaddr(addr))
    peer = connection.remotePeer.toString()
    const stream = await connection.newStream(protocol.PING, STREAM)
    await pingOnce(stream)
    await connection.close()
  })
  return { event: 'handshakes', peer, ...figures }
}

/** Runs --count operations on --concurrency workers. */
async function measure (options, operation) {
  const count = options.count ?? 1000
  const times = []
  let started = 0
  const start = performance.now()
  await Promise.all(Array.from({ length: options.concurrency }, async (_, worker) => {
    while (started < count) {
      started++
      const began = performance.now()
      await operation(worker)
      times.push(performance.now() - began)
    }
  }))
  const secs = (performance.now() - start) / 1000
  return { count, concurrency: options.concurrency, secs, per_s: count / secs, p50_us: quantile(times, 0.5) }
}

/** What dials once and uses one connection. */
export const COMMANDS = {
  identify,
  ping,
  'own-ping': ownPing,
  echo,
  'half-close': halfClose,
  reset,
  hold,
  'bench streams': benchStreams
}
