//! As much of WASI preview 1 as the programs use, the same code for both sides: what is
//! compared is generated code and calls, not two implementations of WASI.
//!
//! Files are read whole from one folder. Nothing is written but the two streams.

use std::fmt;
use std::path::PathBuf;

const SUCCESS: i32 = 0;
const BADF: i32 = 8;
const INVAL: i32 = 28;
const NOENT: i32 = 44;

/// The descriptor of the folder.
const FOLDER: u32 = 3;

/// A program, as its host functions see it.
#[derive(Debug, Default)]
pub struct Guest {
    folder: PathBuf,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// From descriptor 4 on: contents and position.
    files: Vec<Option<(Vec<u8>, usize)>>,
    /// When it said that it starts and ends.
    pub start: f64,
    pub end: f64,
}

/// The program ended itself.
#[derive(Clone, Copy, Debug)]
pub struct Exit(pub i32);

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the program exited with {}", self.0)
    }
}

impl std::error::Error for Exit {}

/// Writes bytes into guest memory; `None` if they do not fit.
fn put(memory: &mut [u8], at: i32, bytes: &[u8]) -> Option<()> {
    let start = at as u32 as usize;
    memory.get_mut(start..start + bytes.len())?.copy_from_slice(bytes);
    Some(())
}

fn get_u32(memory: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(memory.get(at..at + 4)?.try_into().ok()?))
}

/// The ranges that a list of I/O vectors names.
fn vectors(memory: &[u8], list: i32, count: i32) -> Option<Vec<std::ops::Range<usize>>> {
    (0..count as u32 as usize)
        .map(|number| {
            let at = list as u32 as usize + number * 8;
            let start = get_u32(memory, at)? as usize;
            Some(start..start + get_u32(memory, at + 4)? as usize)
        })
        .collect()
}

fn done(result: Option<()>) -> i32 {
    if result.is_some() { SUCCESS } else { INVAL }
}

impl Guest {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, ..Self::default() }
    }

    fn file(&mut self, fd: i32) -> Option<&mut (Vec<u8>, usize)> {
        let index = (fd as u32).checked_sub(FOLDER + 1)? as usize;
        self.files.get_mut(index)?.as_mut()
    }

    fn fd_write(&mut self, memory: &mut [u8], (fd, list, count, out): (i32, i32, i32, i32)) -> i32 {
        let stream = match fd {
            1 => &mut self.stdout,
            2 => &mut self.stderr,
            _ => return BADF,
        };
        let Some(ranges) = vectors(memory, list, count) else { return INVAL };
        let mut written = 0;
        for range in ranges {
            let Some(bytes) = memory.get(range) else { return INVAL };
            stream.extend_from_slice(bytes);
            written += bytes.len() as u32;
        }
        done(put(memory, out, &written.to_le_bytes()))
    }

    fn fd_read(&mut self, memory: &mut [u8], (fd, list, count, out): (i32, i32, i32, i32)) -> i32 {
        let Some(ranges) = vectors(memory, list, count) else { return INVAL };
        let Some((contents, position)) = self.file(fd) else {
            // An empty standard input.
            return if fd == 0 { done(put(memory, out, &[0; 4])) } else { BADF };
        };
        let mut read = 0;
        for range in ranges {
            let Some(target) = memory.get_mut(range) else { return INVAL };
            let rest = &contents[(*position).min(contents.len())..];
            let length = rest.len().min(target.len());
            target[..length].copy_from_slice(&rest[..length]);
            *position += length;
            read += length as u32;
        }
        done(put(memory, out, &read.to_le_bytes()))
    }

    fn fd_close(&mut self, _: &mut [u8], (fd,): (i32,)) -> i32 {
        match (fd as u32).checked_sub(FOLDER + 1).and_then(|i| self.files.get_mut(i as usize)) {
            Some(file) => file.take().map_or(BADF, |_| SUCCESS),
            None => SUCCESS,
        }
    }

    fn fd_seek(&mut self, memory: &mut [u8], (fd, to, whence, out): (i32, i64, i32, i32)) -> i32 {
        let Some((contents, position)) = self.file(fd) else { return BADF };
        let from = match whence {
            0 => 0,
            1 => *position,
            _ => contents.len(),
        };
        let Some(target) = from.checked_add_signed(to as isize) else { return INVAL };
        *position = target;
        done(put(memory, out, &(target as u64).to_le_bytes()))
    }

    fn fd_fdstat_get(&mut self, memory: &mut [u8], (fd, out): (i32, i32)) -> i32 {
        let mut stat = [0; 24];
        stat[0] = match fd {
            0..=2 => 2,
            3 => 3,
            _ if self.file(fd).is_some() => 4,
            _ => return BADF,
        };
        stat[8..].fill(0xff);
        done(put(memory, out, &stat))
    }

    fn fd_prestat_get(&mut self, memory: &mut [u8], (fd, out): (i32, i32)) -> i32 {
        if fd as u32 != FOLDER {
            return BADF;
        }
        done(put(memory, out, &[0, 0, 0, 0, 1, 0, 0, 0]))
    }

    fn fd_prestat_dir_name(&mut self, memory: &mut [u8], (fd, at, _): (i32, i32, i32)) -> i32 {
        if fd as u32 != FOLDER {
            return BADF;
        }
        done(put(memory, at, b"."))
    }

    fn fd_filestat_get(&mut self, memory: &mut [u8], (fd, out): (i32, i32)) -> i32 {
        let (kind, size) = match self.file(fd) {
            Some((contents, _)) => (4, contents.len() as u64),
            None if fd as u32 <= FOLDER => (2, 0),
            None => return BADF,
        };
        done(put(memory, out, &filestat(kind, size)))
    }

    fn path(&self, memory: &[u8], at: i32, length: i32) -> Option<PathBuf> {
        let start = at as u32 as usize;
        let bytes = memory.get(start..start + length as u32 as usize)?;
        let name = std::str::from_utf8(bytes).ok()?.trim_start_matches("./");
        // Names of files in the one folder, and of nothing else.
        (!name.contains('/') && name != "..").then(|| self.folder.join(name))
    }

    fn path_filestat_get(
        &mut self,
        memory: &mut [u8],
        (_, _, at, length, out): (i32, i32, i32, i32, i32),
    ) -> i32 {
        let Some(path) = self.path(memory, at, length) else { return NOENT };
        match std::fs::metadata(path) {
            Ok(metadata) => done(put(memory, out, &filestat(4, metadata.len()))),
            Err(_) => NOENT,
        }
    }

    fn path_open(
        &mut self,
        memory: &mut [u8],
        (_, _, at, length, _, _, _, _, out): (i32, i32, i32, i32, i32, i64, i64, i32, i32),
    ) -> i32 {
        let Some(path) = self.path(memory, at, length) else { return NOENT };
        let Ok(contents) = std::fs::read(path) else { return NOENT };
        self.files.push(Some((contents, 0)));
        let fd = FOLDER + self.files.len() as u32;
        done(put(memory, out, &fd.to_le_bytes()))
    }

    fn clock_time_get(&mut self, memory: &mut [u8], (_, _, out): (i32, i64, i32)) -> i32 {
        let now = (crate::clock::Clock::Wall.now() * 1e9) as u64;
        done(put(memory, out, &now.to_le_bytes()))
    }

    /// The same bytes for both, on every run.
    fn random_get(&mut self, memory: &mut [u8], (at, length): (i32, i32)) -> i32 {
        let start = at as u32 as usize;
        let Some(bytes) = memory.get_mut(start..start + length as u32 as usize) else {
            return INVAL;
        };
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for byte in bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state as u8;
        }
        SUCCESS
    }

    fn two_zeros(&mut self, memory: &mut [u8], (count, size): (i32, i32)) -> i32 {
        done(put(memory, count, &[0; 4]).and_then(|()| put(memory, size, &[0; 4])))
    }

    fn nothing(&mut self, _: &mut [u8], _: (i32, i32)) -> i32 {
        SUCCESS
    }

    fn poll_oneoff(&mut self, _: &mut [u8], _: (i32, i32, i32, i32)) -> i32 {
        INVAL
    }
}

fn filestat(kind: u8, size: u64) -> [u8; 64] {
    let mut stat = [0; 64];
    stat[16] = kind;
    stat[32..40].copy_from_slice(&size.to_le_bytes());
    stat
}

const MODULE: &str = "wasi_snapshot_preview1";

macro_rules! functions {
    ($define:ident) => {
        $define!("fd_write", fd_write, (a: i32, b: i32, c: i32, d: i32));
        $define!("fd_read", fd_read, (a: i32, b: i32, c: i32, d: i32));
        $define!("fd_close", fd_close, (a: i32));
        $define!("fd_seek", fd_seek, (a: i32, b: i64, c: i32, d: i32));
        $define!("fd_fdstat_get", fd_fdstat_get, (a: i32, b: i32));
        $define!("fd_prestat_get", fd_prestat_get, (a: i32, b: i32));
        $define!("fd_prestat_dir_name", fd_prestat_dir_name, (a: i32, b: i32, c: i32));
        $define!("fd_filestat_get", fd_filestat_get, (a: i32, b: i32));
        $define!("path_filestat_get", path_filestat_get, (a: i32, b: i32, c: i32, d: i32, e: i32));
        $define!("path_open", path_open,
            (a: i32, b: i32, c: i32, d: i32, e: i32, f: i64, g: i64, h: i32, i: i32));
        $define!("clock_time_get", clock_time_get, (a: i32, b: i64, c: i32));
        $define!("random_get", random_get, (a: i32, b: i32));
        $define!("poll_oneoff", poll_oneoff, (a: i32, b: i32, c: i32, d: i32));
        $define!("args_sizes_get", two_zeros, (a: i32, b: i32));
        $define!("args_get", nothing, (a: i32, b: i32));
        $define!("environ_sizes_get", two_zeros, (a: i32, b: i32));
        $define!("environ_get", nothing, (a: i32, b: i32));
    };
}

/// Defines everything that the programs import, for cwasm.
pub fn ours(linker: &mut cwasm_loader::Linker<'static, Guest>) -> crate::Result<()> {
    use cwasm_loader::Caller;
    macro_rules! define {
        ($name:literal, $method:ident, ($($arg:ident: $ty:ty),*)) => {
            linker.func(MODULE, $name, |mut caller: Caller<'_, '_, Guest>, $($arg: $ty),*| {
                match caller.memory_and_data_mut() {
                    Some((memory, guest)) => guest.$method(memory, ($($arg,)*)),
                    None => INVAL,
                }
            })?;
        };
    }
    functions!(define);
    linker.func(
        MODULE,
        "proc_exit",
        |_: Caller<'_, '_, Guest>, code: i32| -> Result<(), Exit> { Err(Exit(code)) },
    )?;
    linker.func("bench", "start", |mut caller: Caller<'_, '_, Guest>| {
        caller.data_mut().start = crate::clock::Clock::Thread.now();
    })?;
    linker.func("bench", "end", |mut caller: Caller<'_, '_, Guest>| {
        caller.data_mut().end = crate::clock::Clock::Thread.now();
    })?;
    Ok(())
}

/// Defines everything that the programs import, for wasmtime.
pub fn theirs(linker: &mut wasmtime::Linker<Guest>) -> crate::Result<()> {
    use wasmtime::Caller;
    macro_rules! define {
        ($name:literal, $method:ident, ($($arg:ident: $ty:ty),*)) => {
            linker.func_wrap(MODULE, $name, |mut caller: Caller<'_, Guest>, $($arg: $ty),*| {
                let memory = caller.get_export("memory").and_then(|export| export.into_memory());
                match memory {
                    Some(memory) => {
                        let (memory, guest) = memory.data_and_store_mut(&mut caller);
                        guest.$method(memory, ($($arg,)*))
                    }
                    None => INVAL,
                }
            })?;
        };
    }
    functions!(define);
    linker.func_wrap(MODULE, "proc_exit", |code: i32| -> wasmtime::Result<()> {
        Err(wasmtime::Error::new(Exit(code)))
    })?;
    linker.func_wrap("bench", "start", |mut caller: Caller<'_, Guest>| {
        caller.data_mut().start = crate::clock::Clock::Thread.now();
    })?;
    linker.func_wrap("bench", "end", |mut caller: Caller<'_, Guest>| {
        caller.data_mut().end = crate::clock::Clock::Thread.now();
    })?;
    Ok(())
}
