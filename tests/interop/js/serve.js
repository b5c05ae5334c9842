// The listener's side of every protocol, written as a js application would: `for await` over the stream.
import { untilLost } from './client.js'
import * as protocol from './protocols.js'
import { readAll, sendAll } from './bytes.js'

/** Far more streams at a time than js-libp2p's default of 32 for each protocol. */
const LIMITS = { maxInboundStreams: 4096 }

export async function serve (host, echoProtocols, emit) {
  const handle = (id, handler) => host.handle(id, async stream => {
    try {
      await handler(stream)
    } catch (cause) {
      console.error(`peer-js: ${id}: ${cause.message}`)
      stream.abort(cause)
    }
  }, LIMITS)
  for (const id of [protocol.ECHO, ...echoProtocols]) {
    await handle(id, echo)
  }
  await handle(protocol.HALF_CLOSE, async stream => {
    const all = await readAll(stream)
    await sendAll(stream, all)
    await stream.close()
  })
  await handle(protocol.RESET, async stream => {
    for await (const _ of stream) {
      break
    }
    stream.abort(new Error('reset on request'))
  })
  await handle(protocol.HOLD, async stream => {
    const lost = untilLost(stream)
    stream.send(new TextEncoder().encode('h'))
    const cause = await lost.catch(() => undefined)
    if (cause != null) {
      emit({ event: 'lost', peer: host.peerId.toString(), error: cause.message })
    }
    await stream.close()
  })
}

async function echo (stream) {
  for await (const chunk of stream) {
    if (!stream.send(chunk)) {
      await stream.onDrain()
    }
  }
  await stream.close()
}
