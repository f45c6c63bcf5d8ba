//! `cwasm inspect`: what an artifact is and holds.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use cwasm_artifact::bundle::MAGIC;
use cwasm_artifact::check::{Checked, check};
use cwasm_artifact::cpu::CpuFeatures;
use cwasm_artifact::header::{Section, padded_text, settings};
use cwasm_artifact::hex::Hex;
use cwasm_artifact::module::{Module, View};
use cwasm_artifact::signature::Signatures;
use cwasm_artifact::types::ExternType;
use cwasm_loader::Bundle;
use serde::Serialize;

use crate::input;
use crate::outcome::Outcome;

/// Show the header, sections, imports and exports of an artifact
#[derive(Debug, Args)]
#[command(after_help = "\
The artifact is checked, but not for this machine: artifacts for others can be inspected.
It is also an ELF file: readelf, objdump and nm show its code and symbols.

Examples:
  cwasm inspect app.cwasm
  cwasm inspect app.cwasm --json | jq -r .digest

Exit codes: 0 done, 1 the file is not an intact artifact, 2 usage")]
pub(crate) struct Inspect {
    /// The artifact, or a bundle of several
    #[arg(value_name = "FILE.cwasm")]
    file: PathBuf,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Everything that is shown. Field names are an interface.
#[derive(Debug, Serialize)]
struct Summary {
    file: String,
    digest: String,
    /// Not verified: that takes a key.
    signatures: Vec<SignatureSummary>,
    bytes: u64,
    format: u32,
    abi: String,
    compiler: String,
    target: String,
    cpu: Cpu,
    opt_level: String,
    settings: Settings,
    source: Source,
    name: Option<String>,
    functions: Functions,
    sections: Vec<SectionSummary>,
    imports: Vec<Import>,
    exports: Vec<Export>,
}

#[derive(Debug, Serialize)]
struct SignatureSummary {
    kind: &'static str,
    key: String,
}

#[derive(Debug, Serialize)]
struct Cpu {
    /// What was asked for.
    level: String,
    /// What the code needs.
    features: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Settings {
    fuel: bool,
    epoch: bool,
    memory_checks: &'static str,
    canonical_nans: bool,
    relaxed_simd: &'static str,
}

#[derive(Debug, Serialize)]
struct Source {
    bytes: u64,
    sha256: String,
}

#[derive(Debug, Serialize)]
struct Functions {
    imported: u32,
    defined: u32,
}

#[derive(Debug, Serialize)]
struct SectionSummary {
    name: &'static str,
    offset: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Import {
    module: String,
    name: String,
    kind: &'static str,
    #[serde(rename = "type")]
    ty: String,
}

#[derive(Debug, Serialize)]
struct Export {
    name: String,
    kind: &'static str,
    #[serde(rename = "type")]
    ty: String,
}

impl Inspect {
    pub(crate) fn execute(&self) -> anyhow::Result<Outcome> {
        if input::front(&self.file)?.starts_with(&MAGIC) {
            return self.inspect_bundle();
        }
        let bytes = input::artifact(&self.file)?;
        let refused = || format!("cannot inspect {}", self.file.display());
        let checked = check(&bytes, None).with_context(refused)?;
        let module = Module::new(&checked).with_context(refused)?;
        let summary = Summary::new(self.file.display().to_string(), &checked, &module.view(&bytes));
        let text =
            if self.json { serde_json::to_string_pretty(&summary)? + "\n" } else { summary.text() };
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        Ok(Outcome::Done)
    }
}

impl Inspect {
    /// Shows what is in a bundle: a line, or an object, for each artifact.
    fn inspect_bundle(&self) -> anyhow::Result<Outcome> {
        let bundle = Bundle::open(&self.file)?;
        let mut parts = Vec::new();
        for entry in bundle.entries() {
            let picked = bundle.read_entry(entry)?;
            let refused = || format!("cannot inspect {} in {}", entry.name, self.file.display());
            let checked = check(picked.bytes(), None).with_context(refused)?;
            let module = Module::new(&checked).with_context(refused)?;
            parts.push(Summary::new(entry.name.clone(), &checked, &module.view(picked.bytes())));
        }
        let text = if self.json {
            let file = self.file.display().to_string();
            serde_json::to_string_pretty(&BundleSummary { file, bundle: parts })? + "\n"
        } else {
            let line = |part: &Summary| {
                let Summary { file, digest, target, cpu, bytes, .. } = part;
                format!("{digest} {file} {target} ({}) {bytes} bytes\n", cpu.level)
            };
            parts.iter().map(line).collect()
        };
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        Ok(Outcome::Done)
    }
}

/// What is shown of a bundle.
#[derive(Debug, Serialize)]
struct BundleSummary {
    file: String,
    /// What is shown of an artifact, for each; `file` is its name in the bundle.
    bundle: Vec<Summary>,
}

impl Summary {
    fn new(file: String, checked: &Checked<'_>, view: &View<'_>) -> Self {
        let header = checked.header();
        let has = |bit| header.settings.get() & bit != 0;
        let name = view.text(view.record().name);
        Self {
            file,
            digest: checked.digest().to_string(),
            signatures: signatures(checked),
            bytes: header.file_length.get(),
            format: header.prefix.format_version.get(),
            abi: Hex(&header.prefix.abi).to_string(),
            compiler: padded_text(&header.prefix.compiler),
            target: padded_text(&header.prefix.target),
            cpu: Cpu {
                level: padded_text(&header.cpu_level),
                features: CpuFeatures::from_bits(header.cpu_features.get()).names(),
            },
            opt_level: padded_text(&header.opt_level),
            settings: Settings {
                fuel: has(settings::FUEL),
                epoch: has(settings::EPOCH),
                memory_checks: if has(settings::EXPLICIT_CHECKS) { "explicit" } else { "guard" },
                canonical_nans: has(settings::CANONICAL_NANS),
                relaxed_simd: if has(settings::DETERMINISTIC_RELAXED_SIMD) {
                    "deterministic"
                } else {
                    "native"
                },
            },
            source: Source {
                bytes: header.source_length.get(),
                sha256: Hex(&header.source_sha256).to_string(),
            },
            name: (!name.is_empty()).then(|| name.to_owned()),
            functions: Functions {
                imported: view.counts().imported_functions,
                defined: view.counts().functions - view.counts().imported_functions,
            },
            sections: sections(checked),
            imports: view
                .imports()
                .iter()
                .map(|import| {
                    let ty = view.extern_type(&import.ty);
                    Import {
                        module: view.text(import.module).to_owned(),
                        name: view.text(import.name).to_owned(),
                        kind: kind(&ty),
                        ty: ty.to_string(),
                    }
                })
                .collect(),
            exports: view
                .exports()
                .iter()
                .map(|export| {
                    let ty = view.export_type(export);
                    Export {
                        name: view.text(export.name).to_owned(),
                        kind: kind(&ty),
                        ty: ty.to_string(),
                    }
                })
                .collect(),
        }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        let features = if self.cpu.features.is_empty() {
            "nothing beyond the target's baseline".to_owned()
        } else {
            self.cpu.features.join(", ")
        };
        let mut settings = vec![format!("memory checks: {}", self.settings.memory_checks)];
        settings.extend(self.settings.fuel.then(|| "fuel".to_owned()));
        settings.extend(self.settings.epoch.then(|| "epoch".to_owned()));
        settings.extend(self.settings.canonical_nans.then(|| "canonical NaNs".to_owned()));
        settings.push(format!("relaxed SIMD: {}", self.settings.relaxed_simd));
        let keys: Vec<&str> = self.signatures.iter().map(|one| one.key.as_str()).collect();
        let signed = if keys.is_empty() {
            "nobody".to_owned()
        } else {
            format!("{} (not verified: `cwasm verify --key` does)", keys.join(", "))
        };
        let rows = [
            ("digest", self.digest.clone()),
            ("signed by", signed),
            ("file", format!("{}, {} bytes", self.file, self.bytes)),
            ("format", self.format.to_string()),
            ("abi", self.abi.clone()),
            ("compiler", format!("cwasm {}", self.compiler)),
            ("target", self.target.clone()),
            ("cpu", format!("{}; needs {features}", self.cpu.level)),
            ("opt level", self.opt_level.clone()),
            ("settings", settings.join(", ")),
            ("source", format!("{} bytes, sha256 {}", self.source.bytes, self.source.sha256)),
            ("module", self.name.as_deref().map_or("unnamed".to_owned(), quoted)),
            (
                "functions",
                format!("{} defined, {} imported", self.functions.defined, self.functions.imported),
            ),
        ];
        // Writing to a `String` does not fail.
        for (label, value) in rows {
            let _ = writeln!(out, "{label:<10} {value}");
        }
        let _ = writeln!(out, "\nsections, with file offset and size in bytes");
        for section in &self.sections {
            let (offset, bytes) = (section.offset, section.bytes);
            let _ = writeln!(out, "  {:<18} {offset:>#10x} {bytes:>10}", section.name);
        }
        let _ = writeln!(out, "\nimports");
        for import in &self.imports {
            let (module, name) = (quoted(&import.module), quoted(&import.name));
            let _ = writeln!(out, "  {module} {name} {}", import.ty);
        }
        let _ = writeln!(out, "\nexports");
        for export in &self.exports {
            let _ = writeln!(out, "  {} {}", quoted(&export.name), export.ty);
        }
        out
    }
}

fn signatures(checked: &Checked<'_>) -> Vec<SignatureSummary> {
    // A checked file has a signature area that is in order.
    let signatures = Signatures::of(checked.file()).unwrap_or_default();
    signatures
        .keys()
        .map(|key| SignatureSummary { kind: "ed25519", key: key.to_string() })
        .collect()
}

fn sections(checked: &Checked<'_>) -> Vec<SectionSummary> {
    let mut sections: Vec<_> = Section::ALL
        .into_iter()
        .map(|section| {
            let range = checked.header().section(section);
            let (offset, bytes) = (range.offset.get(), range.length.get());
            SectionSummary { name: section.name(), offset, bytes }
        })
        .filter(|section| section.bytes > 0)
        .collect();
    sections.sort_by_key(|section| section.offset);
    sections
}

fn kind(ty: &ExternType) -> &'static str {
    match ty {
        ExternType::Func(_) => "func",
        ExternType::Table(_) => "table",
        ExternType::Memory(_) => "memory",
        ExternType::Global(_) => "global",
        ExternType::Tag(_) => "tag",
        _ => "unknown",
    }
}

/// A name from the file, which may hold anything, for a terminal.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.escape_debug())
}
