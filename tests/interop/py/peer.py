"""Foreign peer on py-libp2p: barewire's command line, and its events as one JSON object per line."""

import argparse
import hashlib
import os
import re
import signal
import ssl
import sys
import time

import multiaddr
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.identity.identify.identify import parse_identify_response
from libp2p.network.stream.exceptions import StreamClosed, StreamEOF, StreamError, StreamReset
from libp2p.peer.envelope import consume_envelope
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE, Transport as NoiseTransport
from libp2p.security.tls.transport import PROTOCOL_ID as TLS, TLSTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX, Yamux
from libp2p.utils import read_length_prefixed_protobuf

import gossip
from events import emit

ECHO = "/barewire/echo/1.0.0"
HALF_CLOSE = "/barewire/test/half-close/1.0.0"
RESET = "/barewire/test/reset/1.0.0"
HOLD = "/barewire/test/hold/1.0.0"
IDENTIFY = "/ipfs/id/1.0.0"
PING = "/ipfs/ping/1.0.0"

CHUNK = 64 * 1024
STREAM_LOST = (StreamReset, StreamClosed, StreamError)


def parse_options(arguments):
    parser = argparse.ArgumentParser(prog="peer-py")
    parser.add_argument(
        "words",
        nargs="+",
        help="listen | identify|ping|echo|half-close|reset|hold ADDR | bench streams|handshakes ADDR | subscribe|publish ADDR...",
    )
    parser.add_argument("--listen", action="append")
    parser.add_argument("--echo-protocol", action="append", default=[])
    parser.add_argument("--security", choices=["noise", "tls"], default="noise")
    parser.add_argument("--ws-cert")
    parser.add_argument("--ws-key")
    parser.add_argument("--ws-ca")
    parser.add_argument("--timeout", type=lambda text: float(text.rstrip("s")), default=60.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--count", type=int)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--size", type=count_bytes)
    parser.add_argument("--protocol", default=ECHO)
    parser.add_argument("--by", choices=["local", "remote"], default="remote")
    gossiping = parser.add_argument_group("gossip")
    gossiping.add_argument("--topic", action="append", default=[])
    gossiping.add_argument("--connect", action="append", default=[])
    gossiping.add_argument("--expect", type=int)
    gossiping.add_argument("--file")
    gossiping.add_argument("--settle-ms", type=int, default=1000)
    gossiping.add_argument("--linger-ms", type=int, default=5000)
    gossiping.add_argument("--version", choices=[*gossip.VERSIONS, "floodsub"], default="1.3")
    gossiping.add_argument("--sign", choices=["strict", "none", "anonymous"], default="strict")
    gossiping.add_argument("--message-id", choices=["default", "sha256"], default="default")
    gossiping.add_argument("--max-message-size", type=count_bytes)
    gossiping.add_argument("--heartbeat-ms", type=int, default=1000)
    for flag in ["--fanout", "--leave", "--verbose", "--quiet"]:
        gossiping.add_argument(flag, action="store_true")
    return parser.parse_intermixed_args(arguments)


def count_bytes(text):
    units = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 10**3, "MB": 10**6, "GB": 10**9, "B": 1, "": 1}
    number, unit = re.fullmatch(r"(\d+)\s*([A-Za-z]*)", text).groups()
    return int(number) * units[unit]


def new_peer(options, addrs, listening):
    key_pair = create_new_key_pair()
    if options.security == "tls":
        security = {TLS: TLSTransport(key_pair)}
    else:
        security = {NOISE: NoiseTransport(key_pair, noise_privkey=create_new_x25519_key_pair().private_key)}
    server, client = None, None
    if options.ws_cert:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(options.ws_cert, options.ws_key)
    if options.ws_ca:
        client = ssl.create_default_context(cafile=options.ws_ca)
    text = " ".join(addrs)
    return new_host(
        key_pair=key_pair,
        sec_opt=security,
        muxer_opt={YAMUX: Yamux},
        listen_addrs=[multiaddr.Multiaddr(addr) for addr in addrs] if listening else None,
        tls_server_config=server,
        tls_client_config=client,
        enable_quic="/quic-v1" in text,
        enable_websocket="/ws" in text,
        enable_tcp=not ("/quic-v1" in text or "/ws" in text),
    )


async def read_all(stream):
    """Everything up to the other side's end."""
    chunks = []
    while True:
        try:
            chunk = await stream.read(CHUNK)
        except StreamEOF:
            break
        if not chunk:
            break
        chunks.append(chunk)
    return b"".join(chunks)


async def send_all(stream, data):
    for at in range(0, len(data), CHUNK):
        await stream.write(data[at : at + CHUNK])


async def read_exactly(stream, length):
    got = b""
    while len(got) < length:
        chunk = await stream.read(length - len(got))
        if not chunk:
            raise StreamEOF()
        got += chunk
    return got


# The listener's side.


async def serve_echo(stream):
    while True:
        try:
            chunk = await stream.read(CHUNK)
        except StreamEOF:
            return
        if not chunk:
            return
        await stream.write(chunk)


async def serve_half_close(stream):
    await send_all(stream, await read_all(stream))


async def serve_reset(stream):
    await stream.read(1)
    await stream.reset()


async def serve_hold(stream):
    await stream.write(b"h")
    cause = await lost(stream)
    if cause is not None:
        emit("lost", error=repr(cause))


async def lost(stream):
    """The cause why a stream was lost, or None when it ended cleanly."""
    try:
        while await stream.read(CHUNK):
            pass
    except StreamEOF:
        pass
    except STREAM_LOST as cause:
        return cause
    # Where a reset looks like an end: only after a real end can one still write.
    try:
        await stream.write(b"?")
    except (*STREAM_LOST, ValueError) as cause:
        return cause
    return None


def closing(handler):
    async def handle(stream):
        try:
            await handler(stream)
            await stream.close_write()
        except STREAM_LOST as cause:
            print(f"peer-py: {handler.__name__}: {cause!r}", file=sys.stderr)
            await stream.reset()

    return handle


async def listen(options):
    addrs = options.listen or ["/ip4/127.0.0.1/tcp/0"]
    host = new_peer(options, addrs, True)
    for protocol in [ECHO, *options.echo_protocol]:
        host.set_stream_handler(protocol, closing(serve_echo))
    host.set_stream_handler(HALF_CLOSE, closing(serve_half_close))
    host.set_stream_handler(RESET, serve_reset)
    host.set_stream_handler(HOLD, closing(serve_hold))
    async with (
        host.run(listen_addrs=[multiaddr.Multiaddr(addr) for addr in addrs]),
        gossip.relaying(host, options),
    ):
        peer = str(host.get_id())
        for addr in host.get_transport_addrs():
            text = str(addr)
            emit("listening", peer=peer, addr=text if "/p2p/" in text else f"{text}/p2p/{peer}")
        await gossip.connect(host, options.connect)
        async with trio.open_nursery() as nursery:
            await until_ended(nursery.cancel_scope)
        # The shutdown of py-libp2p waits for its peers; whoever ends this process does not.
        os._exit(0)


async def until_ended(scope):
    """Cancels the scope when stdin closes or the process is asked to stop."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(until_told, scope)
        nursery.start_soon(until_stdin_closes, scope)


async def until_told(scope):
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return


async def until_stdin_closes(scope):
    # A pipe from whoever started this; it carries nothing.
    while await trio.to_thread.run_sync(sys.stdin.buffer.read1, 256, abandon_on_cancel=True):
        pass
    scope.cancel()


# The dialler's side.


async def identify(host, peer, options):
    stream = await host.new_stream(peer, [IDENTIFY])
    told = parse_identify_response(await read_length_prefixed_protobuf(stream, use_varint_format=True))
    try:
        _, record = consume_envelope(told.signedPeerRecord, "libp2p-peer-record")
        verified = record.peer_id == peer
    except ValueError:
        verified = False
    return "identify", {
        "agent": told.agent_version,
        "protocol_version": told.protocol_version,
        "protocols": list(told.protocols),
        "listen_addrs": [str(multiaddr.Multiaddr(addr)) for addr in told.listen_addrs],
        "observed_addr": str(multiaddr.Multiaddr(told.observed_addr)) if told.observed_addr else "",
        "signed_record": verified,
    }


async def ping_once(stream):
    sent = os.urandom(32)
    start = time.perf_counter()
    await stream.write(sent)
    got = await read_exactly(stream, len(sent))
    took = time.perf_counter() - start
    if sent != got:
        raise ValueError("the ping came back with other bytes")
    return took


async def ping(host, peer, options):
    stream = await host.new_stream(peer, [PING])
    times = sorted([await ping_once(stream) for _ in range(options.count or 1)])
    await stream.close()
    return "ping", {
        "count": len(times),
        "min_us": times[0] * 1e6,
        "p50_us": times[len(times) // 2] * 1e6,
        "p99_us": times[len(times) * 99 // 100] * 1e6,
    }


async def round_trip(stream, payload):
    """Sends everything while reading what comes back, and compares."""
    back = b""

    async def read():
        nonlocal back
        back = await read_all(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await send_all(stream, payload)
        await stream.close_write()
    if back != payload:
        raise ValueError(f"sent {len(payload)} bytes, got {len(back)} other ones back")


async def echo(host, peer, options):
    payload = os.urandom(options.size if options.size is not None else 10 << 20)
    start = time.perf_counter()
    await round_trip(await host.new_stream(peer, [options.protocol]), payload)
    return "echo", {
        "bytes": len(payload),
        "secs": time.perf_counter() - start,
        "sha256": hashlib.sha256(payload).hexdigest(),
    }


async def half_close(host, peer, options):
    payload = os.urandom(options.size if options.size is not None else 100_000)
    stream = await host.new_stream(peer, [HALF_CLOSE])
    await send_all(stream, payload)
    await stream.close_write()
    back = await read_all(stream)
    if back != payload:
        raise ValueError(f"sent {len(payload)} bytes, got {len(back)} other ones back")
    return "half_close", {"bytes": len(payload)}


async def reset(host, peer, options):
    if options.by == "local":
        await (await open_hold(host, peer)).reset()
    else:
        stream = await host.new_stream(peer, [RESET])
        await stream.write(b"reset")
        if await lost(stream) is None:
            raise ValueError("the stream ended cleanly")
    try:
        await ping_once(await host.new_stream(peer, [PING]))
    except Exception as cause:
        raise ValueError(f"the connection did not survive the reset: {cause!r}") from cause
    return "reset", {"by": options.by}


async def open_hold(host, peer):
    stream = await host.new_stream(peer, [HOLD])
    await stream.write(b"hold")
    await read_exactly(stream, 1)
    return stream


async def hold(host, peer, options):
    stream = await open_hold(host, peer)
    emit("holding", peer=str(peer))
    cause = await lost(stream)
    if cause is None:
        raise ValueError("the stream ended cleanly")
    return "lost", {"error": repr(cause)}


async def bench_streams(host, peer, options):
    payload = b"\x5a" * (options.size if options.size is not None else 100)

    async def operation():
        await round_trip(await host.new_stream(peer, [options.protocol]), payload)

    return "streams", {"size": len(payload), **await measure(options, operation)}


async def measure(options, operation):
    """Runs --count operations on --concurrency workers."""
    count = options.count or 1000
    left = count
    times = []

    async def work():
        nonlocal left
        while left > 0:
            left -= 1
            began = time.perf_counter()
            await operation()
            times.append(time.perf_counter() - began)

    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(options.concurrency):
            nursery.start_soon(work)
    secs = time.perf_counter() - start
    times.sort()
    return {
        "count": count,
        "concurrency": options.concurrency,
        "secs": secs,
        "per_s": count / secs,
        "p50_us": times[len(times) // 2] * 1e6,
    }


async def bench_handshakes(options, addr):
    """One fresh connection after another: dial, one ping, close. A host each, for a host reuses what it has."""
    info = info_from_p2p_addr(multiaddr.Multiaddr(addr))

    async def operation():
        host = new_peer(options, [addr], False)
        async with host.run(listen_addrs=[]):
            await host.connect(info)
            await ping_once(await host.new_stream(info.peer_id, [PING]))
            await host.disconnect(info.peer_id)

    emit("handshakes", peer=str(info.peer_id), **await measure(options, operation))


COMMANDS = {
    "identify": identify,
    "ping": ping,
    "echo": echo,
    "half-close": half_close,
    "reset": reset,
    "hold": hold,
    "bench streams": bench_streams,
}


async def gossiping(command, *addrs, options):
    if not addrs or not options.topic:
        raise ValueError(f"{command} needs an address and a --topic")
    host = new_peer(options, list(addrs), False)
    async with host.run(listen_addrs=[]):
        if command == "subscribe":
            await gossip.subscribe(host, addrs, options, until_ended)
        else:
            with trio.fail_after(options.timeout):
                await gossip.publish(host, addrs, options)


async def main(arguments):
    options = parse_options(arguments)
    if options.words == ["listen"]:
        return await listen(options)
    if options.words[0] in ["subscribe", "publish"]:
        return await gossiping(*options.words, options=options)
    *command, addr = options.words
    command = " ".join(command)
    with trio.fail_after(options.timeout):
        if command == "bench handshakes":
            await bench_handshakes(options, addr)
        elif command in COMMANDS:
            info = info_from_p2p_addr(multiaddr.Multiaddr(addr))
            host = new_peer(options, [addr], False)
            async with host.run(listen_addrs=[]):
                await host.connect(info)
                event, fields = await COMMANDS[command](host, info.peer_id, options)
                emit(event, peer=str(info.peer_id), **fields)
                # The shutdown of py-libp2p waits for its peers; whoever started this process does not.
                os._exit(0)
        else:
            raise ValueError(f"unknown command {command}")


if __name__ == "__main__":
    try:
        trio.run(main, sys.argv[1:])
    except BaseException as cause:
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        print(f"peer-py: {cause!r}", file=sys.stderr, flush=True)
        os._exit(1)
