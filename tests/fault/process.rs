//! What this process holds, from `/proc`.

/// How many mappings the process has.
///
/// # Panics
/// If `/proc` cannot be read; so for the other functions.
#[must_use]
pub fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted").lines().count()
}

/// How much memory of the process is resident, in KiB.
#[must_use]
pub fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).expect("a process has resident memory")
}

/// How many mappings are executable and belong to no file: code that the loader mapped.
#[must_use]
pub fn anonymous_code_mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    maps.lines()
        .filter(|line| {
            let mut fields = line.split_whitespace();
            let executable = fields.nth(1).is_some_and(|rights| rights.contains('x'));
            // Address and rights are followed by offset, device, inode and name.
            executable && fields.nth(3).is_none()
        })
        .count()
}

/// A mapping of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its rights: `r`, `w`, `x` or `-` each, then `p` (private) or `s` (shared).
    pub rights: String,
    /// The file that it shows; empty if it shows none.
    pub name: String,
}

impl Mapping {
    /// Whether it may be written to and executed.
    #[must_use]
    pub fn is_writable_code(&self) -> bool {
        self.rights.contains('w') && self.rights.contains('x')
    }
}

/// All mappings of the process.
#[must_use]
pub fn all_mappings() -> Vec<Mapping> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    maps.lines()
        .map(|line| {
            let mut fields = line.split_whitespace();
            let rights = fields.nth(1).unwrap_or_default().to_owned();
            let name = fields.skip(3).collect::<Vec<_>>().join(" ");
            Mapping { rights, name }
        })
        .collect()
}

/// How many bytes from an address on can be read and written, up to the first that cannot.
#[must_use]
pub fn accessible(start: usize) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    let mut end = start;
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let range = fields.next().and_then(|range| range.split_once('-'));
        let (from, to) = range.expect("a mapping has a range");
        let address = |text| usize::from_str_radix(text, 16).expect("an address is a number");
        let may = fields.next().is_some_and(|rights| rights.starts_with("rw"));
        if may && (address(from)..address(to)).contains(&end) {
            end = address(to);
        }
    }
    end - start
}

/// How many files, sockets and the like the process has open.
#[must_use]
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc is mounted").count()
}
