//! `cwasm cache`: where compiled modules are kept, what is there, and what can go.

use std::io::Write as _;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use cwasm_cache::{Cache, Entry, Pruned};
use serde::Serialize;

use crate::cached;
use crate::outcome::Outcome;

/// Show, check and prune the cache of compiled modules
#[derive(Debug, Args)]
#[command(after_help = "\
`cwasm run` keeps what it compiled in $CWASM_CACHE_DIR, or in the user's cache directory,
and looks into $CWASM_CACHE_SHARED too, if that is set. Everything in it can be removed at any time.

Examples:
  cwasm cache stats
  cwasm cache list --json | jq '.[].bytes'
  cwasm cache prune --max-size 500M

Exit codes: 0 done, 1 the directory cannot be used or a corrupt entry was found, 2 usage")]
pub(crate) struct CacheCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the directory
    Dir,
    /// List the entries, those used last first
    List(Json),
    /// Count hits, misses and entries, over all processes
    Stats(Json),
    /// Check every entry, and set aside what is corrupt
    Verify(Json),
    /// Remove what other versions wrote, and the entries used longest ago
    Prune {
        /// How much may stay: bytes, or 500M, 2G [default: what a cache may have]
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        max_size: Option<u64>,
        #[command(flatten)]
        json: Json,
    },
    /// Remove every entry
    Clear(Json),
}

#[derive(Clone, Copy, Debug, Args)]
struct Json {
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// An entry, as it is shown. Field names are an interface.
#[derive(Debug, Serialize)]
struct EntrySummary {
    key: String,
    bytes: u64,
    /// Seconds since it was used.
    unused_seconds: u64,
    state: &'static str,
    /// An artifact, or the code of functions for compiling a module again.
    kind: &'static str,
    path: String,
}

impl From<Entry> for EntrySummary {
    fn from(entry: Entry) -> Self {
        Self {
            unused_seconds: SystemTime::now()
                .duration_since(entry.used)
                .map_or(0, |age| age.as_secs()),
            state: match (entry.corrupt, entry.current) {
                (true, _) => "corrupt",
                (_, true) => "current",
                (_, false) => "other version",
            },
            kind: if entry.artifact { "artifact" } else { "functions" },
            key: entry.key,
            bytes: entry.bytes,
            path: entry.path.display().to_string(),
        }
    }
}

impl CacheCommand {
    pub(crate) fn execute(&self) -> anyhow::Result<Outcome> {
        let (text, json) = match &self.action {
            Action::Dir => {
                let directory = cached::directory()?;
                (format!("{}\n", directory.display()), serde_json::Value::Null)
            }
            Action::List(_) => list()?,
            Action::Stats(_) => stats()?,
            Action::Verify(json) => return verify(*json),
            Action::Prune { max_size, .. } => removed(open()?.prune(*max_size)?),
            Action::Clear(_) => removed(open()?.clear()?),
        };
        self.json().print(&text, &json)?;
        Ok(Outcome::Done)
    }

    fn json(&self) -> Json {
        match &self.action {
            Action::Dir => Json { json: false },
            Action::List(json)
            | Action::Stats(json)
            | Action::Verify(json)
            | Action::Prune { json, .. }
            | Action::Clear(json) => *json,
        }
    }
}

impl Json {
    fn print(self, text: &str, json: &serde_json::Value) -> anyhow::Result<()> {
        let mut stdout = std::io::stdout().lock();
        if self.json {
            writeln!(stdout, "{json:#}")?;
        } else {
            stdout.write_all(text.as_bytes())?;
        }
        stdout.flush()?;
        Ok(())
    }
}

fn open() -> anyhow::Result<Cache> {
    Ok(cached::open()?)
}

fn list() -> anyhow::Result<(String, serde_json::Value)> {
    let entries: Vec<EntrySummary> = open()?.list()?.into_iter().map(EntrySummary::from).collect();
    let text = entries
        .iter()
        .map(|entry| {
            let name = if entry.key.is_empty() { &entry.path } else { &entry.key };
            let age = age(entry.unused_seconds);
            format!("{name}  {:>11} bytes  {age:>8} ago  {}\n", entry.bytes, entry.state)
        })
        .collect();
    Ok((text, serde_json::to_value(&entries)?))
}

fn stats() -> anyhow::Result<(String, serde_json::Value)> {
    let cache = open()?;
    let entries = cache.list()?;
    let mut named = vec![("entries", entries.len() as u64)];
    // What is there is counted; what the counter says is an estimate.
    let bytes = entries.iter().map(|entry| entry.bytes).sum();
    named.push(("bytes", bytes));
    named.extend(cache.all_statistics().named().into_iter().filter(|(name, _)| *name != "bytes"));
    let text = named.iter().map(|(name, value)| format!("{name:<20} {value:>14}\n")).collect();
    let json = named.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    Ok((text, serde_json::Value::Object(json)))
}

fn verify(json: Json) -> anyhow::Result<Outcome> {
    let verified = open()?.verify()?;
    let corrupt: Vec<String> =
        verified.corrupt.iter().map(|path| path.display().to_string()).collect();
    let mut text = format!("{} intact, {} corrupt", verified.intact, corrupt.len());
    if verified.other > 0 {
        text += &format!(", {} of other versions, which cannot be checked", verified.other);
    }
    text.push('\n');
    corrupt.iter().for_each(|path| text += &format!("  set aside: {path}\n"));
    let value = serde_json::json!({
        "intact": verified.intact, "corrupt": corrupt, "other_versions": verified.other,
    });
    json.print(&text, &value)?;
    Ok(if corrupt.is_empty() { Outcome::Done } else { Outcome::Failed })
}

fn removed(pruned: Pruned) -> (String, serde_json::Value) {
    let Pruned { removed, removed_bytes, kept, kept_bytes, .. } = pruned;
    let text = format!(
        "removed {removed} entries with {removed_bytes} bytes; {kept} with {kept_bytes} bytes are left\n"
    );
    let json = serde_json::json!({
        "removed": removed, "removed_bytes": removed_bytes, "kept": kept, "kept_bytes": kept_bytes,
    });
    (text, json)
}

/// A time in the largest unit of which there is more than one.
fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let parse = || {
        let (digits, shift) = match text.char_indices().last() {
            Some((at, 'K' | 'k')) => (&text[..at], 10),
            Some((at, 'M' | 'm')) => (&text[..at], 20),
            Some((at, 'G' | 'g')) => (&text[..at], 30),
            _ => (text, 0),
        };
        let number: u64 = digits.parse().ok().context("not a number")?;
        match number.checked_mul(1 << shift) {
            Some(size) => Ok(size),
            None => bail!("too large"),
        }
    };
    parse()
        .map_err(|_: anyhow::Error| "a size is a number of bytes, or one with K, M or G".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_have_units() {
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("500M"), Ok(500 << 20));
        assert_eq!(parse_size("2g"), Ok(2 << 30));
        for wrong in ["", "M", "-1", "1T", "99999999999G", "1.5M"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        assert_eq!([age(5), age(125), age(7300), age(200_000)], ["5 s", "2 min", "2 h", "2 days"]);
    }
}
