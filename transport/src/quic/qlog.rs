//! A trace of each connection in a file of its own.

use std::{
    fs::{self, File},
    io::{self, LineWriter},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use barewire_base::Reservation;
use barewire_mux::Role;
use quinn::{QlogConfig, QlogStream, TransportConfig};

use super::config::{MIN_WINDOW, QuicConfig};

/// Tells the files of a process apart that begin in the same millisecond.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// The settings of one connection: those given, or where traces are wanted the same with a file to write
/// to. A file that cannot be made costs the trace, not the connection.
pub(super) fn traced(
    config: &QuicConfig,
    transport: Arc<TransportConfig>,
    window: Option<&Reservation>,
    role: Role,
) -> Arc<TransportConfig> {
    let Some(folder) = &config.qlog else {
        return transport;
    };
    match stream(folder, role) {
        Ok(stream) => {
            let window = window.and_then(|charged| u32::try_from(charged.bytes()).ok());
            let mut transport = config.transport(window.unwrap_or(MIN_WINDOW));
            transport.qlog_stream(stream);
            Arc::new(transport)
        }
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "no qlog of a connection");
            transport
        }
    }
}

fn stream(folder: &Path, role: Role) -> io::Result<Option<QlogStream>> {
    fs::create_dir_all(folder)?;
    let role = match role {
        Role::Client => "client",
        Role::Server => "server",
    };
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since.map_or(0, |since| since.as_millis());
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let id = std::process::id();
    let file = File::create_new(folder.join(format!("{millis}-{id}-{number}-{role}.sqlog")))?;
    let mut log = QlogConfig::default();
    // Whole records also of a process that is killed.
    log.writer(Box::new(LineWriter::new(file)))
        .title(Some(format!("barewire {role}")));
    Ok(log.into_stream())
}
