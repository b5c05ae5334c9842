package main

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// What the public harness for gossipsub demands of everybody.
const (
	scriptPort       = 9000
	scriptMaxMessage = 10 << 20
	scriptQueue      = 600
)

// scriptPatience is how long a node that starts later than others is dialled.
const scriptPatience = 20 * time.Second

// instruction is one of all kinds, told apart by Type.
type instruction struct {
	Type             string          `json:"type"`
	GossipSubParams  json.RawMessage `json:"gossipSubParams"`
	NodeID           int             `json:"nodeID"`
	Instruction      *instruction    `json:"instruction"`
	ConnectTo        []int           `json:"connectTo"`
	ElapsedSeconds   float64         `json:"elapsedSeconds"`
	TopicID          string          `json:"topicID"`
	Partial          bool            `json:"partial"`
	DelaySeconds     float64         `json:"delaySeconds"`
	MessageID        uint64          `json:"messageID"`
	MessageSizeBytes int             `json:"messageSizeBytes"`
	Parts            uint8           `json:"parts"`
	GroupID          uint64          `json:"groupID"`
	PublishToNodeIDs []int           `json:"publishToNodeIDs"`
}

// scripted is a node that follows a script.
type scripted struct {
	node   int
	begun  time.Time
	host   host.Host
	pubsub *pubsub.PubSub
	topics map[string]*pubsub.Topic
	parts  *parted
}

func followScript(opts *options) error {
	begun := time.Now()
	text, err := os.ReadFile(opts.params)
	if err != nil {
		return err
	}
	var params struct {
		Script []*instruction `json:"script"`
	}
	if err := json.Unmarshal(text, &params); err != nil {
		return err
	}
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	var node int
	if _, err := fmt.Sscanf(name, "node%d", &node); err != nil {
		return fmt.Errorf("the host name %q is not that of a node: %w", name, err)
	}
	h, err := newHostWith(keyOfNode(node), opts, []string{fmt.Sprintf("/ip4/0.0.0.0/tcp/%d", scriptPort)})
	if err != nil {
		return err
	}
	defer h.Close()
	logEvent("PeerID", map[string]any{"id": h.ID().String(), "node_id": node})
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	s := &scripted{node: node, begun: begun, host: h, topics: map[string]*pubsub.Topic{}}
	for _, step := range params.Script {
		if err := s.follow(ctx, step); err != nil {
			return fmt.Errorf("%s: %w", step.Type, err)
		}
	}
	return nil
}

func keyOfNode(node int) crypto.PrivKey {
	seed := make([]byte, ed25519.SeedSize)
	binary.LittleEndian.PutUint64(seed, uint64(node))
	key, err := crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(seed))
	if err != nil {
		panic(err) // a key made of a seed has the right length
	}
	return key
}

func peerOfNode(node int) peer.ID {
	id, err := peer.IDFromPrivateKey(keyOfNode(node))
	if err != nil {
		panic(err) // an Ed25519 key has an id
	}
	return id
}

func logEvent(msg string, fields map[string]any) {
	fields["time"] = time.Now().Format(time.RFC3339Nano)
	fields["msg"] = msg
	emit(fields)
}

func (s *scripted) follow(ctx context.Context, step *instruction) error {
	switch step.Type {
	case "ifNodeIDEquals":
		if step.NodeID != s.node {
			return nil
		}
		return s.follow(ctx, step.Instruction)
	case "initGossipSub":
		return s.init(ctx, step.GossipSubParams)
	case "connect":
		for _, node := range step.ConnectTo {
			if err := s.connect(ctx, node); err != nil {
				return err
			}
		}
		return nil
	case "waitUntil":
		time.Sleep(time.Until(s.begun.Add(time.Duration(step.ElapsedSeconds * float64(time.Second)))))
		return nil
	case "subscribeToTopic":
		topic, err := s.topic(step.TopicID, step.Partial)
		if err != nil {
			return err
		}
		subscription, err := topic.Subscribe(pubsub.WithBufferSize(roomy))
		if err != nil {
			return err
		}
		go func() {
			for {
				if _, err := subscription.Next(ctx); err != nil {
					return
				}
			}
		}()
		return nil
	case "setTopicValidationDelay":
		return s.pubsub.RegisterTopicValidator(step.TopicID, slowly(time.Duration(step.DelaySeconds*float64(time.Second))))
	case "publish":
		topic, err := s.topic(step.TopicID, false)
		if err != nil {
			return err
		}
		data := make([]byte, step.MessageSizeBytes)
		binary.BigEndian.PutUint64(data, step.MessageID)
		return topic.Publish(ctx, data)
	case "addPartialMessage":
		s.parts.add(step.TopicID, step.GroupID, step.Parts)
		return nil
	case "publishPartial":
		if _, err := s.topic(step.TopicID, true); err != nil {
			return err
		}
		var to []peer.ID
		for _, node := range step.PublishToNodeIDs {
			to = append(to, peerOfNode(node))
		}
		return s.parts.publish(step.TopicID, step.GroupID, to)
	}
	return fmt.Errorf("unknown instruction %q", step.Type)
}

func (s *scripted) init(ctx context.Context, changes json.RawMessage) error {
	params := pubsub.DefaultGossipSubParams()
	// Its fields have the names of the script.
	if err := json.Unmarshal(changes, &params); err != nil {
		return err
	}
	s.parts = newParted()
	ps, err := pubsub.NewGossipSub(ctx, s.host,
		pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign),
		pubsub.WithNoAuthor(),
		pubsub.WithMessageIdFn(func(m *pb.Message) string { return string(m.GetData()[:8]) }),
		pubsub.WithPeerOutboundQueueSize(scriptQueue),
		pubsub.WithValidateQueueSize(scriptQueue),
		pubsub.WithMaxMessageSize(scriptMaxMessage),
		pubsub.WithGossipSubParams(params),
		pubsub.WithEventTracer(receipts{}),
		pubsub.WithPartialMessagesExtension(s.parts.extension()),
	)
	s.pubsub, s.parts.pubsub = ps, ps
	return err
}

func (s *scripted) topic(name string, partial bool) (*pubsub.Topic, error) {
	if topic := s.topics[name]; topic != nil {
		return topic, nil
	}
	var opts []pubsub.TopicOpt
	if partial {
		opts = append(opts, pubsub.RequestPartialMessages())
	}
	topic, err := s.pubsub.Join(name, opts...)
	s.topics[name] = topic
	return topic, err
}

func (s *scripted) connect(ctx context.Context, node int) error {
	begun := time.Now()
	for {
		err := s.dial(ctx, node)
		if err == nil || time.Since(begun) > scriptPatience {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (s *scripted) dial(ctx context.Context, node int) error {
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", fmt.Sprintf("node%d", node))
	if err != nil {
		return err
	}
	addr, err := ma.NewMultiaddr(fmt.Sprintf("/ip4/%s/tcp/%d", found[0].Unmap(), scriptPort))
	if err != nil {
		return err
	}
	return s.host.Connect(ctx, peer.AddrInfo{ID: peerOfNode(node), Addrs: []ma.Multiaddr{addr}})
}

// receipts tells of every message that comes.
type receipts struct{}

func (receipts) Trace(event *pb.TraceEvent) {
	if event.GetType() != pb.TraceEvent_RECV_RPC {
		return
	}
	from := peer.ID(event.GetRecvRPC().GetReceivedFrom()).String()
	for _, message := range event.GetRecvRPC().GetMeta().GetMessages() {
		id := strconv.FormatUint(binary.BigEndian.Uint64(message.GetMessageID()), 10)
		logEvent("Received Message", map[string]any{"id": id, "topic": message.GetTopic(), "from": from})
	}
}
