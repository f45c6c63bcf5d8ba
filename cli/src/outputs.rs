//! Where the artifacts of several modules go, and what a build tool is told about it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// A module and where its artifact goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    /// The module; `-` for standard input.
    pub(crate) input: PathBuf,
    /// The artifact; `None` for standard output.
    pub(crate) output: Option<PathBuf>,
}

/// Finds the outputs, and refuses what cannot work before time is spent on it.
pub(crate) fn jobs(
    inputs: &[PathBuf],
    output: Option<&Path>,
    out_dir: Option<&Path>,
    suffix: &str,
) -> anyhow::Result<Vec<Job>> {
    if let Some(output) = output {
        let [input] = inputs else {
            bail!("`-o` names one file, and there are {} modules: use `--out-dir`", inputs.len());
        };
        let output = (output.as_os_str() != "-").then(|| output.to_owned());
        return Ok(vec![Job { input: input.clone(), output }]);
    }
    let mut taken: HashMap<PathBuf, &Path> = HashMap::new();
    let mut jobs = Vec::with_capacity(inputs.len());
    for input in inputs {
        if input.as_os_str() == "-" {
            bail!("standard input has no name to derive that of the artifact from: use `-o`");
        }
        let beside = input.with_extension(suffix);
        let output = match (out_dir, beside.file_name()) {
            (Some(directory), Some(name)) => directory.join(name),
            _ => beside,
        };
        if let Some(other) = taken.insert(output.clone(), input) {
            bail!(
                "{} and {} would both become {}: compile them to different directories",
                other.display(),
                input.display(),
                output.display()
            );
        }
        jobs.push(Job { input: input.clone(), output: Some(output) });
    }
    Ok(jobs)
}

/// Rules for `make`, which `ninja` and others read too: each artifact depends on its module.
pub(crate) fn rules(jobs: &[Job]) -> anyhow::Result<String> {
    let mut text = String::new();
    for job in jobs {
        let Some(output) = &job.output else {
            bail!("`--depfile` needs an artifact in a file, and `-o -` writes to standard output");
        };
        text += &escaped(output)?;
        text.push(':');
        if job.input.as_os_str() != "-" {
            text.push(' ');
            text += &escaped(&job.input)?;
        }
        text.push('\n');
    }
    Ok(text)
}

/// A path as `make` reads it.
fn escaped(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().with_context(|| {
        format!("`--depfile` cannot name {}: its name is not UTF-8", path.display())
    })?;
    let mut out = String::with_capacity(text.len());
    let mut backslashes = 0;
    for c in text.chars() {
        match c {
            '\n' | '\r' => {
                bail!("`--depfile` cannot name {text:?}: there is a line break in it")
            }
            // Backslashes count as such only before something that is escaped.
            ' ' | '\t' | '#' => {
                out.extend(std::iter::repeat_n('\\', backslashes + 1));
            }
            '$' => out.push('$'),
            ':' => out.push('\\'),
            _ => {}
        }
        backslashes = if c == '\\' { backslashes + 1 } else { 0 };
        out.push(c);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    fn outputs(inputs: &[&str], output: Option<&str>, out_dir: Option<&str>) -> Vec<String> {
        let found = jobs(&paths(inputs), output.map(Path::new), out_dir.map(Path::new), "cwasm");
        let show =
            |job: Job| job.output.map_or("stdout".to_owned(), |path| path.display().to_string());
        match found {
            Ok(jobs) => jobs.into_iter().map(show).collect(),
            Err(error) => vec![format!("{error}")],
        }
    }

    #[test]
    fn outputs_are_beside_the_inputs_or_where_they_are_wanted() {
        assert_eq!(outputs(&["a/b.wasm", "c.wat"], None, None), ["a/b.cwasm", "c.cwasm"]);
        assert_eq!(
            outputs(&["a/b.wasm", "c.wat"], None, Some("out")),
            ["out/b.cwasm", "out/c.cwasm"]
        );
        assert_eq!(outputs(&["a.wasm"], Some("b"), None), ["b"]);
        assert_eq!(outputs(&["-"], Some("-"), None), ["stdout"]);
        let refused = |found: Vec<String>, words| assert!(found[0].contains(words), "{found:?}");
        refused(outputs(&["a", "b"], Some("c"), None), "use `--out-dir`");
        refused(outputs(&["-"], None, None), "use `-o`");
        refused(
            outputs(&["a/x.wasm", "b/x.wat"], None, Some("out")),
            "would both become out/x.cwasm",
        );
    }

    #[test]
    fn names_are_escaped_as_make_reads_them() {
        let escaped = |name: &str| escaped(Path::new(name)).unwrap();
        assert_eq!(escaped("a b#c$d:e%f"), "a\\ b\\#c$$d\\:e%f");
        assert_eq!(escaped("a\\b"), "a\\b");
        assert_eq!(escaped("a\\ b"), "a\\\\\\ b");
        assert!(super::escaped(Path::new("a\nb")).is_err());
    }
}
