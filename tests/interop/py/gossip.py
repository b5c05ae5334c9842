"""Subscribing, relaying and publishing over py-libp2p's gossipsub."""

import contextlib
import hashlib
import os
import time

import multiaddr
import trio
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub import gossipsub, pubsub
from libp2p.pubsub.floodsub import PROTOCOL_ID as FLOODSUB, FloodSub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.tools.anyio_service import background_trio_service

from events import emit

VERSIONS = ["1.3", "1.2", "1.1", "1.0"]
# Queue lengths that nothing in a test fills: py-libp2p drops what its own of 32 do not take.
ROOMY = 1 << 16
# Publications that may wait for the slowest peer.
WINDOW = 64
# How long a subscriber waits for a mesh with peers that may subscribe to nothing, in seconds.
PATIENCE = 5


class Router:
    """A pubsub service and what is needed to know of it."""

    def __init__(self, host, options):
        self.options = options
        self.dropped = 0
        self.make_room()
        self.router = self.new_router()
        ids = {}
        if options.message_id == "sha256":
            ids["msg_id_constructor"] = lambda message: hashlib.sha256(message.data).digest()
        if options.sign == "anonymous":
            raise ValueError("py-libp2p names an author in every message")
        if options.max_message_size:
            ids["max_inbound_rpc_size"] = options.max_message_size
        self.pubsub = pubsub.Pubsub(host, self.router, strict_signing=options.sign == "strict", **ids)

    def make_room(self):
        limit = self.options.max_message_size

        class Queue(RpcQueue):
            def __init__(self):
                super().__init__(max_size=ROOMY, **({"max_message_size": limit} if limit else {}))

        def drop(_, rpc):
            self.dropped += len(rpc.publish)

        # None of these is a parameter.
        pubsub.RpcQueue = Queue
        pubsub.SUBSCRIPTION_CHANNEL_SIZE = ROOMY
        gossipsub.drop_rpc = drop

    def new_router(self):
        if self.options.version == "floodsub":
            return FloodSub([FLOODSUB])
        offered = VERSIONS[VERSIONS.index(self.options.version) :]
        return gossipsub.GossipSub(
            protocols=[*(f"/meshsub/{version}.0" for version in offered), FLOODSUB],
            # The values of the specification; py-libp2p has none of its own, and a heartbeat of two minutes.
            degree=6,
            degree_low=5,
            degree_high=12,
            heartbeat_interval=self.options.heartbeat_ms / 1000,
            # Would stretch a heartbeat of a second to thirty.
            adaptive_gossip_enabled=False,
            # Would refuse more than ten messages a second.
            spam_protection_enabled=False,
        )

    @contextlib.asynccontextmanager
    async def running(self):
        async with contextlib.AsyncExitStack() as services:
            await services.enter_async_context(background_trio_service(self.pubsub))
            if isinstance(self.router, gossipsub.GossipSub):
                await services.enter_async_context(background_trio_service(self.router))
            await self.pubsub.wait_until_ready()
            yield self

    async def subscribe(self, nursery, on_message):
        async def deliver(subscription):
            async for message in subscription:
                on_message(message)

        for topic in self.options.topic:
            nursery.start_soon(deliver, await self.pubsub.subscribe(topic))

    def reached(self, topic, fanout=False):
        """Whether a peer is subscribed that would be sent what is published now, or read from."""
        mesh = self.router.mesh.get(topic, ())
        return any(
            fanout or peer in mesh or self.router.peer_protocol.get(peer) == FLOODSUB
            for peer in self.pubsub.peer_topics.get(topic, ())
            if peer in self.pubsub.peers
        )

    async def room(self, limit):
        """Returns when fewer publications than this wait for the slowest peer."""
        while max((len(queue) for queue in self.pubsub.peer_queues.values()), default=0) >= limit:
            await trio.sleep(0.001)


def tell(event, author, topic, data):
    emit(event, **{"from": author}, topic=topic, len=len(data), sha256=hashlib.sha256(data).hexdigest())


def tell_message(message):
    author = str(ID(message.from_id)) if message.from_id else None
    tell("message", author, message.topicIDs[0], message.data)


async def connect(host, addrs):
    for addr in addrs:
        await host.connect(info_from_p2p_addr(multiaddr.Multiaddr(addr)))


@contextlib.asynccontextmanager
async def relaying(host, options):
    """What a listener does for its topics."""
    if not options.topic:
        yield
        return
    async with Router(host, options).running() as router, trio.open_nursery() as nursery:
        await router.subscribe(nursery, lambda message: options.quiet or tell_message(message))
        yield


async def subscribe(host, addrs, options, until_ended):
    show = not options.quiet and (options.verbose or (options.expect or 0) <= 1000)
    count, size, first, last = 0, 0, 0.0, 0.0
    complete = trio.Event()

    def on_message(message):
        nonlocal count, size, first, last
        last = time.perf_counter()
        first = first or last
        count += 1
        size += len(message.data)
        if show:
            tell_message(message)
        if count == options.expect:
            complete.set()

    late = True
    async with Router(host, options).running() as router, trio.open_nursery() as nursery:
        with trio.move_on_after(options.timeout):
            await router.subscribe(nursery, on_message)
            await connect(host, addrs)
            with trio.move_on_after(PATIENCE):
                while not all(router.reached(topic) for topic in options.topic):
                    await trio.sleep(0.02)
            emit("subscribed", topics=options.topic)
            async with trio.open_nursery() as waiting:
                waiting.start_soon(until_ended, waiting.cancel_scope)
                await complete.wait()
                waiting.cancel_scope.cancel()
            late = False
        emit("received", count=count, bytes=size, secs=last - first)
        if late and options.expect:
            raise ValueError(f"got {count} of {options.expect} messages within {options.timeout} s")
        if options.leave:
            for topic in options.topic:
                await router.pubsub.unsubscribe(topic)
            emit("unsubscribed", topics=options.topic)
            async with trio.open_nursery() as waiting:
                await until_ended(waiting.cancel_scope)
        os._exit(0)


async def publish(host, addrs, options):
    (topic,) = options.topic
    if options.file:
        with open(options.file, "rb") as file:
            payload = file.read()
    elif options.size is None:
        raise ValueError("publish needs --file, or --count and --size")
    else:
        payload = os.urandom(options.size)
    count = options.count or 1
    async with Router(host, options).running() as router, trio.open_nursery() as nursery:
        if not options.fanout:
            await router.subscribe(nursery, lambda message: None)
        await connect(host, addrs)
        while not router.reached(topic, options.fanout):
            await trio.sleep(0.02)
        await trio.sleep(options.settle_ms / 1000)
        start = time.perf_counter()
        for number in range(count):
            # Differs from message to message, so that a message id made of the content does.
            head = b"" if options.file else number.to_bytes(8, "little")[: len(payload)]
            data = head + payload[len(head) :]
            await router.room(WINDOW)
            await router.pubsub.publish(topic, data)
            if options.verbose:
                tell("sent", None, topic, data)
        await router.room(1)
        secs = time.perf_counter() - start
        emit("published", count=count, bytes=count * len(payload), secs=secs, dropped=router.dropped)
        # What is written is not yet read at the other end, and the end of a connection may overtake it.
        await trio.sleep(options.linger_ms / 1000)
        os._exit(0)
