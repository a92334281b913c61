//! One error type. Kinds group errors by what the caller can do about them.

use std::fmt;

/// What the caller can do: fix the argument, fix the state, fix the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// A bad argument (`ValueError`).
    Value,
    /// Wrong state or unsupported interpreter (`RuntimeError`).
    Runtime,
    /// A path that cannot be written (`PermissionError`).
    Permission,
    /// The operating system refused (`OSError`).
    Os,
}

#[derive(Clone, Debug)]
pub struct Error {
    pub kind: ErrorKind,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn value(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Value, message: message.into() }
    }
    pub fn runtime(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Runtime, message: message.into() }
    }
    pub fn permission(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Permission, message: message.into() }
    }
    pub fn os(what: &str, source: &std::io::Error) -> Self {
        Self { kind: ErrorKind::Os, message: format!("{what}: {source}") }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
