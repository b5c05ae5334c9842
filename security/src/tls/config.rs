//! What all handshakes of a node share.

use std::{fmt, sync::Arc};

use barewire_base::{Keypair, PeerId};
use rand::CryptoRng;
use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, cipher_suite, kx_group},
    },
    pki_types::{PrivateKeyDer, UnixTime},
    server::{NoServerSessionStorage, ResolvesServerCert},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};

use super::{
    ConfigError, LIBP2P,
    certificate::{self, OwnCertificate},
    verifier::{Verdict, Verifier},
};
use crate::verified::VerifiedSignatures;

/// The certificate, the ciphers and the muxers of a node, shared by all its handshakes.
///
/// The certificate is made here, once, and lives no longer than this value. Peers that have proven
/// themselves are remembered, up to 128 of them, so that their next handshake with the same
/// certificate costs only the signature of that handshake.
///
/// A clone shares all of it.
#[derive(Clone)]
pub struct Config {
    client: ClientConfig,
    server: ServerConfig,
    verified: Arc<VerifiedSignatures>,
    pub(super) muxers: Vec<Arc<str>>,
}

impl Config {
    /// Makes a certificate in which `identity` vouches for a fresh key, drawn by the cipher library.
    /// `rng` gives the certificate's serial numbers.
    ///
    /// `muxers` are named to the peer in order of preference, see [`stream_alpn`](Self::stream_alpn).
    /// With an empty list every connection negotiates its muxer by multistream-select.
    ///
    /// # Errors
    /// [`ConfigError`] when the clock cannot be right, or a library fails.
    pub fn new(
        identity: &Keypair,
        muxers: Vec<Arc<str>>,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, ConfigError> {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_err(|_| ConfigError::Clock)?;
        let now = UnixTime::since_unix_epoch(now);
        let OwnCertificate { der, key } = certificate::generate(identity, now, rng)?;
        let provider = Arc::new(provider());
        let key = provider
            .key_provider
            .load_private_key(PrivateKeyDer::Pkcs8(key))
            .map_err(refused)?;
        let certificate = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![der], key)));
        let verified = Arc::new(VerifiedSignatures::default());
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(refused)?
            .dangerous()
            .with_custom_certificate_verifier(verifier(None, &verified, Verdict::default()))
            .with_client_cert_resolver(Arc::<SingleCertAndKey>::clone(&certificate));
        // A resumed session carries no certificate and would prove nothing.
        client.resumption = Resumption::disabled();
        // The specification reserves the name for versions to come.
        client.enable_sni = false;
        client.enable_secret_extraction = true;
        let judge = verifier(None, &verified, Verdict::default());
        let server = server(provider, certificate, judge).map_err(refused)?;
        Ok(Self {
            client,
            server,
            verified,
            muxers,
        })
    }

    /// Writes the secrets of every later handshake to the file that the environment variable
    /// `SSLKEYLOGFILE` names, for tools that decrypt captured traffic. Without the variable nothing
    /// is written.
    pub fn log_keys(&mut self) {
        let log = Arc::new(rustls::KeyLogFile::new());
        self.client.key_log = Arc::<rustls::KeyLogFile>::clone(&log);
        self.server.key_log = log;
    }

    /// The application protocols of a byte stream: the muxers, best first, then `libp2p` for peers
    /// that negotiate theirs afterwards.
    #[must_use]
    pub fn stream_alpn(&self) -> Vec<Vec<u8>> {
        let muxers = self.muxers.iter().map(|muxer| muxer.as_bytes().to_vec());
        muxers.chain([LIBP2P.to_vec()]).collect()
    }

    /// Settings for one dial. With `expected`, any other identity is refused with
    /// [`CertificateError::PeerIdMismatch`](super::CertificateError::PeerIdMismatch) before this
    /// side shows its own.
    ///
    /// Neither resumption nor a server name is used, whatever name the connection is made with.
    #[must_use]
    pub fn client_config(&self, expected: Option<PeerId>, alpn: Vec<Vec<u8>>) -> ClientConfig {
        self.client_config_judged(expected, alpn, Verdict::default())
    }

    /// As [`client_config`](Self::client_config), with the reason of a refusal told to `verdict`.
    #[must_use]
    pub fn client_config_judged(
        &self,
        expected: Option<PeerId>,
        alpn: Vec<Vec<u8>>,
        verdict: Verdict,
    ) -> ClientConfig {
        let mut config = self.client.clone();
        config.alpn_protocols = alpn;
        config
            .dangerous()
            .set_certificate_verifier(verifier(expected, &self.verified, verdict));
        config
    }

    /// Settings for being dialled, by any number of peers. A certificate is asked of each.
    ///
    /// Of the application protocols, the first of `alpn` that the client names is chosen; a client
    /// that names none at all is served.
    #[must_use]
    pub fn server_config(&self, alpn: Vec<Vec<u8>>) -> ServerConfig {
        let mut config = self.server.clone();
        config.alpn_protocols = alpn;
        config
    }

    /// As [`server_config`](Self::server_config) for one connection, with the reason of a refusal
    /// told to `verdict`.
    ///
    /// # Errors
    /// [`ConfigError::Library`], which the settings made by [`new`](Self::new) do not provoke.
    pub fn server_config_judged(
        &self,
        alpn: Vec<Vec<u8>>,
        verdict: Verdict,
    ) -> Result<ServerConfig, ConfigError> {
        let provider = Arc::clone(self.server.crypto_provider());
        let certificate = Arc::clone(&self.server.cert_resolver);
        let judge = verifier(None, &self.verified, verdict);
        let mut config = server(provider, certificate, judge).map_err(refused)?;
        config.alpn_protocols = alpn;
        config.key_log = Arc::clone(&self.server.key_log);
        Ok(config)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("muxers", &self.muxers)
            .finish_non_exhaustive()
    }
}

fn server(
    provider: Arc<CryptoProvider>,
    certificate: Arc<dyn ResolvesServerCert>,
    judge: Arc<Verifier>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(judge)
        .with_cert_resolver(certificate);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    // rustls clients put AES-256 first, which costs more and guards nothing more here.
    config.ignore_client_order = true;
    config.enable_secret_extraction = true;
    Ok(config)
}

fn verifier(
    expected: Option<PeerId>,
    verified: &Arc<VerifiedSignatures>,
    verdict: Verdict,
) -> Arc<Verifier> {
    Arc::new(Verifier {
        expected,
        verified: Arc::clone(verified),
        verdict,
    })
}

fn refused(error: rustls::Error) -> ConfigError {
    ConfigError::Library(error.to_string())
}

/// AES-128-GCM first where the CPU computes AES, as Go does; ChaCha20 where it does not. X25519 and
/// the NIST curves: a post-quantum group would add more than a kilobyte to each hello, and Go would
/// take another round trip to use it when it is not the first.
fn provider() -> CryptoProvider {
    let aes = [
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
    ];
    let chacha = [cipher_suite::TLS13_CHACHA20_POLY1305_SHA256];
    CryptoProvider {
        cipher_suites: if cpu_has_aes() {
            aes.into_iter().chain(chacha).collect()
        } else {
            chacha.into_iter().chain(aes).collect()
        },
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        ..aws_lc_rs::default_provider()
    }
}

fn cpu_has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}
