package main

import (
	"context"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
	rendezvous "github.com/waku-org/go-libp2p-rendezvous"
	sqlite "github.com/waku-org/go-libp2p-rendezvous/db/sqlite"
)

func serveRendezvous(ctx context.Context, h host.Host) error {
	store, err := sqlite.OpenDB(ctx, ":memory:")
	if err != nil {
		return err
	}
	rendezvous.NewRendezvousService(h, store)
	return nil
}

// askPoint connects a host, which listens so that it has addresses to register, and asks.
func askPoint(opts *options, to *target, ask func(context.Context, rendezvous.RendezvousPoint) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), opts.timeout)
	defer cancel()
	h, err := newHost(opts, []string{"/ip4/127.0.0.1/tcp/0"})
	if err != nil {
		return err
	}
	defer h.Close()
	if err := h.Connect(ctx, to.info); err != nil {
		return err
	}
	return ask(ctx, rendezvous.NewRendezvousPoint(h, to.info.ID))
}

func rendezvousRegister(opts *options, to *target) error {
	return askPoint(opts, to, func(ctx context.Context, point rendezvous.RendezvousPoint) error {
		ttl, err := point.Register(ctx, opts.ns, opts.ttl)
		if err == nil {
			emit(map[string]any{"event": "registered", "ns": opts.ns, "ttl": int(ttl.Seconds())})
		}
		return err
	})
}

func rendezvousDiscover(opts *options, to *target) error {
	return askPoint(opts, to, func(ctx context.Context, point rendezvous.RendezvousPoint) error {
		var cookie []byte
		count, pages := 0, 0
		for {
			found, next, err := point.Discover(ctx, opts.ns, opts.limit, cookie)
			if err != nil {
				return err
			}
			pages++
			for _, r := range found {
				count++
				addrs := []string{}
				for _, addr := range r.Peer.Addrs {
					addrs = append(addrs, addr.String())
				}
				emit(map[string]any{"event": "registration", "peer": r.Peer.ID.String(), "ns": r.Ns, "ttl": r.Ttl, "addrs": addrs})
			}
			if len(found) == 0 || opts.limit == 0 {
				break
			}
			cookie = next
		}
		emit(map[string]any{"event": "discovered", "count": count, "pages": pages})
		return nil
	})
}

func rendezvousUnregister(opts *options, to *target) error {
	return askPoint(opts, to, func(ctx context.Context, point rendezvous.RendezvousPoint) error {
		if err := point.Unregister(ctx, opts.ns); err != nil {
			return err
		}
		// Nothing answers, and the request has to be on its way before the end of the connection.
		_, _, err := point.Discover(ctx, "", 1, nil)
		if err == nil {
			emit(map[string]any{"event": "unregistered", "ns": opts.ns})
		}
		return err
	})
}

type found struct{}

func (found) HandlePeerFound(info peer.AddrInfo) {
	for _, addr := range info.Addrs {
		emit(map[string]any{"event": "mdns", "peer": info.ID.String(), "addr": addr.String()})
	}
}

func serveMdns(h host.Host) error {
	return mdns.NewMdnsService(h, "", found{}).Start()
}
