//! What a program may use of the host: directories, sockets, environment.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::Context as _;
use clap::Args;
use cwasm_wasi::{WasiCtx, WasiCtxBuilder};

use crate::outcome::usage;

/// Options that give something of the host to the program.
#[derive(Debug, Args)]
pub(crate) struct Grants {
    /// Let the program use a directory; `:ro` only to read it
    #[arg(long = "dir", value_name = "HOST[::GUEST][:ro]", value_parser = parse_directory)]
    directories: Vec<Directory>,
    /// Let it accept connections, on the descriptor after the last --dir
    #[arg(long, value_name = "HOST:PORT")]
    listen: Vec<String>,
    /// Set an environment variable, or pass one of cwasm's own on
    #[arg(long, value_name = "K[=V]", value_parser = parse_variable)]
    env: Vec<Variable>,
    /// Pass all of cwasm's environment variables on
    #[arg(long)]
    inherit_env: bool,
    /// Name the program other than FILE
    #[arg(long, value_name = "NAME")]
    argv0: Option<OsString>,
}

/// A directory of the host and its name in the program.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Directory {
    host: String,
    guest: String,
    read_only: bool,
}

/// A variable, with the value of cwasm's own environment if it has none here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Variable {
    name: String,
    value: Option<String>,
}

impl Grants {
    /// The context of a program that was started as `file` with `args`.
    pub(crate) fn context(&self, file: &Path, args: &[String]) -> anyhow::Result<WasiCtx> {
        let mut wasi = WasiCtx::builder();
        let name = file.file_name().unwrap_or(file.as_os_str());
        let name = self.argv0.as_deref().unwrap_or(name);
        wasi.arg(name.as_bytes()).args(args).inherit_stdio();
        self.environment(&mut wasi)?;
        for directory in &self.directories {
            let Directory { host, guest, read_only } = directory;
            if self.directories.iter().filter(|other| other.guest == *guest).count() > 1 {
                return Err(usage(format!("`--dir` gives the program two directories {guest:?}")));
            }
            if *read_only {
                wasi.preopened_dir_read_only(host, guest);
            } else {
                wasi.preopened_dir(host, guest);
            }
        }
        for address in &self.listen {
            wasi.listener(listen(address)?);
        }
        Ok(wasi.build()?)
    }

    fn environment(&self, wasi: &mut WasiCtxBuilder) -> anyhow::Result<()> {
        let mut all: Vec<(OsString, OsString)> = Vec::new();
        let mut set = |name: &OsStr, value: OsString| {
            all.retain(|(other, _)| other != name);
            all.push((name.to_owned(), value));
        };
        if self.inherit_env {
            for (name, value) in std::env::vars_os() {
                // Linux allows a name with `=`, or none, which no program could ask for.
                let bytes = name.as_bytes();
                if !bytes.is_empty() && !bytes.contains(&b'=') {
                    set(&name, value);
                }
            }
        }
        for Variable { name, value } in &self.env {
            let value = match value {
                Some(value) => value.into(),
                None => std::env::var_os(name).with_context(|| {
                    format!("`--env {name}` gives the program a variable that cwasm does not have")
                })?,
            };
            set(name.as_ref(), value);
        }
        for (name, value) in all {
            wasi.env(name.as_bytes(), value.as_bytes());
        }
        Ok(())
    }
}

/// Opens a socket, and says where if the system chose.
fn listen(address: &str) -> anyhow::Result<TcpListener> {
    let cannot = || format!("cannot listen at {address}");
    let addresses: Vec<SocketAddr> = address.to_socket_addrs().with_context(cannot)?.collect();
    let listener = TcpListener::bind(&addresses[..]).with_context(cannot)?;
    if addresses.iter().any(|address| address.port() == 0) {
        let chosen = listener.local_addr().with_context(cannot)?;
        // If stderr is closed, nobody wants to know.
        let _ = writeln!(std::io::stderr(), "cwasm: listening at {chosen}");
    }
    Ok(listener)
}

fn parse_directory(text: &str) -> Result<Directory, String> {
    let (rest, read_only) = match (text.strip_suffix(":ro"), text.strip_suffix(":rw")) {
        (Some(rest), _) => (rest, true),
        (_, Some(rest)) => (rest, false),
        _ => (text, false),
    };
    let (host, guest) = rest.split_once("::").unwrap_or((rest, rest));
    if host.is_empty() || guest.is_empty() {
        return Err("a directory is given as HOST, HOST::GUEST, or with `:ro` after it".to_owned());
    }
    Ok(Directory { host: host.to_owned(), guest: guest.to_owned(), read_only })
}

fn parse_variable(text: &str) -> Result<Variable, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    if name.is_empty() {
        return Err("an environment variable is given as NAME=VALUE, or as NAME".to_owned());
    }
    Ok(Variable { name: name.to_owned(), value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_have_two_names_and_may_be_read_only() {
        let parsed = |text| {
            parse_directory(text)
                .map(|Directory { host, guest, read_only }| (host, guest, read_only))
        };
        let same = |name: &str, read_only| Ok((name.to_owned(), name.to_owned(), read_only));
        assert_eq!(parsed("data"), same("data", false));
        assert_eq!(parsed("data:ro"), same("data", true));
        assert_eq!(parsed("/a::/b"), Ok(("/a".into(), "/b".into(), false)));
        assert_eq!(parsed("/a::/b:ro"), Ok(("/a".into(), "/b".into(), true)));
        // A directory that is called like that.
        assert_eq!(parsed("odd:ro:rw"), same("odd:ro", false));
        assert_eq!(parsed("a:b"), same("a:b", false));
        for wrong in ["", ":ro", "::", "a::", "::b", "a:::ro"] {
            assert!(parsed(wrong).is_err() || wrong == "a:::ro", "{wrong}");
        }
    }

    #[test]
    fn variables_have_a_value_or_are_inherited() {
        let parsed = |text| parse_variable(text).map(|Variable { name, value }| (name, value));
        assert_eq!(parsed("K=V=W"), Ok(("K".into(), Some("V=W".into()))));
        assert_eq!(parsed("K="), Ok(("K".into(), Some(String::new()))));
        assert_eq!(parsed("K"), Ok(("K".into(), None)));
        assert!(parsed("=V").is_err());
        assert!(parsed("").is_err());
    }
}
