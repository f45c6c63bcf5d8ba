//! wasi-threads: a guest whose module is instantiated once per thread, in a
//! store of its own, over a memory that all of them share.
//!
//! `wasi.thread-spawn` asks a thread of the host, which runs as long as the
//! program does, for another one. The program ends for all threads at once: when
//! its first thread returns, and when any of them exits, traps or fails.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, scope};

use crate::stdio::lock;
use cwasm_loader::{Artifact, Caller, Engine, Error, ExternType, Linker, SharedMemory, Store};

/// The largest number of a thread. The upper bits are reserved for pthreads.
const MAX_ID: i32 = 0x1fff_ffff;

/// The room on a thread's stack for everything that is not wasm.
const HOST_STACK: usize = 1 << 20;

/// The threads of one guest.
#[derive(Clone)]
pub struct Threads {
    shared: Arc<Shared>,
}

struct Shared {
    requests: Mutex<Requests>,
    running: AtomicUsize,
    max_running: AtomicUsize,
}

struct Requests {
    /// Open while the program runs.
    sender: Option<Sender<Request>>,
    last_id: i32,
}

/// A thread that is wanted, and where to say whether it was made.
struct Request {
    id: i32,
    argument: u32,
    reply: Sender<bool>,
}

impl core::fmt::Debug for Threads {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Threads").field("running", &self.shared.running).finish_non_exhaustive()
    }
}

impl Threads {
    /// Defines `wasi.thread-spawn`, and each shared memory that `artifact`
    /// imports, as a new one.
    pub fn add_to_linker<T: 'static>(
        linker: &mut Linker<'_, T>,
        artifact: &Artifact,
    ) -> Result<Self, Error> {
        let requests = Mutex::new(Requests { sender: None, last_id: 0 });
        let (running, max_running) = (AtomicUsize::new(0), AtomicUsize::new(1000));
        let shared = Arc::new(Shared { requests, running, max_running });
        for import in artifact.imports() {
            if let ExternType::Memory(ty) = import.ty
                && ty.shared
            {
                linker.shared_memory(import.module, import.name, &SharedMemory::new(ty)?)?;
            }
        }
        let this = Self { shared };
        let threads = this.clone();
        linker.func("wasi", "thread-spawn", move |_: Caller<'_, '_, T>, argument: u32| {
            threads.spawn(argument).unwrap_or(-1)
        })?;
        Ok(this)
    }

    /// Whether an artifact is for a guest with threads: it imports
    /// `wasi.thread-spawn`, or a shared memory.
    #[must_use]
    pub fn are_used_by(artifact: &Artifact) -> bool {
        artifact.imports().any(|import| match import.ty {
            ExternType::Memory(ty) => ty.shared,
            _ => import.module == "wasi" && import.name == "thread-spawn",
        })
    }

    /// Limits how many threads the guest may have besides its first. The default
    /// is 1000; making more fails in the guest, and so does making one for which
    /// the system has no room.
    pub fn max_threads(&self, limit: usize) {
        self.shared.max_running.store(limit, Ordering::Relaxed);
    }

    /// Runs a program: `main`, which calls into the guest on this thread, and all
    /// threads that the guest makes. Each gets a store from `store`, and the
    /// artifact is instantiated in it.
    ///
    /// `ended` is called once, with what `main` returned or what a thread failed
    /// with, as soon as the program has ended. Then the engine's epoch is
    /// advanced, by which the other threads end if their stores have a deadline
    /// and the artifact was compiled with epochs, and they are waited for. One
    /// that waits in a host function ends when that returns. An application that
    /// will not wait for it ends the process in `ended`, as `cwasm run` does.
    pub fn run<'code, T, E, R>(
        &self,
        engine: &Engine,
        linker: &Linker<'code, T>,
        artifact: &'code Artifact,
        store: impl Fn() -> Store<'code, T> + Sync,
        main: impl FnOnce() -> Result<(), E>,
        ended: impl FnOnce(Result<(), E>) -> R + Send,
    ) -> Option<R>
    where
        T: Send + 'static,
        E: From<Error> + Send,
        R: Send,
    {
        let (sender, receiver) = channel::<Request>();
        lock(&self.shared.requests).sender = Some(sender);
        let ending = Mutex::new((Some(ended), None));
        let end = |result| {
            let mut ending = lock(&ending);
            if let Some(ended) = ending.0.take() {
                self.close();
                ending.1 = Some(ended(result));
                engine.increment_epoch();
            }
        };
        let start = |id, argument| -> Result<(), Error> {
            let mut store = store();
            let instance = linker.instantiate(&mut store, artifact)?;
            let start = instance.typed_func::<(i32, u32), ()>(&store, "wasi_thread_start")?;
            start.call(&mut store, (id, argument))
        };
        let stack = engine.config().max_wasm_stack.saturating_add(HOST_STACK);
        let (end, start) = (&end, &start);
        scope(|scope| {
            // Also if `main` panics, the thread below comes to its end.
            let _close = CloseOnDrop(self);
            let serve = move || {
                for Request { id, argument, reply } in receiver {
                    let body = move || {
                        let result = start(id, argument);
                        self.shared.running.fetch_sub(1, Ordering::Relaxed);
                        if let Err(error) = result {
                            end(Err(error.into()));
                        }
                    };
                    let thread = Builder::new()
                        .name(format!("wasi-thread-{id}"))
                        .stack_size(stack)
                        .spawn_scoped(scope, body);
                    // Whoever asked may have been ended meanwhile.
                    let _ = reply.send(thread.is_ok());
                }
            };
            // If there is no room for this thread, there is none for others either: requests then
            // fail like those beyond the limit, and a guest that makes no threads runs all the same.
            let _ = Builder::new().name("wasi-threads".to_owned()).spawn_scoped(scope, serve);
            end(main());
        });
        ending.into_inner().ok().and_then(|(_, outcome)| outcome)
    }

    /// Asks for a thread; returns its number, if there will be one.
    fn spawn(&self, argument: u32) -> Option<i32> {
        let Shared { requests, running, max_running } = &*self.shared;
        let limit = max_running.load(Ordering::Relaxed);
        let more = |count: usize| (count < limit).then_some(count + 1);
        running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        let (reply, made) = channel();
        let sent = {
            let mut requests = lock(requests);
            requests.last_id = if requests.last_id == MAX_ID { 1 } else { requests.last_id + 1 };
            let id = requests.last_id;
            let request = Request { id, argument, reply };
            requests.sender.as_ref().and_then(|sender| sender.send(request).ok()).map(|()| id)
        };
        let id = sent.filter(|_| made.recv() == Ok(true));
        if id.is_none() {
            running.fetch_sub(1, Ordering::Relaxed);
        }
        id
    }

    /// Takes no more requests.
    fn close(&self) {
        lock(&self.shared.requests).sender = None;
    }
}

/// Closes the requests of threads in the end.
struct CloseOnDrop<'a>(&'a Threads);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}
