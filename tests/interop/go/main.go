// Command peer-go is barewire's foreign peer on go-libp2p. It takes the command line of barewire and prints the
// same JSON events, one object per line, so that tests and benchmarks can put either end of a connection on either stack.
package main

import (
	"fmt"
	"os"
)

const usage = `usage:
  peer-go listen [--listen MULTIADDR]... [--echo-protocol ID]...
  peer-go identify|ping|perf|echo|half-close|reset|hold ADDR
  peer-go bench handshakes|streams|connections ADDR
  peer-go listen --topic T... [--connect ADDR]...
  peer-go subscribe ADDR... --topic T... [--expect N] [--leave]
  peer-go publish ADDR... --topic T (--count N --size BYTES | --file FILE) [--fanout] [--settle-ms MS] [--linger-ms MS]
  peer-go listen --relay-server [--relay-unlimited] [--relay-data BYTES] [--relay-duration SECONDS] [--relay-ttl SECONDS]
  peer-go listen --relay ADDR [--punch-addr MULTIADDR]...
  peer-go listen --connect ADDR [--punch-addr MULTIADDR]...
  peer-go listen --rendezvous-server | --mdns
  peer-go listen --autonat-server [--v1]
  peer-go autonat ADDR --listen MULTIADDR --test-addr MULTIADDR [--v1]
  peer-go rendezvous register|discover|unregister ADDR --ns NS [--ttl SECONDS] [--limit N]
options: --key FILE --security noise|tls --muxer yamux --no-early-muxer --psk FILE --timeout SECONDS --json
         --ws-cert FILE --ws-key FILE --ws-ca FILE
         --count N --concurrency N --size BYTES --upload BYTES --download BYTES --protocol ID --by local|remote
gossip:  --version 1.0|1.1|1.2|1.3|floodsub --sign strict|none|anonymous --message-id default|sha256 --max-message-size BYTES
         --heartbeat-ms MS --mesh-degree N --prune-backoff-ms MS --validation-ms MS --peer-exchange --verbose --quiet
  peer-go interop gossip --params FILE`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "peer-go: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("no command given\n%s", usage)
	}
	command, rest := args[0], args[1:]
	if command == "bench" || command == "rendezvous" || command == "interop" {
		if len(rest) == 0 {
			return fmt.Errorf("%s needs a second word\n%s", command, usage)
		}
		command, rest = command+" "+rest[0], rest[1:]
	}
	opts, err := parseOptions(rest)
	if err != nil {
		return err
	}
	switch command {
	case "listen":
		return listen(opts)
	case "subscribe":
		return subscribeTopics(opts)
	case "publish":
		return publishMessages(opts)
	case "interop gossip":
		return followScript(opts)
	}
	client, known := map[string]func(*options, *target) error{
		"identify":          identifyPeer,
		"ping":              pingPeer,
		"perf":              perfPeer,
		"echo":              echoPeer,
		"half-close":        halfClosePeer,
		"reset":             resetPeer,
		"hold":              holdPeer,
		"bench handshakes":  benchHandshakes,
		"bench streams":     benchStreams,
		"bench connections": benchConnections,

		"autonat":               askAutonat,
		"rendezvous register":   rendezvousRegister,
		"rendezvous discover":   rendezvousDiscover,
		"rendezvous unregister": rendezvousUnregister,
	}[command]
	if !known {
		return fmt.Errorf("unknown command %q\n%s", command, usage)
	}
	to, err := parseTarget(opts.positional)
	if err != nil {
		return err
	}
	return client(opts, to)
}
