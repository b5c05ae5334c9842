package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// tracer knows who is in which mesh, what waits to be written, and what the router counts for nobody.
type tracer struct {
	verbose bool
	// Messages that did not fit into the queue of a peer, or into what it accepts.
	dropped atomic.Int64
	// Filled whenever a message has been written.
	moved chan struct{}

	mu        sync.Mutex
	protocols map[peer.ID]protocol.ID
	mesh      map[string]map[peer.ID]bool
	// Messages put in the queue of each peer and not yet written.
	queued     map[peer.ID]int64
	duplicates int
	rejected   map[string]int
	sent, got  control
}

// control counts what RPCs carried: messages, and besides them message ids, or grafts and prunes.
type control struct {
	Messages  int `json:"messages"`
	IHave     int `json:"ihave"`
	IWant     int `json:"iwant"`
	Graft     int `json:"graft"`
	Prune     int `json:"prune"`
	IDontWant int `json:"idontwant"`
}

func newTracer(verbose bool) *tracer {
	return &tracer{
		verbose:   verbose,
		moved:     make(chan struct{}, 1),
		protocols: map[peer.ID]protocol.ID{},
		mesh:      map[string]map[peer.ID]bool{},
		queued:    map[peer.ID]int64{},
		rejected:  map[string]int{},
	}
}

func (t *tracer) hasPeer() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.protocols) > 0
}

// reaches tells whether what is published to the topic goes to this subscribed peer.
func (t *tracer) reaches(id peer.ID, topic string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mesh[topic][id] || t.protocols[id] == pubsub.FloodSubID
}

// wait returns when the queue of the slowest peer holds fewer messages than limit.
func (t *tracer) wait(ctx context.Context, limit int64) error {
	for {
		waiting := int64(0)
		t.mu.Lock()
		for _, queued := range t.queued {
			waiting = max(waiting, queued)
		}
		t.mu.Unlock()
		if waiting < limit {
			return nil
		}
		select {
		case <-t.moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (t *tracer) wake() {
	select {
	case t.moved <- struct{}{}:
	default:
	}
}

// report tells what the router has counted.
func (t *tracer) report() {
	t.mu.Lock()
	defer t.mu.Unlock()
	emit(map[string]any{
		"event": "gossip", "duplicates": t.duplicates, "rejected": t.rejected, "dropped": t.dropped.Load(),
		"sent": t.sent, "got": t.got,
	})
}

func (t *tracer) OnNewOutboundStream(id peer.ID, proto protocol.ID) {
	t.mu.Lock()
	t.protocols[id] = proto
	t.mu.Unlock()
	if t.verbose {
		emit(map[string]any{"event": "gossip_peer", "peer": id.String(), "protocol": string(proto)})
	}
}

func (t *tracer) OnClosedOutboundStream(id peer.ID) {
	t.mu.Lock()
	delete(t.protocols, id)
	delete(t.queued, id)
	for _, peers := range t.mesh {
		delete(peers, id)
	}
	t.mu.Unlock()
	t.wake()
}

func (t *tracer) Graft(id peer.ID, topic string) {
	t.mu.Lock()
	if t.mesh[topic] == nil {
		t.mesh[topic] = map[peer.ID]bool{}
	}
	t.mesh[topic][id] = true
	t.mu.Unlock()
	if t.verbose {
		emit(map[string]any{"event": "graft", "peer": id.String(), "topic": topic})
	}
}

func (t *tracer) Prune(id peer.ID, topic string) {
	t.mu.Lock()
	delete(t.mesh[topic], id)
	t.mu.Unlock()
	if t.verbose {
		emit(map[string]any{"event": "prune", "peer": id.String(), "topic": topic})
	}
}

func (t *tracer) SendRPC(rpc *pubsub.RPC, id peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queued[id] += int64(len(rpc.Publish))
	t.sent.add(rpc)
}

func (t *tracer) SendRPCCompleted(rpc *pubsub.RPC, id peer.ID, _ time.Duration) {
	t.mu.Lock()
	if _, known := t.queued[id]; known {
		t.queued[id] -= int64(len(rpc.Publish))
	}
	t.mu.Unlock()
	t.wake()
}

func (t *tracer) DropRPC(rpc *pubsub.RPC, _ peer.ID) {
	t.dropped.Add(int64(len(rpc.Publish)))
}

func (t *tracer) RecvRPC(rpc *pubsub.RPC) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.got.add(rpc)
}

func (t *tracer) DuplicateMessage(*pubsub.Message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.duplicates++
}

func (t *tracer) RejectMessage(_ *pubsub.Message, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rejected[reason]++
}

func (t *tracer) UndeliverableMessage(*pubsub.Message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rejected["subscriber too slow"]++
}

func (t *tracer) Join(string)                     {}
func (t *tracer) Leave(string)                    {}
func (t *tracer) ValidateMessage(*pubsub.Message) {}
func (t *tracer) DeliverMessage(*pubsub.Message)  {}
func (t *tracer) ThrottlePeer(peer.ID)            {}

func (c *control) add(rpc *pubsub.RPC) {
	c.Messages += len(rpc.Publish)
	all := rpc.GetControl()
	if all == nil {
		return
	}
	c.Graft += len(all.Graft)
	c.Prune += len(all.Prune)
	for _, some := range all.Ihave {
		c.IHave += len(some.MessageIDs)
	}
	for _, some := range all.Iwant {
		c.IWant += len(some.MessageIDs)
	}
	for _, some := range all.Idontwant {
		c.IDontWant += len(some.MessageIDs)
	}
}
