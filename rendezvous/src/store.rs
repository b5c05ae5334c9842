//! Where registrations outlive the process.

use crate::{Change, Stored};

/// Why a store failed: one sentence for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// Keeps registrations for the next start of a point. Both calls may block.
pub trait RegistrationStore: Send + Sync + 'static {
    /// All registrations that have not expired.
    ///
    /// # Errors
    /// They cannot be read.
    fn load(&self) -> Result<Vec<Stored>, StoreError>;

    /// Makes changes in their order, all or none. They survive a crash of the process once this has returned.
    ///
    /// # Errors
    /// They cannot be written, and whoever waits for them is told so.
    fn apply(&self, changes: &[Change]) -> Result<(), StoreError>;

    /// Whether it is no use calling [`apply`](Self::apply), because nothing outlives the process.
    fn is_volatile(&self) -> bool {
        false
    }
}

/// Nothing beyond what the registry itself holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryStore;

impl RegistrationStore for MemoryStore {
    fn load(&self) -> Result<Vec<Stored>, StoreError> {
        Ok(Vec::new())
    }

    fn apply(&self, _: &[Change]) -> Result<(), StoreError> {
        Ok(())
    }

    fn is_volatile(&self) -> bool {
        true
    }
}
