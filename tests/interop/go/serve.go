package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
)

// copyBuffer is large enough that a Noise record (64 KiB) is never split by the application.
const copyBuffer = 256 << 10

// halfCloseLimit bounds what the half-close protocol keeps until the client's end of stream.
const halfCloseLimit = 16 << 20

func listen(opts *options) error {
	addrs := opts.listen
	if len(addrs) == 0 {
		addrs = []string{"/ip4/127.0.0.1/tcp/0"}
	}
	h, err := newHost(opts, addrs)
	if err != nil {
		return err
	}
	defer h.Close()
	for _, id := range append([]string{echoProtocol}, opts.echoProtocols...) {
		h.SetStreamHandler(protocol.ID(id), closing(serveEcho))
	}
	h.SetStreamHandler(perfProtocol, closing(servePerf))
	h.SetStreamHandler(halfCloseProtocol, closing(serveHalfClose))
	h.SetStreamHandler(resetProtocol, serveReset)
	h.SetStreamHandler(holdProtocol, closing(serveHold))

	if opts.relayServer {
		if err := serveRelay(opts, h); err != nil {
			return err
		}
	}

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var gossiping *gossip
	if len(opts.topics) > 0 {
		if gossiping, err = listenGossip(ctx, opts, h); err != nil {
			return err
		}
	}

	if opts.autonatServer {
		if err := serveAutonat(opts, h); err != nil {
			return err
		}
	}
	if opts.rendezvousServer {
		if err := serveRendezvous(ctx, h); err != nil {
			return err
		}
	}
	if opts.mdns {
		if err := serveMdns(h); err != nil {
			return err
		}
	}

	suffix, err := ma.NewComponent("p2p", h.ID().String())
	if err != nil {
		return err
	}
	bound, err := h.Network().InterfaceListenAddresses()
	if err != nil {
		return err
	}
	for _, addr := range bound {
		emit(map[string]any{"event": "listening", "peer": h.ID().String(), "addr": addr.Encapsulate(suffix.Multiaddr()).String()})
	}
	if gossiping != nil {
		if err := gossiping.connect(ctx, opts.connect); err != nil {
			return err
		}
	}
	if len(opts.punchAddrs) > 0 {
		if err := punchHoles(opts, h); err != nil {
			return err
		}
	}
	if err := reserve(ctx, opts, h); err != nil {
		return err
	}
	if gossiping == nil {
		if err := connectAll(ctx, h, opts.connect); err != nil {
			return err
		}
	}
	waitForEnd()
	if gossiping != nil {
		gossiping.traced.report()
	}
	return nil
}

// waitForEnd returns when stdin closes or the process is asked to stop.
func waitForEnd() {
	done := make(chan struct{}, 1)
	go func() {
		io.Copy(io.Discard, os.Stdin)
		done <- struct{}{}
	}()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	select {
	case <-done:
	case <-signals:
	}
}

// closing ends the stream after its handler: cleanly if it succeeded, by reset if not.
func closing(serve func(network.Stream) error) network.StreamHandler {
	return func(s network.Stream) {
		if err := serve(s); err != nil {
			fmt.Fprintf(os.Stderr, "peer-go: %s: %v\n", s.Protocol(), err)
			s.Reset()
			return
		}
		s.Close()
	}
}

func serveEcho(s network.Stream) error {
	// Small exchanges are the most common use; a large buffer comes only when the small one fills.
	buf := make([]byte, 4<<10)
	for {
		n, err := s.Read(buf)
		if n > 0 {
			if _, err := s.Write(buf[:n]); err != nil {
				return err
			}
			if n == len(buf) && n < copyBuffer {
				buf = make([]byte, copyBuffer)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func servePerf(s network.Stream) error {
	var header [8]byte
	if _, err := io.ReadFull(s, header[:]); err != nil {
		return err
	}
	buf := make([]byte, copyBuffer)
	if err := drain(s, buf); err != nil {
		return err
	}
	return sendZeros(s, binary.BigEndian.Uint64(header[:]), buf)
}

func serveHalfClose(s network.Stream) error {
	all, err := io.ReadAll(io.LimitReader(s, halfCloseLimit))
	if err != nil {
		return err
	}
	_, err = s.Write(all)
	return err
}

func serveReset(s network.Stream) {
	var first [1]byte
	io.ReadFull(s, first[:])
	s.Reset()
}

// serveHold proves with one byte that it has the stream, then reads until the other side goes away.
func serveHold(s network.Stream) error {
	if _, err := s.Write([]byte{'h'}); err != nil {
		return err
	}
	err := drain(s, make([]byte, copyBuffer))
	if err != nil {
		emit(map[string]any{"event": "lost", "error": err.Error()})
	}
	return err
}

func drain(r io.Reader, buf []byte) error {
	for {
		_, err := r.Read(buf)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func sendZeros(w io.Writer, count uint64, buf []byte) error {
	clear(buf)
	for count > 0 {
		n := min(count, uint64(len(buf)))
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		count -= n
	}
	return nil
}
