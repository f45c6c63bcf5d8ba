//! The C compiler and the emulator of a target: building a program, and running it.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cwasm_compiler::wrap_in_object;

use crate::abi;

/// How programs for a target are built and run here.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The target triple.
    pub target: &'static str,
    /// The C compiler.
    compiler: &'static str,
    /// The emulator, if one is needed.
    emulator: Option<&'static str>,
}

/// Every target that there is a way to run here.
pub const MACHINES: [Machine; 3] = [
    Machine { target: "x86_64-unknown-linux-gnu", compiler: "gcc", emulator: None },
    Machine {
        target: "aarch64-unknown-linux-gnu",
        compiler: "aarch64-linux-gnu-gcc",
        emulator: Some("qemu-aarch64"),
    },
    Machine {
        target: "riscv64gc-unknown-linux-gnu",
        compiler: "riscv64-linux-gnu-gcc",
        emulator: Some("qemu-riscv64"),
    },
];

/// A folder with the host, compiled for a target.
#[derive(Debug)]
pub struct Workshop {
    machine: Machine,
    folder: tempfile::TempDir,
}

impl Machine {
    /// What is not installed that would be needed.
    #[must_use]
    pub fn lacks(&self) -> Option<&'static str> {
        let runs = |program: &str| Command::new(program).arg("--version").output().is_ok();
        [Some(self.compiler), self.emulator].into_iter().flatten().find(|program| !runs(program))
    }

    /// Compiles the host.
    ///
    /// # Errors
    /// If there is no compiler, or it complains.
    pub fn prepare(&self) -> io::Result<Workshop> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("abi.h"), abi::header())?;
        fs::write(folder.path().join("host.c"), include_str!("../host/host.c"))?;
        let workshop = Workshop { machine: self.clone(), folder };
        workshop
            .compile(&["-c", "-Wall", "-Wextra", "-Werror", "-O1", "host.c", "-o", "host.o"])?;
        Ok(workshop)
    }
}

impl Workshop {
    fn compile<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> io::Result<()> {
        let output = Command::new(self.machine.compiler)
            .current_dir(self.folder.path())
            .args(arguments)
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{}: {}",
            self.machine.compiler,
            String::from_utf8_lossy(&output.stderr)
        )))
    }

    /// Links artifacts with the host, runs the program with `commands` as its input, and returns its output.
    ///
    /// # Errors
    /// If it cannot be linked or started, or if it fails.
    pub fn run(&self, name: &str, artifacts: &[Vec<u8>], commands: &str) -> io::Result<String> {
        let folder = self.folder.path().join(name.replace(['/', '.'], "_"));
        fs::create_dir_all(&folder)?;
        let program = self.link(&folder, artifacts)?;
        let mut command = match self.machine.emulator {
            None => Command::new(&program),
            Some(emulator) => {
                let mut command = Command::new(emulator);
                command.arg(&program);
                command
            }
        };
        let pipe = Stdio::piped;
        let mut child = command.stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn()?;
        let mut input = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let commands = commands.to_owned();
        let writer = std::thread::spawn(move || {
            // One that ends early is noticed by its status.
            let _ = input.write_all(commands.as_bytes());
        });
        let output = child.wait_with_output()?;
        let _ = writer.join();
        fs::remove_dir_all(folder)?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("{}: {}", output.status, errors.trim())));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn link(&self, folder: &Path, artifacts: &[Vec<u8>]) -> io::Result<PathBuf> {
        let mut declarations = String::from("struct linked { const void *bytes, *size; };\n");
        let mut table = String::new();
        let mut arguments: Vec<OsString> = vec!["-static".into(), "host.o".into()];
        for (number, artifact) in artifacts.iter().enumerate() {
            let symbol = format!("module_{number}");
            let object = wrap_in_object(artifact, &symbol).map_err(io::Error::other)?;
            let path = folder.join(format!("{symbol}.o"));
            fs::write(&path, object)?;
            arguments.push(path.into());
            declarations += &format!("extern const char {symbol}[], {symbol}_size[];\n");
            table += &format!("{{ {symbol}, {symbol}_size }}, ");
        }
        let modules = folder.join("modules.c");
        let count = artifacts.len();
        let text = format!(
            "{declarations}const struct linked linked_modules[] = {{ {table} {{ 0, 0 }} }};\n\
             const unsigned linked_count = {count};\n"
        );
        fs::write(&modules, text)?;
        let program = folder.join("program");
        arguments.extend([modules.into(), "-o".into(), program.clone().into()]);
        self.compile(&arguments)?;
        Ok(program)
    }
}
