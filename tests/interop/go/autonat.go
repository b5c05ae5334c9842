package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/host/autonat"
	"github.com/libp2p/go-libp2p/p2p/protocol/autonatv2"
	ma "github.com/multiformats/go-multiaddr"
)

// newDialler builds the host that servers dial from: with another identity, and without a port that anybody knows.
func newDialler() (host.Host, error) {
	return libp2p.New(
		libp2p.NoListenAddrs,
		libp2p.ResourceManager(&network.NullResourceManager{}),
		libp2p.DisableMetrics(),
		libp2p.DisableRelay(),
		libp2p.DisableIdentifyAddressDiscovery(),
	)
}

// serveAutonat lets the host dial those that ask for it, in both versions or the first alone, within go-libp2p's own limits.
func serveAutonat(opts *options, h host.Host) error {
	if !opts.v1 {
		if _, err := startAutonat(h); err != nil {
			return err
		}
	}
	dialler, err := newDialler()
	if err != nil {
		return err
	}
	_, err = autonat.New(h, autonat.EnableService(dialler.Network()), autonat.WithReachability(network.ReachabilityPublic))
	return err
}

// startAutonat makes the host a server and a client of version 2.
func startAutonat(h host.Host) (*autonatv2.AutoNAT, error) {
	dialler, err := newDialler()
	if err != nil {
		return nil, err
	}
	service, err := autonatv2.New(dialler)
	if err != nil {
		return nil, err
	}
	return service, service.Start(h)
}

// askAutonat asks a server about addresses of this host, and tells the answer.
func askAutonat(opts *options, to *target) error {
	h, err := newHost(opts, opts.listen)
	if err != nil {
		return err
	}
	defer h.Close()
	ctx, stop := context.WithTimeout(context.Background(), opts.timeout)
	defer stop()
	service, err := startAutonat(h)
	if err != nil {
		return err
	}
	if err := h.Connect(ctx, to.info); err != nil {
		return err
	}
	if opts.v1 {
		err := autonat.NewAutoNATClient(h, nil, nil).DialBack(ctx, to.info.ID)
		out := map[string]any{"event": "autonat", "reachability": network.ReachabilityPublic.String()}
		switch {
		case autonat.IsDialError(err):
			out["reachability"] = network.ReachabilityPrivate.String()
		case err != nil:
			return err
		}
		emit(out)
		return nil
	}
	var requests []autonatv2.Request
	for _, text := range opts.testAddrs {
		addr, err := ma.NewMultiaddr(text)
		if err != nil {
			return fmt.Errorf("address %q: %w", text, err)
		}
		requests = append(requests, autonatv2.Request{Addr: addr, SendDialData: true})
	}
	for {
		result, err := service.GetReachability(ctx, requests)
		// It learns of the server a moment after the connection.
		if errors.Is(err, autonatv2.ErrNoPeers) && ctx.Err() == nil {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if err != nil {
			return err
		}
		out := map[string]any{"event": "autonat", "reachability": result.Reachability.String(), "refused": result.AllAddrsRefused}
		if !result.AllAddrsRefused {
			out["addr"] = result.Addr.String()
		}
		emit(out)
		return nil
	}
}
