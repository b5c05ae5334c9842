package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	ma "github.com/multiformats/go-multiaddr"
)

// circuit is how the transport of relays is asked for: by options, or by an address that leads through one.
func (o *options) circuit() bool {
	if len(o.relays) > 0 {
		return true
	}
	for _, addr := range append(o.positional, o.connect...) {
		if strings.Contains(addr, "/p2p-circuit") {
			return true
		}
	}
	return false
}

// serveRelay makes the host a relay. Its limits are go-libp2p's own unless the options say otherwise.
func serveRelay(opts *options, h host.Host) error {
	resources := relay.DefaultResources()
	if opts.relayData >= 0 {
		resources.Limit.Data = int64(opts.relayData)
	}
	if opts.relayDuration > 0 {
		resources.Limit.Duration = opts.relayDuration
	}
	if opts.relayTTL > 0 {
		resources.ReservationTTL = opts.relayTTL
	}
	resources.MaxCircuits = 1 << 20
	if opts.relayUnlimited {
		resources.Limit = nil
	}
	// By default only public addresses are told, of which a test has none.
	all := func(ma.Multiaddr) bool { return true }
	_, err := relay.New(h, relay.WithResources(resources), relay.WithReservationAddressFilter(all))
	return err
}

// reserve asks each relay for a reservation, keeps the connection to it, and tells the address that leads here.
func reserve(ctx context.Context, opts *options, h host.Host) error {
	for _, text := range opts.relays {
		info, err := peer.AddrInfoFromString(text)
		if err != nil {
			return fmt.Errorf("relay %q: %w", text, err)
		}
		within, stop := context.WithTimeout(ctx, 30*time.Second)
		reservation, err := client.Reserve(within, h, *info)
		stop()
		if err != nil {
			return fmt.Errorf("relay %q: %w", text, err)
		}
		emit(map[string]any{
			"event": "reserved", "peer": h.ID().String(), "relay": info.ID.String(),
			"voucher": reservation.Voucher != nil, "addrs": len(reservation.Addrs),
			"limit_bytes": reservation.LimitData, "limit_seconds": reservation.LimitDuration.Seconds(),
		})
		emit(map[string]any{
			"event": "relay_address", "peer": h.ID().String(),
			"addr": text + "/p2p-circuit/p2p/" + h.ID().String(),
		})
	}
	return nil
}

// anyConnection allows streams on connections through relays that limit them.
func anyConnection(ctx context.Context) context.Context {
	return network.WithAllowLimitedConn(ctx, "test")
}
