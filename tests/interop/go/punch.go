package main

import (
	"context"
	"fmt"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	ma "github.com/multiformats/go-multiaddr"
)

// punchHoles lets the host work on direct connections beside relayed ones. It believes the options about where its router shows it,
// which it would otherwise have to hear from four peers.
func punchHoles(opts *options, h host.Host) error {
	var own []ma.Multiaddr
	for _, text := range opts.punchAddrs {
		addr, err := ma.NewMultiaddr(text)
		if err != nil {
			return fmt.Errorf("address %q: %w", text, err)
		}
		own = append(own, addr)
	}
	ids, known := h.(interface{ IDService() identify.IDService })
	if !known {
		return fmt.Errorf("this host has no identify service")
	}
	h.Network().Notify(&network.NotifyBundle{ConnectedF: func(_ network.Network, c network.Conn) {
		emit(map[string]any{
			"event": "link", "peer": c.RemotePeer().String(), "remote": c.RemoteMultiaddr().String(),
			"relayed": isRelayed(c.RemoteMultiaddr()),
		})
	}})
	_, err := holepunch.NewService(h, ids.IDService(), func() []ma.Multiaddr { return own }, holepunch.WithTracer(punchTracer{}))
	return err
}

func isRelayed(addr ma.Multiaddr) bool {
	_, err := addr.ValueForProtocol(ma.P_CIRCUIT)
	return err == nil
}

type punchTracer struct{}

func (punchTracer) Trace(event *holepunch.Event) {
	out := map[string]any{"event": "hole_punch", "peer": event.Remote.String()}
	switch what := event.Evt.(type) {
	case *holepunch.StartHolePunchEvt:
		out["step"], out["addrs"], out["rtt_ms"] = "punching", what.RemoteAddrs, what.RTT.Seconds()*1e3
	case *holepunch.EndHolePunchEvt:
		out["step"], out["ms"] = "direct", what.EllapsedTime.Seconds()*1e3
		if !what.Success {
			out["step"], out["error"] = "attempt_failed", what.Error
		}
	case *holepunch.ProtocolErrorEvt:
		out["step"], out["error"] = "failed", what.Error
	default:
		return
	}
	emit(out)
}

// connectAll dials each peer, also through relays.
func connectAll(ctx context.Context, h host.Host, addrs []string) error {
	for _, text := range addrs {
		to, err := parseTarget([]string{text})
		if err != nil {
			return err
		}
		if err := h.Connect(anyConnection(ctx), to.info); err != nil {
			return err
		}
		emit(map[string]any{"event": "connected", "peer": to.info.ID.String()})
	}
	return nil
}
