//! A specification script for the host in C: the artifacts of its modules, commands, and what
//! must be answered.
//!
//! What a script asserts about modules that are not valid is left out: that does not depend on the target.

use std::collections::HashMap;
use std::fmt::Write as _;

use cwasm_artifact::abi::traps::Trap;
use cwasm_compiler::{Settings, compile};
use cwasm_wast::expect;
use wast::core::{WastArgCore, WastRetCore};
use wast::lexer::Lexer;
use wast::parser::{ParseBuffer, parse};
use wast::token::Id;
use wast::{QuoteWat, Wast, WastArg, WastDirective, WastExecute, WastInvoke, WastRet};

use crate::machine::Workshop;

/// Runs a script; returns how many assertions held.
///
/// # Errors
/// What did not hold, one line each, at most twenty.
pub fn run(
    workshop: &Workshop,
    name: &str,
    source: &str,
    settings: &Settings,
) -> Result<usize, String> {
    let mut lexer = Lexer::new(source);
    lexer.allow_confusing_unicode(true);
    let buffer = ParseBuffer::new_with_lexer(lexer).map_err(|error| error.to_string())?;
    let script = parse::<Wast<'_>>(&buffer).map_err(|error| error.to_string())?;
    let mut plan = Plan::new(settings);
    for directive in script.directives {
        let line = directive.span().linecol_in(source).0 + 1;
        plan.add(line, directive).map_err(|message| format!("{name}:{line}: {message}"))?;
    }
    if plan.steps.is_empty() {
        return Ok(0);
    }
    let output = workshop
        .run(name, &plan.artifacts, &plan.commands)
        .map_err(|error| format!("{name}: {error}"))?;
    let answers: Vec<&str> = output.lines().collect();
    if answers.len() != plan.steps.len() {
        let (given, wanted) = (answers.len(), plan.steps.len());
        return Err(format!("{name}: {given} answers to {wanted} commands"));
    }
    let mut held = 0;
    let mut failures = String::new();
    for (step, answer) in plan.steps.iter().zip(answers) {
        if step.wanted.is(answer) {
            held += usize::from(step.is_assertion);
        } else if failures.lines().count() < 20 {
            let _ = writeln!(failures, "{name}:{}: {answer}, and not {:?}", step.line, step.wanted);
        }
    }
    if failures.is_empty() { Ok(held) } else { Err(failures) }
}

/// What must be answered to a command.
struct Step<'a> {
    line: usize,
    is_assertion: bool,
    wanted: Wanted<'a>,
}

#[derive(Debug)]
enum Wanted<'a> {
    Success,
    Values(Vec<WastRet<'a>>),
    Trap(&'a str),
}

struct Plan<'a, 's> {
    settings: &'s Settings,
    artifacts: Vec<Vec<u8>>,
    commands: String,
    steps: Vec<Step<'a>>,
    /// How many `instance` commands there are.
    instances: usize,
    current: Option<usize>,
    by_name: HashMap<&'a str, usize>,
    definitions: HashMap<Option<&'a str>, usize>,
}

impl<'a, 's> Plan<'a, 's> {
    fn new(settings: &'s Settings) -> Self {
        Self {
            settings,
            artifacts: Vec::new(),
            commands: String::new(),
            steps: Vec::new(),
            instances: 0,
            current: None,
            by_name: HashMap::new(),
            definitions: HashMap::new(),
        }
    }

    fn step(&mut self, line: usize, is_assertion: bool, wanted: Wanted<'a>, command: &str) {
        self.commands.push_str(command);
        self.commands.push('\n');
        self.steps.push(Step { line, is_assertion, wanted });
    }

    fn add(&mut self, line: usize, directive: WastDirective<'a>) -> Result<(), String> {
        match directive {
            WastDirective::Module(mut module) => {
                let name = module.name();
                let artifact = self.define(&mut module)?;
                self.instantiate(line, artifact, name);
            }
            WastDirective::ModuleDefinition(mut module) => {
                self.define(&mut module)?;
            }
            WastDirective::ModuleInstance { instance, module, .. } => {
                let artifact = self.definitions.get(&module.map(|id| id.name()));
                let artifact = *artifact.ok_or("there is no such definition")?;
                self.instantiate(line, artifact, instance);
            }
            WastDirective::Register { name, module, .. } => {
                let instance = self.instance(module)?;
                let command = format!("register {instance} {}", hex(name));
                self.step(line, false, Wanted::Success, &command);
            }
            WastDirective::Invoke(invoke) => {
                let command = self.call(&invoke, 0)?;
                self.step(line, false, Wanted::Success, &command);
            }
            WastDirective::AssertReturn { exec, results, .. } => {
                let command = self.execute(exec, results.len())?;
                self.step(line, true, Wanted::Values(results), &command);
            }
            WastDirective::AssertTrap { exec, message, .. } => {
                let command = self.execute(exec, 0)?;
                self.step(line, true, Wanted::Trap(message), &command);
            }
            WastDirective::AssertExhaustion { call, message, .. } => {
                let command = self.call(&call, 0)?;
                self.step(line, true, Wanted::Trap(message), &command);
            }
            WastDirective::AssertInvalid { .. }
            | WastDirective::AssertMalformed { .. }
            | WastDirective::AssertInvalidCustom { .. }
            | WastDirective::AssertMalformedCustom { .. }
            | WastDirective::AssertUnlinkable { .. } => {}
            _ => return Err("the host in C does not know this directive".into()),
        }
        Ok(())
    }

    fn define(&mut self, module: &mut QuoteWat<'a>) -> Result<usize, String> {
        let name = module.name();
        let wasm = module.encode().map_err(|error| error.to_string())?;
        let number = self.compile(&wasm)?;
        self.definitions.insert(None, number);
        if let Some(id) = name {
            self.definitions.insert(Some(id.name()), number);
        }
        Ok(number)
    }

    fn compile(&mut self, wasm: &[u8]) -> Result<usize, String> {
        let artifact = compile(wasm, self.settings).map_err(|error| error.to_string())?;
        self.artifacts.push(artifact);
        Ok(self.artifacts.len() - 1)
    }

    fn instantiate(&mut self, line: usize, artifact: usize, name: Option<Id<'a>>) {
        self.step(line, false, Wanted::Success, &format!("instance {artifact}"));
        self.current = Some(self.instances);
        if let Some(id) = name {
            self.by_name.insert(id.name(), self.instances);
        }
        self.instances += 1;
    }

    fn instance(&self, module: Option<Id<'_>>) -> Result<usize, String> {
        let instance = match module {
            Some(id) => self.by_name.get(id.name()).copied(),
            None => self.current,
        };
        instance.ok_or_else(|| "there is no such instance".to_owned())
    }

    fn execute(&mut self, exec: WastExecute<'a>, results: usize) -> Result<String, String> {
        match exec {
            WastExecute::Invoke(invoke) => self.call(&invoke, results),
            WastExecute::Get { module, global, .. } => {
                Ok(format!("get {} {}", self.instance(module)?, hex(global)))
            }
            WastExecute::Wat(mut module) => {
                let wasm = module.encode().map_err(|error| error.to_string())?;
                let artifact = self.compile(&wasm)?;
                self.instances += 1;
                Ok(format!("instance {artifact}"))
            }
        }
    }

    fn call(&self, invoke: &WastInvoke<'_>, results: usize) -> Result<String, String> {
        let instance = self.instance(invoke.module)?;
        let count = invoke.args.len();
        let mut command = format!("call {instance} {} {results} {count}", hex(invoke.name));
        for argument in &invoke.args {
            let _ = write!(command, " {:032x}", bits_of(argument)?);
        }
        Ok(command)
    }
}

/// A name as the host reads it.
fn hex(name: &str) -> String {
    name.bytes().fold("x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// An argument, as the bits of a slot. A reference to a host value is its number plus one.
fn bits_of(argument: &WastArg<'_>) -> Result<u128, String> {
    let WastArg::Core(argument) = argument else {
        return Err("an argument is not one of core wasm".into());
    };
    Ok(match argument {
        WastArgCore::I32(value) => value.cast_unsigned().into(),
        WastArgCore::I64(value) => value.cast_unsigned().into(),
        WastArgCore::F32(value) => value.bits.into(),
        WastArgCore::F64(value) => value.bits.into(),
        WastArgCore::V128(value) => u128::from_le_bytes(value.to_le_bytes()),
        WastArgCore::RefNull(_) => 0,
        WastArgCore::RefExtern(number) | WastArgCore::RefHost(number) => u128::from(*number) + 1,
    })
}

impl Wanted<'_> {
    fn is(&self, answer: &str) -> bool {
        let mut words = answer.split(' ');
        match (self, words.next()) {
            (Self::Success, Some("ok")) => true,
            (Self::Values(wanted), Some("ok")) => {
                let found: Vec<u128> =
                    words.map_while(|word| u128::from_str_radix(word, 16).ok()).collect();
                found.len() == wanted.len()
                    && found.iter().zip(wanted).all(|(found, wanted)| match wanted {
                        WastRet::Core(wanted) => matches(*found, wanted),
                        _ => false,
                    })
            }
            (Self::Trap(wanted), Some("trap")) => {
                let trap = words.next().and_then(|code| Trap::from_code(code.parse().ok()?));
                trap.is_some_and(|trap| expect::trap_matches(trap, wanted))
            }
            _ => false,
        }
    }
}

fn matches(found: u128, wanted: &WastRetCore<'_>) -> bool {
    // A reference is a pointer.
    let reference = u64::from_le_bytes(std::array::from_fn(|at| found.to_le_bytes()[at]));
    match wanted {
        WastRetCore::RefNull(_) => reference == 0,
        WastRetCore::RefFunc(_) | WastRetCore::RefExtern(None) => reference != 0,
        WastRetCore::RefExtern(Some(number)) => reference == u64::from(*number) + 1,
        WastRetCore::Either(any) => any.iter().any(|wanted| matches(found, wanted)),
        number => expect::bits_match(found, number),
    }
}
