package main

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"sync"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/p2p/transport/websocket"
)

const agent = "barewire-peer-go/0.1.0"

// newHost builds a host that nothing throttles: no resource limits, no connection trimming, no metrics.
func newHost(opts *options, listen []string) (host.Host, error) {
	key, err := loadKey(opts.key)
	if err != nil {
		return nil, err
	}
	return newHostWith(key, opts, listen)
}

func newHostWith(key crypto.PrivKey, opts *options, listen []string) (host.Host, error) {
	hostOpts := []libp2p.Option{
		libp2p.Identity(key),
		libp2p.UserAgent(agent),
		libp2p.ResourceManager(&network.NullResourceManager{}),
		libp2p.ConnectionManager(connmgr.NullConnMgr{}),
		libp2p.DisableMetrics(),
		libp2p.DisableIdentifyAddressDiscovery(),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
	}
	// Who punches holes dials from the port that it listens on.
	if len(opts.punchAddrs) > 0 {
		hostOpts = append(hostOpts, libp2p.Transport(tcp.NewTCPTransport))
	} else {
		hostOpts = append(hostOpts, libp2p.Transport(tcp.NewTCPTransport, tcp.DisableReuseport()))
	}
	webSocketOpts, err := webSocketOptions(opts)
	if err != nil {
		return nil, err
	}
	hostOpts = append(hostOpts, libp2p.Transport(websocket.New, webSocketOpts...))
	if opts.psk == "" {
		hostOpts = append(hostOpts, libp2p.Transport(libp2pquic.NewTransport))
	} else {
		// go-libp2p refuses QUIC in a private network.
		psk, err := loadPSK(opts.psk)
		if err != nil {
			return nil, err
		}
		hostOpts = append(hostOpts, libp2p.PrivateNetwork(psk))
	}
	if opts.circuit() {
		hostOpts = append(hostOpts, libp2p.EnableRelay())
	} else {
		hostOpts = append(hostOpts, libp2p.DisableRelay())
	}
	switch {
	case opts.security == "tls":
		hostOpts = append(hostOpts, libp2p.Security(libp2ptls.ID, libp2ptls.New))
	case opts.security == "noise" && opts.noEarlyMuxer:
		hostOpts = append(hostOpts, libp2p.Security(noise.ID, noiseWithoutEarlyMuxer))
	case opts.security == "noise":
		hostOpts = append(hostOpts, libp2p.Security(noise.ID, noise.New))
	default:
		return nil, fmt.Errorf("security %q is unknown: noise or tls", opts.security)
	}
	if len(listen) == 0 {
		hostOpts = append(hostOpts, libp2p.NoListenAddrs)
	} else {
		hostOpts = append(hostOpts, libp2p.ListenAddrStrings(listen...))
	}
	return libp2p.New(hostOpts...)
}

// webSocketOptions are the certificate to listen with on wss and the one to trust when dialling it.
func webSocketOptions(opts *options) ([]any, error) {
	var out []any
	if opts.wsCert != "" {
		pair, err := tls.LoadX509KeyPair(opts.wsCert, opts.wsKey)
		if err != nil {
			return nil, err
		}
		out = append(out, websocket.WithTLSConfig(&tls.Config{Certificates: []tls.Certificate{pair}}))
	}
	if opts.wsCA != "" {
		trusted, err := os.ReadFile(opts.wsCA)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(trusted) {
			return nil, fmt.Errorf("%s holds no certificate", opts.wsCA)
		}
		out = append(out, websocket.WithTLSClientConfig(&tls.Config{RootCAs: roots}))
	}
	return out, nil
}

func loadPSK(path string) (pnet.PSK, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return pnet.DecodeV1PSK(file)
}

// noiseWithoutEarlyMuxer announces no muxers in the Noise handshake, so both sides fall back to multistream-select.
func noiseWithoutEarlyMuxer(id protocol.ID, key crypto.PrivKey, _ []upgrader.StreamMuxer) (*noise.Transport, error) {
	return noise.New(id, key, nil)
}

func loadKey(path string) (crypto.PrivKey, error) {
	if path == "" {
		key, _, err := crypto.GenerateEd25519Key(rand.Reader)
		return key, err
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return crypto.UnmarshalPrivateKey(raw)
}

var stdout sync.Mutex

// emit prints one event as one line.
func emit(event map[string]any) {
	line, err := json.Marshal(event)
	if err != nil {
		panic(err) // only plain values go in
	}
	stdout.Lock()
	defer stdout.Unlock()
	os.Stdout.Write(append(line, '\n'))
}
