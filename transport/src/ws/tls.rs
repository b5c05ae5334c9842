//! TLS below a secure WebSocket: certificates of host names, checked as browsers do.

use std::{
    fmt, io,
    path::Path,
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, KeyLogFile, RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem, pem::PemObject},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::head::HandshakeError;
use crate::transports::RawConnection;

/// A WebSocket needs the first version of HTTP.
const ALPN: &[u8] = b"http/1.1";

/// Why a PEM file could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// The file could not be read.
    #[error("{file}: {kind}")]
    Io {
        /// Its name.
        file: String,
        /// What the system said.
        kind: io::ErrorKind,
    },
    /// The file is not PEM, or lacks what is looked for.
    #[error("{file}: no {what} in PEM form is in it")]
    Missing {
        /// Its name.
        file: String,
        /// `certificate` or `private key`.
        what: &'static str,
    },
    /// A certificate is damaged, or the key does not belong to it.
    #[error("{file}: {reason}")]
    Unusable {
        /// Its name.
        file: String,
        /// What is wrong, for people.
        reason: String,
    },
}

/// A certificate chain with its private key. Cheap to clone.
#[derive(Clone)]
pub struct Certificate(Arc<ServerConfig>);

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate")
    }
}

impl Certificate {
    /// Reads the chain, leaf first, and its key from two PEM files, which may be the same.
    ///
    /// # Errors
    /// [`PemError`] names the file that is at fault.
    pub fn from_pem_files(chain: &Path, key: &Path) -> Result<Self, PemError> {
        let certificates = certificates(chain)?;
        let private = PrivateKeyDer::from_pem_file(key)
            .map_err(|error| pem_error(key, "private key", &error))?;
        let unusable = |error: rustls::Error| PemError::Unusable {
            file: chain.display().to_string(),
            reason: error.to_string(),
        };
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(unusable)?
                .with_no_client_auth()
                .with_single_cert(certificates, private)
                .map_err(unusable)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self(Arc::new(config)))
    }

    /// Writes the secrets of every later handshake to the file that the environment variable
    /// `SSLKEYLOGFILE` names, if it is set.
    #[must_use]
    pub fn with_key_log(self) -> Self {
        let mut config = Arc::unwrap_or_clone(self.0);
        config.key_log = Arc::new(KeyLogFile::new());
        Self(Arc::new(config))
    }
}

/// The authorities that are trusted to certify servers. Cheap to clone.
#[derive(Clone, Default)]
pub struct Roots {
    /// Set at once for a file, at first use for the system's: reading those takes milliseconds.
    config: Arc<OnceLock<Option<Arc<ClientConfig>>>>,
    log_keys: bool,
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Roots")
    }
}

impl Roots {
    /// Those of the operating system.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// Only those in a PEM file.
    ///
    /// # Errors
    /// [`PemError`] when it holds no usable certificate.
    pub fn from_pem_file(file: &Path) -> Result<Self, PemError> {
        let mut store = RootCertStore::empty();
        for certificate in certificates(file)? {
            store.add(certificate).map_err(|error| PemError::Unusable {
                file: file.display().to_string(),
                reason: error.to_string(),
            })?;
        }
        let roots = Self::default();
        roots.config.get_or_init(|| client_config(store));
        Ok(roots)
    }

    /// Writes the secrets of every later handshake to the file that the environment variable
    /// `SSLKEYLOGFILE` names, if it is set.
    #[must_use]
    pub fn with_key_log(self) -> Self {
        let config = match self.config.get().cloned() {
            Some(read) => OnceLock::from(read.map(logging)),
            None => OnceLock::new(),
        };
        Self {
            config: Arc::new(config),
            log_keys: true,
        }
    }

    fn config(&self) -> Option<Arc<ClientConfig>> {
        self.config
            .get_or_init(|| {
                let mut store = RootCertStore::empty();
                // Single certificates that cannot be read are left out, as in every browser.
                store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                let config = client_config(store);
                if self.log_keys {
                    config.map(logging)
                } else {
                    config
                }
            })
            .clone()
    }
}

fn logging(config: Arc<ClientConfig>) -> Arc<ClientConfig> {
    let mut config = Arc::unwrap_or_clone(config);
    config.key_log = Arc::new(KeyLogFile::new());
    Arc::new(config)
}

fn client_config(store: RootCertStore) -> Option<Arc<ClientConfig>> {
    if store.is_empty() {
        return None;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .ok()?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Some(Arc::new(config))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let what = "certificate";
    let all: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| pem_error(file, what, &error))?;
    if all.is_empty() {
        return Err(PemError::Missing {
            file: file.display().to_string(),
            what,
        });
    }
    Ok(all)
}

fn pem_error(file: &Path, what: &'static str, error: &pem::Error) -> PemError {
    let file = file.display().to_string();
    match error {
        pem::Error::Io(error) => PemError::Io {
            file,
            kind: error.kind(),
        },
        _ => PemError::Missing { file, what },
    }
}

pub(super) async fn accept(
    raw: RawConnection,
    certificate: Option<&Certificate>,
) -> Result<RawConnection, HandshakeError> {
    let Some(Certificate(config)) = certificate else {
        // A listener is not opened without one.
        return Err(HandshakeError::Tls("there is no certificate".into()));
    };
    let both = tokio::io::join(raw.reader, raw.writer);
    let stream = TlsAcceptor::from(Arc::clone(config))
        .accept(both)
        .await
        .map_err(|error| tls_error(&error))?;
    let (reader, writer) = tokio::io::split(stream);
    Ok(RawConnection {
        reader: Box::new(reader),
        writer: Box::new(writer),
        ..raw
    })
}

pub(super) async fn connect(
    raw: RawConnection,
    name: &str,
    roots: &Roots,
) -> Result<RawConnection, HandshakeError> {
    let config = roots.config().ok_or(HandshakeError::NoRoots)?;
    let server = ServerName::try_from(name.to_owned())
        .map_err(|_| HandshakeError::BadName(name.to_owned()))?;
    let both = tokio::io::join(raw.reader, raw.writer);
    let stream = TlsConnector::from(config)
        .connect(server, both)
        .await
        .map_err(|error| tls_error(&error))?;
    let (reader, writer) = tokio::io::split(stream);
    Ok(RawConnection {
        reader: Box::new(reader),
        writer: Box::new(writer),
        ..raw
    })
}

fn tls_error(error: &io::Error) -> HandshakeError {
    let cause = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(reason)) => {
            HandshakeError::Certificate(reason.to_string())
        }
        Some(cause) => HandshakeError::Tls(cause.to_string()),
        None => HandshakeError::Io(error.kind()),
    }
}
