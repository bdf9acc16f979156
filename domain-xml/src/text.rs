//! The one gate for strings on their way into XML.
//!
//! quick-xml escapes markup, but writes control characters raw, and XML 1.0 cannot carry them at all: not even escaped. libvirt would refuse such a
//! document with a parser error that names a line; here the field is named.

use std::fmt;
use std::path::Path;

use crate::RenderError;

/// Passes a text that XML 1.0 can carry and that reads back as it was.
///
/// Line breaks and tabs are refused too: none of our fields has a use for them, and attribute values would lose them.
///
/// # Errors
/// [`RenderError::IllegalCharacter`], naming `field`.
pub(crate) fn check_text<'a>(field: &dyn fmt::Display, text: &'a str) -> Result<&'a str, RenderError> {
    match text.chars().find(|&c| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')) {
        None => Ok(text),
        Some(character) => Err(RenderError::IllegalCharacter { field: field.to_string(), code: u32::from(character) }),
    }
}

/// Passes an absolute path that is text and reads as it is written: without `.`, `..` or an empty part.
///
/// # Errors
/// [`RenderError::IllegalPath`] or [`RenderError::IllegalCharacter`], naming `field`.
pub(crate) fn check_path<'a>(field: &dyn fmt::Display, path: &'a Path) -> Result<&'a str, RenderError> {
    let is_plain = |text: &&str| {
        text.strip_prefix('/').is_some_and(|rest| !rest.split('/').any(|part| matches!(part, "" | "." | "..")))
    };
    match path.to_str().filter(is_plain) {
        Some(text) => check_text(field, text),
        None => Err(RenderError::IllegalPath { field: field.to_string(), path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_refused_and_named() {
        for hostile in ["a\0b", "a\nb", "a\tb", "\u{1b}[2J", "\u{7f}", "\u{85}", "\u{fffe}", "\u{ffff}"] {
            let error = check_text(&"timezone", hostile).expect_err(hostile);
            assert!(error.to_string().starts_with("field timezone "), "{error}");
        }
    }

    #[test]
    fn other_text_passes_as_it_is() {
        for text in ["", "a b", "</domain>", "\"'&<>", "😀", "é"] {
            assert_eq!(check_text(&"x", text).expect(text), text);
        }
    }

    #[test]
    fn only_plain_absolute_paths_pass() {
        for path in ["/a", "/var/lib/ovm/a.img", "/a b/..c"] {
            assert_eq!(check_path(&"x", Path::new(path)).expect(path), path);
        }
        for path in ["", "/", "a.img", "/a/../b", "/a/./b", "/a//b", "/a/", "../a", "./a", "/a\nb"] {
            check_path(&"x", Path::new(path)).expect_err(path);
        }
    }
}
