//! The engine: what stores share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Settings of an [`Engine`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// How much of a thread's stack wasm may use, in bytes; at most 2 KiB more are used by small functions, which compare less often. Reaching it is a
    /// trap. It is reduced on threads whose stack is smaller. 1 MiB by default.
    pub max_wasm_stack: usize,
    /// How many bytes of a thread's stack are kept for host functions: one that wasm or the host
    /// calls begins with at least so many left, or the call is a trap
    /// ([`crate::TrapKind::StackOverflow`]) instead. 128 KiB by default, and never less than 32 KiB. On a stack of less
    /// than twice as much and a little more, it is half of the stack. A host function that needs more than
    /// that, or that recurses, can ask: [`crate::Caller::check_stack`].
    pub host_stack: usize,
}

impl Config {
    /// The loader itself needs stack when wasm calls it.
    pub(crate) const MIN_HOST_STACK: usize = 32 << 10;
}

impl Default for Config {
    fn default() -> Self {
        Self { max_wasm_stack: 1 << 20, host_stack: 128 << 10 }
    }
}

/// What stores share: settings, and the epoch by which running programs can be
/// interrupted from any thread. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    config: Config,
    epoch: AtomicU64,
}

impl Engine {
    /// An engine with these settings.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { shared: Arc::new(Shared { config, epoch: AtomicU64::new(0) }) }
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Advances the epoch. Programs whose store's deadline it reaches trap,
    /// if they were compiled with epochs. Callable from every thread, and from a signal
    /// handler.
    pub fn increment_epoch(&self) {
        self.shared.epoch.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn epoch(&self) -> &AtomicU64 {
        &self.shared.epoch
    }
}
