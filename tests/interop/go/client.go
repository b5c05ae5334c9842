package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multistream"
)

// session is a fresh host with one connection to the target.
type session struct {
	ctx  context.Context
	host host.Host
	conn network.Conn
	stop context.CancelFunc
}

func connect(opts *options, to *target) (*session, error) {
	h, err := newHost(opts, nil)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(anyConnection(context.Background()), opts.timeout)
	conn, err := dial(ctx, h, to)
	if err != nil {
		stop()
		h.Close()
		return nil, err
	}
	return &session{ctx: ctx, host: h, conn: conn, stop: stop}, nil
}

func dial(ctx context.Context, h host.Host, to *target) (network.Conn, error) {
	h.Peerstore().AddAddrs(to.info.ID, to.info.Addrs, peerstore.PermanentAddrTTL)
	return h.Network().DialPeer(ctx, to.info.ID)
}

func (s *session) close() {
	s.stop()
	s.host.Close()
}

// openStream proposes one protocol and does not wait for the answer: it rides with the first write.
func openStream(ctx context.Context, conn network.Conn, id string) (*lazyStream, error) {
	s, err := conn.NewStream(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.SetProtocol(protocol.ID(id)); err != nil {
		s.Reset()
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		s.SetDeadline(deadline)
	}
	return &lazyStream{Stream: s, negotiated: multistream.NewMSSelect(s, protocol.ID(id))}, nil
}

// lazyStream is what go-libp2p's own host makes of a stream whose protocol the other side is known to serve.
type lazyStream struct {
	network.Stream
	negotiated multistream.LazyConn
}

func (s *lazyStream) Read(b []byte) (int, error)  { return s.negotiated.Read(b) }
func (s *lazyStream) Write(b []byte) (int, error) { return s.negotiated.Write(b) }

func (s *lazyStream) CloseWrite() error {
	if err := s.negotiated.Flush(); err != nil {
		return err
	}
	return s.Stream.CloseWrite()
}

func identifyPeer(opts *options, to *target) error {
	h, err := newHost(opts, nil)
	if err != nil {
		return err
	}
	defer h.Close()
	events, err := h.EventBus().Subscribe([]any{new(event.EvtPeerIdentificationCompleted), new(event.EvtPeerIdentificationFailed)})
	if err != nil {
		return err
	}
	defer events.Close()
	ctx, stop := context.WithTimeout(context.Background(), opts.timeout)
	defer stop()
	conn, err := dial(ctx, h, to)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case e := <-events.Out():
		switch e := e.(type) {
		case event.EvtPeerIdentificationFailed:
			return fmt.Errorf("identify failed: %w", e.Reason)
		case event.EvtPeerIdentificationCompleted:
			state := conn.ConnState()
			emit(map[string]any{
				"event":            "identify",
				"peer":             e.Peer.String(),
				"agent":            e.AgentVersion,
				"protocol_version": e.ProtocolVersion,
				"protocols":        protocol.ConvertToStrings(e.Protocols),
				"listen_addrs":     texts(e.ListenAddrs),
				"observed_addr":    textOf(e.ObservedAddr),
				"local_addr":       conn.LocalMultiaddr().String(),
				// go-libp2p hands on only a record whose signature and peer id it has verified.
				"signed_record": e.SignedPeerRecord != nil,
				"security":      state.Security,
				"muxer":         state.StreamMultiplexer,
				"early_muxer":   state.UsedEarlyMuxerNegotiation,
			})
		}
	}
	return nil
}

func texts(addrs []ma.Multiaddr) []string {
	out := make([]string, 0, len(addrs))
	for _, addr := range addrs {
		out = append(out, addr.String())
	}
	return out
}

func textOf(addr ma.Multiaddr) string {
	if addr == nil {
		return ""
	}
	return addr.String()
}

func pingPeer(opts *options, to *target) error {
	s, err := connect(opts, to)
	if err != nil {
		return err
	}
	defer s.close()
	stream, err := openStream(s.ctx, s.conn, pingProtocol)
	if err != nil {
		return err
	}
	count := max(opts.count, 1)
	times := make([]time.Duration, 0, count)
	for range count {
		took, err := pingOnce(stream)
		if err != nil {
			return err
		}
		times = append(times, took)
	}
	stream.Reset()
	p := percentiles(times)
	emit(map[string]any{"event": "ping", "peer": to.info.ID.String(), "count": count, "min_us": p.min, "p50_us": p.p50, "p99_us": p.p99})
	return nil
}

func pingOnce(stream io.ReadWriter) (time.Duration, error) {
	var sent, got [32]byte
	rand.Read(sent[:])
	start := time.Now()
	if _, err := stream.Write(sent[:]); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(stream, got[:]); err != nil {
		return 0, err
	}
	took := time.Since(start)
	if sent != got {
		return 0, errors.New("the ping came back with other bytes")
	}
	return took, nil
}

func perfPeer(opts *options, to *target) error {
	s, err := connect(opts, to)
	if err != nil {
		return err
	}
	defer s.close()
	upload, download := uint64(opts.upload), uint64(opts.download)
	buf := make([]byte, copyBuffer)
	start := time.Now()
	stream, err := openStream(s.ctx, s.conn, perfProtocol)
	if err != nil {
		return err
	}
	defer stream.Reset()
	if _, err := stream.Write(binary.BigEndian.AppendUint64(nil, download)); err != nil {
		return err
	}
	if err := sendZeros(stream, upload, buf); err != nil {
		return err
	}
	if err := stream.CloseWrite(); err != nil {
		return err
	}
	// The server answers only after it has seen the end of the upload: its first byte, or the end, closes the upload's time.
	uploaded := start
	var got uint64
	for {
		n, err := stream.Read(buf)
		if got == 0 && upload > 0 {
			uploaded = time.Now()
		}
		got += uint64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	done := time.Now()
	if got != download {
		return fmt.Errorf("asked for %d bytes, got %d", download, got)
	}
	emit(map[string]any{
		"event": "perf", "peer": to.info.ID.String(),
		"upload_bytes": upload, "upload_s": uploaded.Sub(start).Seconds(),
		"download_bytes": download, "download_s": done.Sub(uploaded).Seconds(),
	})
	return nil
}

func echoPeer(opts *options, to *target) error {
	s, err := connect(opts, to)
	if err != nil {
		return err
	}
	defer s.close()
	size := int64(opts.size)
	if size < 0 {
		size = 10 << 20
	}
	start := time.Now()
	stream, err := openStream(s.ctx, s.conn, opts.protocol)
	if err != nil {
		return err
	}
	defer stream.Reset()
	sent, got := sha256.New(), sha256.New()
	written := make(chan error, 1)
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(stream, sent)}, struct{ io.Reader }{io.LimitReader(rand.Reader, size)}, make([]byte, copyBuffer))
		if err == nil {
			err = stream.CloseWrite()
		}
		written <- err
	}()
	back, err := io.CopyBuffer(struct{ io.Writer }{got}, struct{ io.Reader }{stream}, make([]byte, copyBuffer))
	if err != nil {
		return err
	}
	if err := <-written; err != nil {
		return err
	}
	if back != size || !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		return fmt.Errorf("the echo differs: sent %d bytes, got %d", size, back)
	}
	emit(map[string]any{
		"event": "echo", "peer": to.info.ID.String(), "bytes": size, "secs": time.Since(start).Seconds(),
		"sha256": hex.EncodeToString(sent.Sum(nil)),
	})
	return nil
}

// halfClosePeer ends its own direction before the other side says anything.
func halfClosePeer(opts *options, to *target) error {
	s, err := connect(opts, to)
	if err != nil {
		return err
	}
	defer s.close()
	size := int64(opts.size)
	if size < 0 {
		size = 100_000
	}
	payload := make([]byte, size)
	rand.Read(payload)
	stream, err := openStream(s.ctx, s.conn, halfCloseProtocol)
	if err != nil {
		return err
	}
	defer stream.Reset()
	if _, err := stream.Write(payload); err != nil {
		return err
	}
	if err := stream.CloseWrite(); err != nil {
		return err
	}
	back, err := io.ReadAll(stream)
	if err != nil {
		return err
	}
	if !bytes.Equal(back, payload) {
		return fmt.Errorf("sent %d bytes, got %d other ones back", len(payload), len(back))
	}
	emit(map[string]any{"event": "half_close", "peer": to.info.ID.String(), "bytes": size})
	return nil
}

// resetPeer sees a reset by the other side, or makes one; the connection must live on either way.
func resetPeer(opts *options, to *target) error {
	s, err := connect(opts, to)
	if err != nil {
		return err
	}
	defer s.close()
	switch opts.by {
	case "local":
		stream, err := openHold(s)
		if err != nil {
			return err
		}
		stream.Reset()
	case "remote":
		stream, err := openStream(s.ctx, s.conn, resetProtocol)
		if err != nil {
			return err
		}
		if _, err := stream.Write([]byte("reset")); err != nil {
			return err
		}
		if _, err := io.ReadAll(stream); !errors.Is(err, network.ErrReset) {
			return fmt.Errorf("expected a reset, got %v", err)
		}
	default:
		return fmt.Errorf("--by must be local or remote")
	}
	ping, err := openStream(s.ctx, s.conn, pingProtocol)
	if err != nil {
		return err
	}
	if _, err := pingOnce(ping); err != nil {
		return fmt.Errorf("the connection did not survive the reset: %w", err)
	}
	ping.Reset()
	emit(map[string]any{"event": "reset", "peer": to.info.ID.String(), "by": opts.by})
	return nil
}

// holdPeer keeps a stream busy until one of the two processes dies.
func holdPeer(opts *options, to *target) error {
	s, err := connect(opts, to)
	if err != nil {
		return err
	}
	defer s.close()
	stream, err := openHold(s)
	if err != nil {
		return err
	}
	emit(map[string]any{"event": "holding", "peer": to.info.ID.String()})
	if _, err := io.ReadAll(stream); err != nil {
		emit(map[string]any{"event": "lost", "error": err.Error()})
		return nil
	}
	return errors.New("the held stream ended cleanly")
}

// openHold returns once the other side has shown that it serves the stream.
func openHold(s *session) (*lazyStream, error) {
	stream, err := openStream(s.ctx, s.conn, holdProtocol)
	if err != nil {
		return nil, err
	}
	if _, err := stream.Write([]byte("hold")); err != nil {
		return nil, err
	}
	var first [1]byte
	if _, err := io.ReadFull(stream, first[:]); err != nil {
		return nil, err
	}
	return stream, nil
}
