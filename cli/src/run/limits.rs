//! `--limit`: how much a program may take of what a store holds.

use std::str::FromStr;

use cwasm_loader::{Config, StoreLimits};

use crate::outcome::usage;

/// One limit, as it is typed: `memory=64M`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// The largest size of each memory, in bytes.
    Memory(u64),
    /// The largest size of each table, in elements.
    Table(u64),
    /// How many instances there may be.
    Instances(u64),
    /// How much memory there may be for objects, in bytes.
    Objects(u64),
    /// How deep the stack may get, in bytes.
    Stack(u64),
}

const HOW: &str = "a limit is given as memory=SIZE, table=N, instances=N, objects=SIZE or stack=SIZE, with sizes like 64M";

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (what, number) = text.split_once('=').ok_or(HOW)?;
        let sized = matches!(what, "memory" | "objects" | "stack");
        let number = parse_number(number, sized).ok_or_else(|| {
            format!("{number:?} is no {}; {HOW}", if sized { "size" } else { "number" })
        })?;
        match what {
            "memory" => Ok(Self::Memory(number)),
            "table" => Ok(Self::Table(number)),
            "instances" => Ok(Self::Instances(number)),
            "objects" => Ok(Self::Objects(number)),
            "stack" => Ok(Self::Stack(number)),
            _ => Err(HOW.to_owned()),
        }
    }
}

/// A number; one of bytes may end in K, M or G.
fn parse_number(text: &str, sized: bool) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" => 1,
        "K" if sized => 1 << 10,
        "M" if sized => 1 << 20,
        "G" if sized => 1 << 30,
        _ => return None,
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Refuses two limits of the same kind.
pub(crate) fn check(limits: &[Limit]) -> anyhow::Result<()> {
    for (index, limit) in limits.iter().enumerate() {
        let same = |other: &Limit| std::mem::discriminant(other) == std::mem::discriminant(limit);
        if limits[..index].iter().any(same) {
            return Err(usage("`--limit` sets the same limit twice"));
        }
    }
    Ok(())
}

/// The settings of an engine under these limits.
pub(crate) fn config(limits: &[Limit]) -> Config {
    let mut config = Config::default();
    if let Some(bytes) = stack(limits) {
        config.max_wasm_stack = bytes;
    }
    config
}

/// The limit of the stack, if there is one.
pub(crate) fn stack(limits: &[Limit]) -> Option<usize> {
    limits.iter().find_map(|limit| match limit {
        Limit::Stack(bytes) => Some(usize::try_from(*bytes).unwrap_or(usize::MAX)),
        _ => None,
    })
}

/// Puts the other limits on a store.
pub(crate) fn apply(limits: &[Limit], store: &mut StoreLimits) {
    /// Bytes of a page of memory.
    const PAGE: u64 = 65536;
    for limit in limits {
        match *limit {
            Limit::Memory(bytes) => store.memory_pages = store.memory_pages.min(bytes / PAGE),
            Limit::Table(elements) => store.table_elements = elements,
            Limit::Instances(count) => {
                store.instances = usize::try_from(count).unwrap_or(usize::MAX);
            }
            Limit::Objects(bytes) => {
                store.objects = usize::try_from(bytes).unwrap_or(usize::MAX);
            }
            Limit::Stack(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_named_numbers() {
        assert_eq!("memory=64M".parse(), Ok(Limit::Memory(64 << 20)));
        assert_eq!("memory=0".parse(), Ok(Limit::Memory(0)));
        assert_eq!("table=1000".parse(), Ok(Limit::Table(1000)));
        assert_eq!("stack=512K".parse(), Ok(Limit::Stack(512 << 10)));
        assert_eq!("objects=2G".parse(), Ok(Limit::Objects(2 << 30)));
        assert_eq!("instances=3".parse(), Ok(Limit::Instances(3)));
        for wrong in [
            "",
            "memory",
            "memory=",
            "memory=-1",
            "memory=+1",
            "memory=1T",
            "table=1K",
            "heap=1",
            "memory=1.5M",
            "memory=M",
            "memory=99999999999999999999",
            "memory=18014398509481984M",
        ] {
            assert!(wrong.parse::<Limit>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_limit_is_set_once() {
        assert!(check(&[Limit::Table(1), Limit::Memory(1)]).is_ok());
        assert!(check(&[Limit::Table(1), Limit::Memory(1), Limit::Table(1)]).is_err());
    }
}
