package main

import (
	"encoding/binary"
	"fmt"
	"iter"
	"log/slog"
	"math/bits"
	"os"
	"slices"
	"sync"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p-pubsub/partialmessages"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
)

// A partial message of the public harness: eight parts of 1 KiB, and a bit for each that there is.
const (
	partCount = 8
	partSize  = 1024
)

// partsOf is what a peer has, once it has said so, and what it was told that we have.
type partsOf struct {
	has, told        byte
	hasSaid, wasTold bool
}

type groupKey struct {
	topic string
	group uint64
}

// parted holds the parts of all messages.
type parted struct {
	pubsub *pubsub.PubSub

	mu     sync.Mutex
	groups map[groupKey]*[partCount][]byte
}

func newParted() *parted {
	return &parted{groups: map[groupKey]*[partCount][]byte{}}
}

func (p *parted) extension() *partialmessages.PartialMessagesExtension[partsOf] {
	return &partialmessages.PartialMessagesExtension[partsOf]{
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		OnIncomingRPC: func(from peer.ID, states map[peer.ID]partsOf, rpc *pb.PartialMessagesExtension) error {
			if len(rpc.GroupID) != 8 {
				return fmt.Errorf("group %x", rpc.GroupID)
			}
			key := groupKey{rpc.GetTopicID(), binary.BigEndian.Uint64(rpc.GroupID)}
			state := states[from]
			if len(rpc.PartsMetadata) > 0 {
				state.has |= rpc.PartsMetadata[0]
				state.hasSaid = true
			}
			if len(rpc.PartialMessage) > 0 {
				sent, err := p.extend(key, rpc.PartialMessage)
				if err != nil {
					return err
				}
				state.has |= sent
				state.told |= sent
				state.hasSaid = true
			}
			states[from] = state
			// The router waits for this call.
			go p.publish(key.topic, key.group, nil)
			return nil
		},
		OnEmitGossip: func(topic string, group []byte, _ []peer.ID, _ map[peer.ID]partsOf) {
			go p.publish(topic, binary.BigEndian.Uint64(group), nil)
		},
	}
}

// message is the parts of a group; the lock is held.
func (p *parted) message(key groupKey) *[partCount][]byte {
	if p.groups[key] == nil {
		p.groups[key] = &[partCount][]byte{}
	}
	return p.groups[key]
}

func present(message *[partCount][]byte) (have byte) {
	for i, part := range message {
		if part != nil {
			have |= 1 << i
		}
	}
	return have
}

// add makes parts: counters that go on from the group's id.
func (p *parted) add(topic string, group uint64, which byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	message := p.message(groupKey{topic, group})
	before := present(message)
	for i := range message {
		if which&(1<<i) != 0 {
			var part []byte
			for n := range uint64(partSize / 8) {
				part = binary.BigEndian.AppendUint64(part, group+uint64(i)*partSize/8+n)
			}
			message[i] = part
		}
	}
	// Others may have been earlier with theirs.
	tellWhole(group, before, message)
}

// tellWhole says once that there are all parts.
func tellWhole(group uint64, before byte, message *[partCount][]byte) {
	if before != 0xff && present(message) == 0xff {
		logEvent("All parts received", map[string]any{"group id": group})
	}
}

// extend takes the parts that somebody sent.
func (p *parted) extend(key groupKey, data []byte) (byte, error) {
	which := data[0]
	if len(data) != 1+bits.OnesCount8(which)*partSize+8 {
		return 0, fmt.Errorf("%d bytes for the parts %08b", len(data), which)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	message := p.message(key)
	before := present(message)
	rest := data[1:]
	for i := range message {
		if which&(1<<i) != 0 {
			if message[i] == nil {
				message[i] = slices.Clone(rest[:partSize])
			}
			rest = rest[partSize:]
		}
	}
	tellWhole(key.group, before, message)
	return which, nil
}

func encode(message *[partCount][]byte, group uint64, which byte) []byte {
	data := []byte{which}
	for i, part := range message {
		if which&(1<<i) != 0 {
			data = append(data, part...)
		}
	}
	return binary.BigEndian.AppendUint64(data, group)
}

// publish tells peers what there is and sends what they lack: those given, or all who know of the group and the mesh.
func (p *parted) publish(topic string, group uint64, to []peer.ID) error {
	actions := func(states map[peer.ID]partsOf, requests func(peer.ID) bool) iter.Seq2[peer.ID, partialmessages.PublishAction] {
		return func(yield func(peer.ID, partialmessages.PublishAction) bool) {
			p.mu.Lock()
			defer p.mu.Unlock()
			message := p.message(groupKey{topic, group})
			have := present(message)
			peers := to
			if peers == nil {
				for id := range states {
					peers = append(peers, id)
				}
			}
			for _, id := range peers {
				state := states[id]
				var action partialmessages.PublishAction
				if lacks := have &^ state.has; lacks != 0 && state.hasSaid && requests(id) {
					action.EncodedPartialMessage = encode(message, group, lacks)
					state.has |= lacks
					state.told |= lacks
				}
				if !state.wasTold || have&^state.told != 0 {
					action.EncodedPartsMetadata = []byte{have}
					state.wasTold = true
					state.told |= have
				}
				states[id] = state
				if !yield(id, action) {
					return
				}
			}
		}
	}
	return pubsub.PublishPartial(p.pubsub, topic, binary.BigEndian.AppendUint64(nil, group), actions)
}
