package main

import (
	"flag"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// Protocols of barewire's own, served by every peer.
const (
	echoProtocol      = "/barewire/echo/1.0.0"
	halfCloseProtocol = "/barewire/test/half-close/1.0.0"
	resetProtocol     = "/barewire/test/reset/1.0.0"
	holdProtocol      = "/barewire/test/hold/1.0.0"
	perfProtocol      = "/perf/1.0.0"
	pingProtocol      = "/ipfs/ping/1.0.0"
)

type options struct {
	positional    []string
	listen        stringList
	echoProtocols stringList
	key           string
	security      string
	psk           string
	noEarlyMuxer  bool
	wsCert        string
	wsKey         string
	wsCA          string
	timeout       time.Duration
	count         int
	concurrency   int
	size          byteSize
	upload        byteSize
	download      byteSize
	protocol      string
	by            string

	relays         stringList
	punchAddrs     stringList
	relayServer    bool
	relayUnlimited bool
	relayData      byteSize
	relayDuration  time.Duration
	relayTTL       time.Duration

	topics         stringList
	connect        stringList
	expect         int
	file           string
	settle         time.Duration
	linger         time.Duration
	version        string
	sign           string
	messageID      string
	maxMessageSize byteSize
	heartbeat      time.Duration
	meshDegree     int
	pruneBackoff   time.Duration
	validationTime time.Duration
	peerExchange   bool
	params         string
	fanout         bool
	leave          bool
	verbose        bool
	quiet          bool

	autonatServer bool
	testAddrs     stringList
	v1            bool

	rendezvousServer bool
	mdns             bool
	ns               string
	ttl              int
	limit            int
}

func parseOptions(args []string) (*options, error) {
	opts := &options{timeout: 60 * time.Second, size: -1, relayData: -1, settle: time.Second, linger: 5 * time.Second}
	var muxer string
	var timeout seconds
	set := flag.NewFlagSet("peer-go", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Var(&opts.listen, "listen", "multiaddr to listen on")
	set.Var(&opts.echoProtocols, "echo-protocol", "further protocol id to echo on")
	set.StringVar(&opts.key, "key", "", "identity file in libp2p's protobuf form")
	set.StringVar(&opts.security, "security", "noise", "noise or tls")
	set.StringVar(&opts.psk, "psk", "", "key file of a private network")
	set.StringVar(&muxer, "muxer", "yamux", "only yamux")
	set.BoolVar(&opts.noEarlyMuxer, "no-early-muxer", false, "negotiate the muxer by multistream only")
	set.StringVar(&opts.wsCert, "ws-cert", "", "certificate to listen with on wss, PEM")
	set.StringVar(&opts.wsKey, "ws-key", "", "its private key, PEM")
	set.StringVar(&opts.wsCA, "ws-ca", "", "certificate to trust when dialling wss, PEM")
	set.Var(&timeout, "timeout", "deadline of the whole command")
	set.Bool("json", true, "accepted for symmetry: the output is always JSON lines")
	set.IntVar(&opts.count, "count", 0, "how many")
	set.IntVar(&opts.concurrency, "concurrency", 1, "how many at a time")
	set.Var(&opts.size, "size", "payload bytes")
	set.Var(&opts.upload, "upload", "bytes to send")
	set.Var(&opts.download, "download", "bytes to ask for")
	set.StringVar(&opts.protocol, "protocol", echoProtocol, "echo protocol id")
	set.StringVar(&opts.by, "by", "remote", "who resets: local or remote")
	set.Var(&opts.relays, "relay", "relay to have a reservation at")
	set.Var(&opts.punchAddrs, "punch-addr", "where the router shows this host; it punches holes then")
	set.BoolVar(&opts.relayServer, "relay-server", false, "carry circuits for others")
	set.BoolVar(&opts.relayUnlimited, "relay-unlimited", false, "without limits of time and bytes")
	set.Var(&opts.relayData, "relay-data", "bytes a circuit may carry in each direction")
	set.Var((*seconds)(&opts.relayDuration), "relay-duration", "how long a circuit may last")
	set.Var((*seconds)(&opts.relayTTL), "relay-ttl", "how long a reservation lasts")
	set.Var(&opts.topics, "topic", "topic to gossip about")
	set.Var(&opts.connect, "connect", "peer that a gossiping listener dials")
	set.IntVar(&opts.expect, "expect", 0, "messages to wait for")
	set.StringVar(&opts.file, "file", "", "what to publish as one message")
	set.Func("settle-ms", "wait between the first subscriber and the first message", millis(&opts.settle))
	set.Func("linger-ms", "stay so long after the last message", millis(&opts.linger))
	set.StringVar(&opts.version, "version", "1.3", "newest gossipsub to offer, or floodsub")
	set.StringVar(&opts.sign, "sign", "strict", "strict, none or anonymous")
	set.StringVar(&opts.messageID, "message-id", "default", "default or sha256")
	set.Var(&opts.maxMessageSize, "max-message-size", "largest RPC")
	set.Func("heartbeat-ms", "heartbeat of the router", millis(&opts.heartbeat))
	set.IntVar(&opts.meshDegree, "mesh-degree", 0, "peers in a mesh, neither more nor fewer")
	set.Func("prune-backoff-ms", "how long who is pruned must not come back", millis(&opts.pruneBackoff))
	set.Func("validation-ms", "how long a message is looked at before it is passed on", millis(&opts.validationTime))
	set.StringVar(&opts.params, "params", "", "script of the public harness for gossipsub")
	set.BoolVar(&opts.peerExchange, "peer-exchange", false, "send signed records to whom is pruned")
	set.BoolVar(&opts.fanout, "fanout", false, "publish without joining the mesh")
	set.BoolVar(&opts.leave, "leave", false, "unsubscribe after the last message and stay connected")
	set.BoolVar(&opts.verbose, "verbose", false, "an event per message and per change of a mesh")
	set.BoolVar(&opts.quiet, "quiet", false, "no event per message")
	set.BoolVar(&opts.autonatServer, "autonat-server", false, "dial those that ask for it")
	set.Var(&opts.testAddrs, "test-addr", "own address to ask a server about")
	set.BoolVar(&opts.v1, "v1", false, "AutoNAT of version 1 alone")
	set.BoolVar(&opts.rendezvousServer, "rendezvous-server", false, "be a rendezvous point")
	set.BoolVar(&opts.mdns, "mdns", false, "find peers by mDNS, and tell of each")
	set.StringVar(&opts.ns, "ns", "", "namespace at a rendezvous point")
	set.IntVar(&opts.ttl, "ttl", 7200, "seconds to be registered")
	set.IntVar(&opts.limit, "limit", 0, "registrations in a page")
	// flag stops at the first positional argument; options may stand behind it here.
	for {
		if err := set.Parse(args); err != nil {
			return nil, fmt.Errorf("%w\n%s", err, usage)
		}
		if set.NArg() == 0 {
			break
		}
		opts.positional = append(opts.positional, set.Arg(0))
		args = set.Args()[1:]
	}
	if muxer != "yamux" {
		return nil, fmt.Errorf("muxer %q is unknown: only yamux is built in", muxer)
	}
	if timeout != 0 {
		opts.timeout = time.Duration(timeout)
	}
	if opts.concurrency < 1 {
		return nil, fmt.Errorf("--concurrency must be at least 1")
	}
	return opts, nil
}

// target is the dialled peer. go-libp2p authenticates every dial, so the peer id is mandatory.
type target struct {
	info peer.AddrInfo
}

func parseTarget(positional []string) (*target, error) {
	if len(positional) != 1 {
		return nil, fmt.Errorf("exactly one address is needed\n%s", usage)
	}
	addr, err := ma.NewMultiaddr(positional[0])
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", positional[0], err)
	}
	info, err := peer.AddrInfoFromP2pAddr(addr)
	if err != nil {
		return nil, fmt.Errorf("address %q needs a /p2p/ id at its end: %w", positional[0], err)
	}
	return &target{info: *info}, nil
}

type stringList []string

func (l *stringList) String() string     { return strings.Join(*l, ",") }
func (l *stringList) Set(s string) error { *l = append(*l, s); return nil }

type byteSize int64

func (b *byteSize) String() string { return strconv.FormatInt(int64(*b), 10) }

func (b *byteSize) Set(s string) error {
	units := []struct {
		suffix string
		factor int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}}
	factor := int64(1)
	for _, u := range units {
		if number, ok := strings.CutSuffix(s, u.suffix); ok {
			s, factor = number, u.factor
			break
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/factor {
		return fmt.Errorf("%q is not a byte count such as 100, 64KiB or 1GiB", s)
	}
	*b = byteSize(n * factor)
	return nil
}

// seconds accepts a bare number of seconds as well as a Go duration.
type seconds time.Duration

func (d *seconds) String() string { return time.Duration(*d).String() }

func (d *seconds) Set(s string) error {
	if n, err := strconv.ParseFloat(s, 64); err == nil {
		*d = seconds(n * float64(time.Second))
		return nil
	}
	parsed, err := time.ParseDuration(s)
	*d = seconds(parsed)
	return err
}

func millis(to *time.Duration) func(string) error {
	return func(s string) error {
		n, err := strconv.ParseUint(s, 10, 32)
		*to = time.Duration(n) * time.Millisecond
		return err
	}
}
