//! WebAssembly text: turned into a binary before anything else sees it.

use std::borrow::Cow;
use std::path::Path;

use wast::Wat;
use wast::lexer::Lexer;
use wast::parser::{self, ParseBuffer};

use crate::error::CompileError;

/// Turns WebAssembly text into a binary. Input that begins with `\0asm` is a
/// binary, and returned as it is. `file` is what messages call the input.
pub fn parse_text<'a>(bytes: &'a [u8], file: &Path) -> Result<Cow<'a, [u8]>, CompileError> {
    if bytes.starts_with(b"\0asm") {
        return Ok(Cow::Borrowed(bytes));
    }
    let refuse = |line, column, message: String| CompileError::Text {
        file: file.to_owned(),
        line,
        column,
        message,
    };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        refuse(line, column, "the text is not UTF-8".to_owned())
    })?;
    let explain = |error: wast::Error| {
        let (line, column) = error.span().linecol_in(text);
        refuse(line + 1, column + 1, error.message())
    };

    let mut lexer = Lexer::new(text);
    // Names in test suites use every corner of Unicode.
    lexer.allow_confusing_unicode(true);
    let buffer = ParseBuffer::new_with_lexer(lexer).map_err(explain)?;
    let mut wat = parser::parse::<Wat<'_>>(&buffer).map_err(explain)?;
    if matches!(wat, Wat::Component(_)) {
        return Err(CompileError::Component);
    }
    Ok(Cow::Owned(wat.encode().map_err(explain)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &[u8]) -> String {
        parse_text(text, Path::new("dir/app.wat")).unwrap_err().to_string()
    }

    #[test]
    fn errors_have_a_line_and_a_column() {
        let message = refusal(b"(module\n  (func i32.bogus))");
        assert!(message.starts_with("dir/app.wat:2:9: "), "{message}");
        let message = refusal(b"(module (func (call $missing)))");
        assert!(message.starts_with("dir/app.wat:1:21: "), "{message}");
        assert!(message.contains("missing"), "{message}");
        assert_eq!(refusal(b"(module\n\xff)"), "dir/app.wat:2:1: the text is not UTF-8");
        assert!(!refusal(b"").is_empty());
    }

    #[test]
    fn components_are_named_and_binaries_pass() {
        assert!(matches!(parse_text(b"(component)", Path::new("-")), Err(CompileError::Component)));
        assert!(matches!(parse_text(b"\0asm...", Path::new("-")), Ok(Cow::Borrowed(_))));
        assert_eq!(parse_text(b"(module)", Path::new("-")).unwrap().as_ref(), b"\0asm\x01\0\0\0");
    }
}
