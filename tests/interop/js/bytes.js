// Bytes in and out of js-libp2p's streams.

/** What a stream takes at a time; its own buffer is 4 MiB. */
const CHUNK = 64 * 1024

/** Sends all of it, waiting where the stream is full. */
export async function sendAll (stream, bytes) {
  for (let at = 0; at < bytes.byteLength; at += CHUNK) {
    if (!stream.send(bytes.subarray(at, at + CHUNK))) {
      await stream.onDrain()
    }
  }
}

/**
 * Everything up to the other side's end. To be called before a stream is written to: js-libp2p tells of an end
 * only those who listen when it comes.
 */
export async function readAll (stream) {
  const chunks = []
  let length = 0
  for await (const chunk of stream) {
    chunks.push(chunk.subarray())
    length += chunk.byteLength
  }
  const all = new Uint8Array(length)
  let at = 0
  for (const chunk of chunks) {
    all.set(chunk, at)
    at += chunk.byteLength
  }
  return all
}

/** The next `length` bytes that arrive, as long as the stream has only just begun; more are an error. */
export function readExactly (stream, length) {
  return new Promise((resolve, reject) => {
    const got = []
    const done = (settle, value) => {
      stream.removeEventListener('message', onMessage)
      stream.removeEventListener('close', onEnd)
      stream.removeEventListener('remoteCloseWrite', onEnd)
      settle(value)
    }
    const onMessage = event => {
      got.push(...event.data.subarray())
      if (got.length === length) {
        done(resolve, Uint8Array.from(got))
      } else if (got.length > length) {
        done(reject, new Error(`expected ${length} bytes, got ${got.length}`))
      }
    }
    const onEnd = event => done(reject, event.error ?? new Error(`the stream ended after ${got.length} bytes`))
    stream.addEventListener('message', onMessage)
    stream.addEventListener('close', onEnd)
    stream.addEventListener('remoteCloseWrite', onEnd)
  })
}

export function equal (a, b) {
  return a.byteLength === b.byteLength && a.every((byte, at) => byte === b[at])
}

/** Random bytes; the platform gives at most 64 KiB at a time. */
export function randomBytes (length) {
  const bytes = new Uint8Array(length)
  for (let at = 0; at < length; at += 65536) {
    crypto.getRandomValues(bytes.subarray(at, at + 65536))
  }
  return bytes
}

export async function sha256 (bytes) {
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))
  return Array.from(hash, byte => byte.toString(16).padStart(2, '0')).join('')
}

/** Microseconds, nearest rank, of times in milliseconds. */
export function quantile (times, q) {
  const sorted = times.toSorted((a, b) => a - b)
  return sorted[Math.min(Math.floor(sorted.length * q), sorted.length - 1)] * 1000
}
