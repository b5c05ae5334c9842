// Foreign peer on js-libp2p in headless Chromium: takes barewire's command line, hands the command to a page over a small
// HTTP server on loopback, and prints the events that the page posts.
import { spawn } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import http from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { emit, parse } from './options.js'

const { command, addrs, options } = parse('peer-chromium', process.argv.slice(2))
if (command === 'listen') {
  throw new Error('a browser opens no listening socket')
}
if (options.file != null) {
  throw new Error('a browser reads no files')
}

const profile = await mkdtemp(join(tmpdir(), 'peer-chromium-'))
const page = { '/': ['page.html', 'text/html'], '/page.bundle.js': ['page.bundle.js', 'text/javascript'] }
const server = http.createServer(async (request, response) => {
  if (request.url in page) {
    const [name, type] = page[request.url]
    response.writeHead(200, { 'content-type': type })
    response.end(await readFile(new URL(name, import.meta.url)))
    return
  }
  if (request.method === 'GET') {
    response.writeHead(request.url === '/command' ? 200 : 404)
    response.end(JSON.stringify({ command, addrs, options }))
    return
  }
  const chunks = []
  for await (const chunk of request) {
    chunks.push(chunk)
  }
  const said = JSON.parse(Buffer.concat(chunks).toString())
  response.end()
  if (request.url === '/event') {
    emit(said)
  } else {
    end(said.error)
  }
})
await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))

const browser = spawn(process.env.CHROMIUM ?? 'chromium', [
  '--headless',
  // As root, which is what a container runs tests as, Chromium has no sandbox.
  ...process.getuid() === 0 ? ['--no-sandbox'] : [],
  '--disable-gpu',
  '--disable-dev-shm-usage',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  // The certificate of a wss listener is not a public authority's.
  '--ignore-certificate-errors',
  // Stays open until it is killed, and ends with this process if nobody has the time for that.
  '--remote-debugging-pipe',
  `--user-data-dir=${profile}`,
  `http://127.0.0.1:${server.address().port}/`
], { stdio: ['ignore', 'ignore', 'pipe', 'pipe', 'pipe'], detached: true })
let complaints = ''
browser.stderr.on('data', text => { complaints = (complaints + text).slice(-4000) })
browser.on('error', cause => end(`cannot start Chromium: ${cause.message}`))
browser.on('exit', code => end(`Chromium ended with ${code}: ${complaints}`))
setTimeout(() => end(`not done within ${options.timeout} s`), options.timeout * 1000)
process.once('SIGTERM', () => end('terminated'))

let ending = false
async function end (error) {
  if (ending) {
    return
  }
  ending = true
  try {
    // It is a group of processes.
    process.kill(-browser.pid, 'SIGKILL')
  } catch {
    // It never started, or is gone.
  }
  await rm(profile, { recursive: true, force: true, maxRetries: 10 })
  if (error != null) {
    console.error(`peer-chromium: ${error}`)
  }
  process.exit(error == null ? 0 : 1)
}
