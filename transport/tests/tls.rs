//! Which secure channel is agreed on, and what a dialling side hears when TLS refuses it late.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::sync::Arc;

use barewire_base::Keypair;
use barewire_security::{
    noise,
    tls::{self, CertificateError},
};
use barewire_transport::{
    CloseReason, Security, UpgradeConfig, UpgradeError, upgrade_inbound, upgrade_outbound,
};
use common::{End, config, tls_config, tls_security};
use rustls::{
    DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

async fn connect(
    client: &UpgradeConfig,
    server: &UpgradeConfig,
) -> (Result<End, UpgradeError>, Result<End, UpgradeError>) {
    let (near, far) = tokio::io::duplex(4096);
    tokio::join!(
        upgrade_outbound(near, client, None),
        upgrade_inbound(far, server)
    )
}

fn noise_security(seed: u8) -> Security {
    config(seed).0.security.remove(0)
}

#[tokio::test]
async fn the_dialler_s_order_decides_among_what_the_listener_has() {
    let (mut client, _) = config(1);
    let (mut server, _) = config(2);
    let [noise, tls] = ["/noise", "/tls/1.0.0"];
    let channel = |name: &str, seed| match name {
        "/noise" => noise_security(seed),
        _ => tls_security(seed, &["/yamux/1.0.0"]),
    };
    for (ours, theirs, agreed) in [
        (&[noise, tls][..], &[tls, noise][..], noise),
        (&[tls, noise], &[noise, tls], tls),
        (&[noise, tls], &[tls], tls),
        (&[tls, noise], &[noise], noise),
        (&[tls], &[noise, tls], tls),
        (&[noise], &[tls, noise], noise),
    ] {
        client.security = ours.iter().map(|name| channel(name, 1)).collect();
        server.security = theirs.iter().map(|name| channel(name, 2)).collect();
        let (dialled, accepted) = connect(&client, &server).await;
        let ((dialled, _), (accepted, _)) = (dialled.unwrap(), accepted.unwrap());
        for side in [&dialled, &accepted] {
            assert_eq!(side.info().security, agreed, "{ours:?} to {theirs:?}");
            assert!(side.info().early_muxer);
        }
    }
    client.security = vec![noise_security(1)];
    server.security = vec![channel(tls, 2)];
    // What went out with the only proposal is no answer to its refusal, so the listener gives up.
    let (dialled, accepted) = connect(&client, &server).await;
    assert!(dialled.is_err());
    assert!(matches!(accepted, Err(UpgradeError::Negotiation { .. })));
}

#[tokio::test]
async fn without_a_muxer_in_the_hello_it_is_negotiated_inside() {
    for (ours, theirs) in [(&[][..], &["/yamux/1.0.0"][..]), (&["/yamux/1.0.0"], &[])] {
        let (mut client, _) = config(1);
        let (mut server, _) = config(2);
        client.security = vec![tls_security(1, ours)];
        server.security = vec![tls_security(2, theirs)];
        let (dialled, accepted) = connect(&client, &server).await;
        let ((dialled, _), (accepted, _)) = (dialled.unwrap(), accepted.unwrap());
        assert!(!dialled.info().early_muxer && !accepted.info().early_muxer);
    }
}

/// Row 13: muxers that we do not have are no obstacle.
#[tokio::test]
async fn a_muxer_list_without_ours_falls_back_to_negotiation() {
    let keypair = Keypair::from_seed(&[1; 32]);
    let muxers: Vec<Arc<str>> = vec!["/mplex/6.7.0".into(), "/yamux/2.0.0".into()];
    let others = noise::Config::new(&keypair, muxers, &mut rand::rng()).unwrap();
    let others = Security::Noise(Arc::new(others));
    let (ours, _) = config(2);
    let mut theirs = ours.clone();
    theirs.security = vec![others];
    for (client, server) in [(&ours, &theirs), (&theirs, &ours)] {
        let (dialled, accepted) = connect(client, server).await;
        let ((dialled, _), (accepted, _)) = (dialled.unwrap(), accepted.unwrap());
        assert!(!dialled.info().early_muxer && !accepted.info().early_muxer);
        assert_eq!(dialled.info().muxer, "/yamux/1.0.0");
    }
}

#[tokio::test]
async fn a_wrong_peer_is_refused_with_both_ids() {
    let (near, far) = tokio::io::duplex(4096);
    let (client, _) = tls_config(1);
    let (server, server_id) = tls_config(2);
    let (_, other) = config(3);
    let (dialled, accepted) = tokio::join!(
        upgrade_outbound(near, &client, Some(other)),
        upgrade_inbound(far, &server)
    );
    assert_eq!(
        dialled.unwrap_err(),
        UpgradeError::Tls(tls::Error::Certificate(CertificateError::PeerIdMismatch {
            expected: other,
            found: server_id
        }))
    );
    // It is told by an alert.
    assert!(
        matches!(&accepted, Err(UpgradeError::Tls(tls::Error::Alert(_)))),
        "{accepted:?}"
    );
}

/// Refuses every client, but only when its certificate is there.
#[derive(Debug)]
struct RefuseAll;

impl ClientCertVerifier for RefuseAll {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Err(CertificateError::Expired.into())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!()
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Speaks multistream and TLS as a listener that lets nobody in.
async fn refuse(mut io: DuplexStream) {
    let asked = b"\x13/multistream/1.0.0\n\x0b/tls/1.0.0\n";
    let mut read = [0; 32];
    io.read_exact(&mut read[..asked.len()]).await.unwrap();
    assert_eq!(&read[..asked.len()], asked);
    io.write_all(asked).await.unwrap();
    let identity = barewire_base::Keypair::from_seed(&[2; 32]);
    let ours = tls::Config::new(&identity, Vec::new(), &mut rand::rng()).unwrap();
    let ours = ours.server_config(Vec::new());
    let mut config = rustls::ServerConfig::builder_with_provider(ours.crypto_provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(RefuseAll))
        .with_cert_resolver(ours.cert_resolver.clone());
    config.alpn_protocols = vec![b"/yamux/1.0.0".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    assert!(acceptor.accept(io).await.is_err());
}

/// Over TLS 1.3 the client has its connection before the server has seen its certificate.
#[tokio::test]
async fn a_certificate_refused_late_is_why_the_connection_closed() {
    let (near, far) = tokio::io::duplex(4096);
    let (client, _) = tls_config(1);
    tokio::spawn(refuse(far));
    let (connection, _streams) = upgrade_outbound(near, &client, None).await.unwrap();
    let reason = connection.closed().await;
    assert!(matches!(reason, CloseReason::Alert(_)), "{reason:?}");
    assert_eq!(
        reason.to_string(),
        "the remote refused our certificate: alert CertificateExpired"
    );
}
