//! Ending a program that runs too long.

use std::io::Write as _;
use std::thread;
use std::time::Duration;

use cwasm_loader::Engine;

use crate::outcome::TRAPPED;

/// How long a program that is interrupted may stay in a host function, which
/// cannot be interrupted, before the process ends under it.
const GRACE: Duration = Duration::from_secs(1);

/// Advances the engine's epoch after `limit`, which stops wasm code; and ends
/// the process if that is of no use, because the program waits in the host.
pub(crate) fn start(engine: &Engine, limit: Duration) -> std::io::Result<()> {
    let engine = engine.clone();
    thread::Builder::new().name("cwasm-watchdog".to_owned()).spawn(move || {
        thread::sleep(limit);
        engine.increment_epoch();
        thread::sleep(GRACE);
        let _ = writeln!(
            std::io::stderr(),
            "cwasm: the program was waiting in a host function when its `--timeout` was over"
        );
        std::process::exit(i32::from(TRAPPED));
    })?;
    Ok(())
}

/// A duration as it is typed: `500ms`, `10s`, `2m`, `1h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a duration is a number and a unit: 500ms, 10s, 2m, 1h".to_owned()),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{digits:?} is not a whole number that fits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in
            ["", "5", "s", "-1s", "1.5s", "1d", "99999999999999999999s", "6000000000000000h"]
        {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
