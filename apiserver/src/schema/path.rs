//! A JSON path that grows and shrinks along a walk, so that only an error allocates text.

use std::fmt::Write as _;

/// The path of the node a walk stands at, in the form of `spec.disks[0].name`. Empty at the root.
#[derive(Debug, Default)]
pub(crate) struct Path(String);

impl Path {
    /// The root.
    pub(crate) fn root() -> Self {
        Self::default()
    }

    /// A path that starts at `text`.
    pub(crate) fn at(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// This path as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The text of child `key`, without moving.
    pub(crate) fn child(&self, key: &str) -> String {
        if self.0.is_empty() { key.to_owned() } else { format!("{}.{key}", self.0) }
    }

    /// The text of element `index`, without moving.
    pub(crate) fn index(&self, index: usize) -> String {
        format!("{}[{index}]", self.0)
    }

    /// Runs `f` at child `key`.
    pub(crate) fn with_key<R>(&mut self, key: &str, f: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.0.len();
        if length > 0 {
            self.0.push('.');
        }
        self.0.push_str(key);
        let result = f(self);
        self.0.truncate(length);
        result
    }

    /// Runs `f` at element `index`.
    pub(crate) fn with_index<R>(&mut self, index: usize, f: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.0.len();
        // Writing to a String cannot fail.
        let _ = write!(self.0, "[{index}]");
        let result = f(self);
        self.0.truncate(length);
        result
    }
}
