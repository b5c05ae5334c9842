package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"golang.org/x/sync/errgroup"
)

// benchHandshakes makes one fresh connection after another: dial, one ping, close.
// Each worker has a host of its own, since a host would reuse a connection it already has.
func benchHandshakes(opts *options, to *target) error {
	ctx, stop := context.WithTimeout(context.Background(), opts.timeout)
	defer stop()
	hosts := make([]host.Host, opts.concurrency)
	for i := range hosts {
		h, err := newHost(opts, nil)
		if err != nil {
			return err
		}
		defer h.Close()
		hosts[i] = h
	}
	return measure(opts, to, "handshakes", nil, func(worker int) error {
		h := hosts[worker]
		conn, err := dial(ctx, h, to)
		if err != nil {
			return err
		}
		stream, err := openStream(ctx, conn, pingProtocol)
		if err != nil {
			return err
		}
		if _, err := pingOnce(stream); err != nil {
			return err
		}
		return h.Network().ClosePeer(to.info.ID)
	})
}

// benchStreams opens one stream after another on one connection; each echoes --size bytes and ends.
func benchStreams(opts *options, to *target) error {
	s, err := connect(opts, to)
	if err != nil {
		return err
	}
	defer s.close()
	size := int(opts.size)
	if size < 0 {
		size = 100
	}
	payload := bytes.Repeat([]byte{0x5a}, size)
	buffers := make([][]byte, opts.concurrency)
	for i := range buffers {
		buffers[i] = make([]byte, size)
	}
	return measure(opts, to, "streams", map[string]any{"size": size}, func(worker int) error {
		stream, err := openStream(s.ctx, s.conn, opts.protocol)
		if err != nil {
			return err
		}
		return echoOnce(stream, payload, buffers[worker])
	})
}

func echoOnce(stream *lazyStream, payload, back []byte) error {
	if err := sendAndReceive(stream, payload, back); err != nil {
		stream.Reset()
		return err
	}
	return stream.Close()
}

func sendAndReceive(stream *lazyStream, payload, back []byte) error {
	// A larger payload needs its reader while it is still being written: all streams of a QUIC connection share a window.
	written := make(chan error, 1)
	send := func() error {
		if _, err := stream.Write(payload); err != nil {
			return err
		}
		return stream.CloseWrite()
	}
	if len(payload) <= 8<<10 {
		written <- send()
	} else {
		go func() { written <- send() }()
	}
	if _, err := io.ReadFull(stream, back); err != nil {
		return err
	}
	if n, err := stream.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return fmt.Errorf("expected the end of the stream, got %d bytes and %v", n, err)
	}
	if err := <-written; err != nil {
		return err
	}
	if !bytes.Equal(payload, back) {
		return fmt.Errorf("the echo differs")
	}
	return nil
}

// measure runs count operations on concurrency workers and prints the rate.
func measure(opts *options, to *target, name string, extra map[string]any, operation func(worker int) error) error {
	count := opts.count
	if count == 0 {
		count = 1000
	}
	times := make([][]time.Duration, opts.concurrency)
	var next atomic.Int64
	var group errgroup.Group
	start := time.Now()
	for worker := range opts.concurrency {
		group.Go(func() error {
			for next.Add(1) <= int64(count) {
				began := time.Now()
				if err := operation(worker); err != nil {
					return err
				}
				times[worker] = append(times[worker], time.Since(began))
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	secs := time.Since(start).Seconds()
	event := map[string]any{
		"event": name, "peer": to.info.ID.String(), "count": count, "concurrency": opts.concurrency,
		"secs": secs, "per_s": float64(count) / secs, "p50_us": percentiles(slices.Concat(times...)).p50,
	}
	for key, value := range extra {
		event[key] = value
	}
	emit(event)
	return nil
}

// benchConnections opens one connection from each of --count identities and holds them until stdin closes.
func benchConnections(opts *options, to *target) error {
	ctx, stop := context.WithTimeout(context.Background(), opts.timeout)
	defer stop()
	var group errgroup.Group
	group.SetLimit(opts.concurrency)
	count := max(opts.count, 1)
	for range count {
		group.Go(func() error {
			h, err := newHost(opts, nil)
			if err != nil {
				return err
			}
			// Connect returns after identify, so the listener has all it will keep for this peer.
			return h.Connect(ctx, to.info)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	emit(map[string]any{"event": "held", "peer": to.info.ID.String(), "count": count})
	waitForEnd()
	return nil
}

type summary struct{ min, p50, p99 float64 }

// percentiles are in microseconds, nearest rank.
func percentiles(times []time.Duration) summary {
	slices.Sort(times)
	at := func(q float64) float64 {
		return float64(times[min(int(q*float64(len(times))), len(times)-1)].Nanoseconds()) / 1e3
	}
	return summary{min: at(0), p50: at(0.5), p99: at(0.99)}
}
