//! Takes commands from standard input, a line each:
//!
//! ```text
//! load NAME PATH DIGEST       adds or replaces a module
//! call NAME FUNCTION [I32]... starts a request on a thread of its own
//! wait                        until all requests have ended
//! unload NAME
//! ```

use std::io::{BufRead as _, stdin};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;

use cwasm_loader::{Artifact, Digest, Trust, Val};
use hot_swap::Modules;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let modules = Arc::new(Modules::default());
    let mut requests = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for line in stdin().lock().lines() {
        let result = line.map_err(Failure::from).and_then(|line| {
            command(&modules, &mut requests, &line.split_whitespace().collect::<Vec<_>>())
        });
        if let Err(error) = result {
            eprintln!("hot-swap: {error}");
            code = ExitCode::FAILURE;
        }
    }
    wait(&mut requests);
    code
}

fn command(
    modules: &Arc<Modules>,
    requests: &mut Vec<JoinHandle<()>>,
    words: &[&str],
) -> Result<(), Failure> {
    match words {
        [] => {}
        ["load", name, path, digest] => {
            let trust = Trust::digest(digest.parse::<Digest>()?);
            modules.replace(name, Artifact::load(path, &trust)?);
        }
        ["unload", name] if modules.remove(name) => {}
        ["wait"] => wait(requests),
        ["call", name, function, args @ ..] => {
            let (name, function) = ((*name).to_owned(), (*function).to_owned());
            let args = args.iter().map(|arg| arg.parse()).collect::<Result<Vec<i32>, _>>()?;
            let modules = Arc::clone(modules);
            requests.push(std::thread::spawn(move || {
                let args: Vec<_> = args.into_iter().map(Val::I32).collect();
                match modules.request(&name, &function, &args) {
                    Ok(results) => println!("{name} {function}: {results:?}"),
                    Err(error) => eprintln!("hot-swap: {error}"),
                }
            }));
        }
        other => return Err(format!("cannot do `{}`", other.join(" ")).into()),
    }
    Ok(())
}

fn wait(requests: &mut Vec<JoinHandle<()>>) {
    for request in requests.drain(..) {
        // A request that panicked has said so.
        let _ = request.join();
    }
}
