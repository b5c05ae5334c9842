package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// roomy is a queue length that nothing in a test fills: go-libp2p-pubsub drops what its queues of 32 do not take.
const roomy = 1 << 16

// Publications that may be on their way to the slowest peer: go-libp2p-pubsub itself has no backpressure.
const (
	windowBytes    = 8 << 20
	windowMessages = 1024
)

// patience is how long a subscriber waits for a mesh with peers that may subscribe to nothing.
const patience = 5 * time.Second

// gossip is a host with a pubsub router on it.
type gossip struct {
	opts   *options
	host   host.Host
	pubsub *pubsub.PubSub
	traced *tracer
}

func newGossip(ctx context.Context, opts *options, h host.Host) (*gossip, error) {
	traced := newTracer(opts.verbose)
	psOpts := []pubsub.Option{
		pubsub.WithRawTracer(traced),
		pubsub.WithPeerOutboundQueueSize(roomy),
		pubsub.WithValidateQueueSize(roomy),
	}
	if opts.maxMessageSize > 0 {
		psOpts = append(psOpts, pubsub.WithMaxMessageSize(int(opts.maxMessageSize)))
	}
	switch opts.sign {
	case "strict":
	case "none":
		psOpts = append(psOpts, pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign))
	case "anonymous":
		psOpts = append(psOpts, pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign), pubsub.WithNoAuthor())
	default:
		return nil, fmt.Errorf("--sign must be strict, none or anonymous")
	}
	switch {
	// By default the messages without an author would all have one id.
	case opts.messageID == "sha256", opts.sign == "anonymous":
		psOpts = append(psOpts, pubsub.WithMessageIdFn(func(m *pb.Message) string {
			id := sha256.Sum256(m.GetData())
			return string(id[:])
		}))
	case opts.messageID != "default":
		return nil, fmt.Errorf("--message-id must be default or sha256")
	}
	var ps *pubsub.PubSub
	var err error
	if opts.version == "floodsub" {
		ps, err = pubsub.NewFloodSub(ctx, h, psOpts...)
	} else {
		all := pubsub.GossipSubDefaultProtocols
		newest := slices.Index(all, protocol.ID("/meshsub/"+opts.version+".0"))
		if newest < 0 {
			return nil, fmt.Errorf("--version must be 1.0, 1.1, 1.2, 1.3 or floodsub")
		}
		params := pubsub.DefaultGossipSubParams()
		if opts.heartbeat > 0 {
			params.HeartbeatInterval = opts.heartbeat
		}
		if opts.meshDegree > 0 {
			params.D, params.Dlo, params.Dhi, params.Dscore = opts.meshDegree, opts.meshDegree, opts.meshDegree, opts.meshDegree
			params.Dout = 0
		}
		if opts.pruneBackoff > 0 {
			params.PruneBackoff = opts.pruneBackoff
		}
		psOpts = append(psOpts,
			pubsub.WithGossipSubProtocols(all[newest:], pubsub.GossipSubDefaultFeatures),
			pubsub.WithGossipSubParams(params),
			pubsub.WithPeerExchange(opts.peerExchange))
		ps, err = pubsub.NewGossipSub(ctx, h, psOpts...)
	}
	if err != nil {
		return nil, err
	}
	if opts.validationTime > 0 {
		for _, topic := range opts.topics {
			if err := ps.RegisterTopicValidator(topic, slowly(opts.validationTime)); err != nil {
				return nil, err
			}
		}
	}
	return &gossip{opts: opts, host: h, pubsub: ps, traced: traced}, nil
}

// slowly accepts everything of others, after a while.
func slowly(delay time.Duration) pubsub.ValidatorEx {
	return func(ctx context.Context, _ peer.ID, message *pubsub.Message) pubsub.ValidationResult {
		if !message.Local {
			time.Sleep(delay)
		}
		return pubsub.ValidationAccept
	}
}

// dialled is a gossiping host without a listener, connected to every address.
func dialled(ctx context.Context, opts *options) (*gossip, error) {
	if len(opts.topics) == 0 {
		return nil, fmt.Errorf("--topic is needed\n%s", usage)
	}
	h, err := newHost(opts, nil)
	if err != nil {
		return nil, err
	}
	g, err := newGossip(ctx, opts, h)
	if err == nil {
		err = g.connect(ctx, opts.positional)
	}
	if err != nil {
		h.Close()
		return nil, err
	}
	return g, nil
}

func (g *gossip) connect(ctx context.Context, addrs []string) error {
	for _, addr := range addrs {
		to, err := parseTarget([]string{addr})
		if err != nil {
			return err
		}
		if err := g.host.Connect(ctx, to.info); err != nil {
			return err
		}
	}
	return nil
}

// subscribe hands every message of every topic to deliver, one at a time.
func (g *gossip) subscribe(ctx context.Context, deliver func(*pubsub.Message)) ([]*pubsub.Subscription, error) {
	messages := make(chan *pubsub.Message)
	var subscriptions []*pubsub.Subscription
	for _, name := range g.opts.topics {
		topic, err := g.pubsub.Join(name)
		if err != nil {
			return nil, err
		}
		subscription, err := topic.Subscribe(pubsub.WithBufferSize(roomy))
		if err != nil {
			return nil, err
		}
		subscriptions = append(subscriptions, subscription)
		go func() {
			for {
				message, err := subscription.Next(ctx)
				if err != nil {
					return
				}
				messages <- message
			}
		}()
	}
	go func() {
		for message := range messages {
			deliver(message)
		}
	}()
	return subscriptions, nil
}

// ready waits until a peer is subscribed to the topic and will be sent what is published: is in the mesh if there is one.
func (g *gossip) ready(ctx context.Context, topic string, giveUp bool) error {
	var since time.Time
	for {
		for _, id := range g.pubsub.ListPeers(topic) {
			if g.opts.fanout || g.opts.version == "floodsub" || g.traced.reaches(id, topic) {
				return nil
			}
		}
		if since.IsZero() && g.traced.hasPeer() {
			since = time.Now()
		}
		if giveUp && !since.IsZero() && time.Since(since) > patience {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no peer is subscribed to %q: %w", topic, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func emitMessage(event, from, topic string, data []byte) {
	sum := sha256.Sum256(data)
	fields := map[string]any{"event": event, "topic": topic, "len": len(data), "sha256": hex.EncodeToString(sum[:])}
	if from != "" {
		fields["from"] = from
	} else {
		fields["from"] = nil
	}
	emit(fields)
}

func author(message *pubsub.Message) string {
	if len(message.From) == 0 {
		return ""
	}
	return message.GetFrom().String()
}

// listenGossip is what a listener does for its topics.
func listenGossip(ctx context.Context, opts *options, h host.Host) (*gossip, error) {
	g, err := newGossip(ctx, opts, h)
	if err != nil {
		return nil, err
	}
	_, err = g.subscribe(ctx, func(message *pubsub.Message) {
		if !opts.quiet {
			emitMessage("message", author(message), message.GetTopic(), message.Data)
		}
	})
	return g, err
}

func subscribeTopics(opts *options) error {
	ctx, stop := context.WithTimeout(context.Background(), opts.timeout)
	defer stop()
	g, err := dialled(ctx, opts)
	if err != nil {
		return err
	}
	defer g.host.Close()
	show := !opts.quiet && (opts.verbose || opts.expect <= 1000)
	type progress struct {
		count, bytes int
		first, last  time.Time
	}
	var current atomic.Pointer[progress]
	current.Store(&progress{})
	complete := make(chan struct{})
	subscriptions, err := g.subscribe(ctx, func(message *pubsub.Message) {
		next := *current.Load()
		next.last = time.Now()
		if next.count == 0 {
			next.first = next.last
		}
		next.count++
		next.bytes += len(message.Data)
		current.Store(&next)
		if show {
			emitMessage("message", author(message), message.GetTopic(), message.Data)
		}
		if next.count == opts.expect {
			close(complete)
		}
	})
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { waitForEnd(); close(ended) }()
	for _, topic := range opts.topics {
		if err := g.ready(ctx, topic, true); err != nil {
			return err
		}
	}
	emit(map[string]any{"event": "subscribed", "topics": opts.topics})
	late := false
	select {
	case <-complete:
	case <-ended:
	case <-ctx.Done():
		late = opts.expect > 0
	}
	seen := current.Load()
	emit(map[string]any{"event": "received", "count": seen.count, "bytes": seen.bytes, "secs": seen.last.Sub(seen.first).Seconds()})
	if opts.leave && !late {
		for _, subscription := range subscriptions {
			subscription.Cancel()
		}
		emit(map[string]any{"event": "unsubscribed", "topics": opts.topics})
		select {
		case <-ended:
		case <-ctx.Done():
		}
	}
	g.traced.report()
	if late {
		return fmt.Errorf("got %d of %d messages within %v", seen.count, opts.expect, opts.timeout)
	}
	return nil
}

func publishMessages(opts *options) error {
	ctx, stop := context.WithTimeout(context.Background(), opts.timeout)
	defer stop()
	if len(opts.topics) != 1 {
		return fmt.Errorf("exactly one --topic is needed\n%s", usage)
	}
	payload, count, err := opts.payload()
	if err != nil {
		return err
	}
	g, err := dialled(ctx, opts)
	if err != nil {
		return err
	}
	defer g.host.Close()
	topic, err := g.pubsub.Join(opts.topics[0])
	if err != nil {
		return err
	}
	if !opts.fanout {
		// In the mesh, as an application that reads would be, but with nobody who reads.
		if _, err := topic.Relay(); err != nil {
			return err
		}
	}
	if err := g.ready(ctx, opts.topics[0], false); err != nil {
		return err
	}
	time.Sleep(opts.settle)

	window := int64(min(max(windowBytes/max(len(payload), 1), 1), windowMessages))
	start := time.Now()
	for i := range count {
		data := payload
		if opts.file == "" {
			data = numbered(payload, i)
		}
		if err := g.traced.wait(ctx, window); err != nil {
			return err
		}
		if err := topic.Publish(ctx, data); err != nil {
			return err
		}
		if opts.verbose {
			emitMessage("sent", "", opts.topics[0], data)
		}
	}
	// The router may hold 32 more that it has not yet put in the queues. It takes turns between these and questions
	// such as this one, at random, so that after so many it has none left.
	for range 200 {
		g.pubsub.ListPeers(opts.topics[0])
	}
	if err := g.traced.wait(ctx, 1); err != nil {
		return err
	}
	emit(map[string]any{
		"event": "published", "count": count, "bytes": count * len(payload), "secs": time.Since(start).Seconds(),
		"dropped": g.traced.dropped.Load(),
	})
	// What is written is not yet read at the other end, and the end of a connection may overtake it.
	time.Sleep(opts.linger)
	g.traced.report()
	return nil
}

// payload is what to publish and how many times; without a file each message gets a number at its front.
func (o *options) payload() ([]byte, int, error) {
	if o.file != "" {
		payload, err := os.ReadFile(o.file)
		return payload, max(o.count, 1), err
	}
	if o.size < 0 {
		return nil, 0, errors.New("publish needs --file, or --count and --size")
	}
	payload := make([]byte, o.size)
	rand.Read(payload)
	return payload, max(o.count, 1), nil
}

// numbered differs from message to message, so that a message id made of the content does.
func numbered(payload []byte, number int) []byte {
	data := slices.Clone(payload)
	for at := range min(len(data), 8) {
		data[at] = byte(number >> (8 * at))
	}
	return data
}
