//! What can be under a stream: a transport and a security protocol.

use std::{
    fs,
    path::{Path, PathBuf},
};

use barewire_node::{Config, SecurityKind};
use barewire_tests::{peers::Foreign, process::Failure};
use barewire_transport::ws::{Certificate, Roots};
use data_encoding::{BASE64, HEXLOWER};

/// One column of the matrix.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Combination {
    pub(crate) name: &'static str,
    /// Where a listener listens.
    pub(crate) listen: &'static str,
    /// The `--security` of both ends; QUIC brings its own.
    pub(crate) security: &'static str,
}

/// All of them.
pub(crate) const COMBINATIONS: &[Combination] = &[
    of("tcp+noise", "/ip4/127.0.0.1/tcp/0", "noise"),
    of("tcp+tls", "/ip4/127.0.0.1/tcp/0", "tls"),
    of("ws+noise", "/ip4/127.0.0.1/tcp/0/ws", "noise"),
    of("ws+tls", "/ip4/127.0.0.1/tcp/0/ws", "tls"),
    of("wss+noise", "/ip4/127.0.0.1/tcp/0/tls/ws", "noise"),
    of("quic-v1", "/ip4/127.0.0.1/udp/0/quic-v1", "noise"),
];

const fn of(name: &'static str, listen: &'static str, security: &'static str) -> Combination {
    Combination {
        name,
        listen,
        security,
    }
}

impl Combination {
    pub(crate) fn is_wss(&self) -> bool {
        self.name.starts_with("wss")
    }

    pub(crate) fn is_quic(&self) -> bool {
        self.name.starts_with("quic")
    }

    /// Whether the muxer is agreed on in the security handshake, when `stack` is at one end and barewire at the other.
    /// `None`: there is no muxer to agree on.
    pub(crate) fn early_muxer(&self, stack: Foreign) -> Option<bool> {
        // rust-libp2p names no muxers in either handshake, py-libp2p none in Noise.
        (!self.is_quic()).then_some(!matches!(stack, Foreign::Rust | Foreign::Py))
    }

    /// Options of every command, ours and theirs, that listens.
    pub(crate) fn listen_args(&self, files: &Files) -> Vec<String> {
        let mut args = self.security_args();
        args.extend(["--listen".to_owned(), self.listen.to_owned()]);
        if self.is_wss() {
            args.extend(["--ws-cert".to_owned(), path(&files.cert)]);
            args.extend(["--ws-key".to_owned(), path(&files.key)]);
        }
        args
    }

    /// A command line, ours or theirs, that dials.
    pub(crate) fn dial_line(&self, files: &Files, command: &[&str], addr: &str) -> Vec<String> {
        let mut line: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        line.extend(self.dial_args(files));
        // Before the deadline of the cell, so that the program can say what it waits for.
        line.extend(["--timeout", "50", "--json", addr].map(str::to_owned));
        line
    }

    fn dial_args(&self, files: &Files) -> Vec<String> {
        let mut args = self.security_args();
        if self.is_wss() {
            args.extend(["--ws-ca".to_owned(), path(&files.ca)]);
        }
        args
    }

    /// The same for a node of the library.
    pub(crate) fn config(&self, files: &Files) -> Result<Config, Failure> {
        let mut config = Config::default();
        config.security = vec![match self.security {
            "tls" => SecurityKind::Tls,
            _ => SecurityKind::Noise,
        }];
        if self.is_wss() {
            config.ws.certificate = Some(Certificate::from_pem_files(&files.cert, &files.key)?);
            config.ws.roots = Roots::from_pem_file(&files.ca)?;
        }
        Ok(config)
    }

    fn security_args(&self) -> Vec<String> {
        vec!["--security".to_owned(), self.security.to_owned()]
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

/// The certificate of every wss listener, the authority that signed it, and keys, in a folder that goes with this value.
#[derive(Debug)]
pub(crate) struct Files {
    folder: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) ca: PathBuf,
    /// Key files of a private network, the same key in each form there is, and of another network.
    pub(crate) psk: [PathBuf; 3],
    pub(crate) other_psk: PathBuf,
}

impl Files {
    /// A certificate for 127.0.0.1, which is where everything listens.
    pub(crate) fn make() -> Result<Self, Failure> {
        let folder = std::env::temp_dir().join(format!("barewire-interop-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let files = Self {
            cert: folder.join("cert.pem"),
            key: folder.join("key.pem"),
            ca: folder.join("ca.pem"),
            psk: ["base16", "base64", "bin"].map(|form| folder.join(format!("swarm-{form}.key"))),
            other_psk: folder.join("other.key"),
            folder,
        };
        let mut authority = rcgen::CertificateParams::new([])?;
        // With the name of the leaf it would pass for the leaf's own signature.
        let name = "barewire's tests";
        authority
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        authority.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let authority =
            rcgen::CertifiedIssuer::self_signed(authority, rcgen::KeyPair::generate()?)?;
        let key = rcgen::KeyPair::generate()?;
        let mut leaf =
            rcgen::CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        leaf.use_authority_key_identifier_extension = true;
        let leaf = leaf.signed_by(&key, &authority)?;
        fs::write(&files.ca, pem("CERTIFICATE", authority.der()))?;
        fs::write(&files.cert, pem("CERTIFICATE", leaf.der()))?;
        fs::write(&files.key, pem("PRIVATE KEY", &key.serialize_der()))?;
        let head = "/key/swarm/psk/1.0.0/\n";
        let random: [u8; 32] = rand::random();
        let hex = HEXLOWER.encode(&random);
        let base64 = BASE64.encode(&random);
        let [as_hex, as_base64, as_bytes] = &files.psk;
        fs::write(as_hex, format!("{head}/base16/\n{hex}\n"))?;
        fs::write(as_base64, format!("{head}/base64/\n{base64}\n"))?;
        fs::write(
            as_bytes,
            [format!("{head}/bin/\n").as_bytes(), &random].concat(),
        )?;
        let other = [
            format!("{head}/bin/\n").as_bytes(),
            &rand::random::<[u8; 32]>(),
        ]
        .concat();
        fs::write(&files.other_psk, other)?;
        Ok(files)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in BASE64.encode(der).as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}
