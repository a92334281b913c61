//! The interpreter in this process: its version, its layout row, the symbols the walk needs. Found once, by `dlsym`.

use crate::error::{Error, Result};
use spprof_model::Metadata;
use spprof_sigsafe::layout::Layout;
use spprof_sigsafe::zone::{Runtime, TstateGetter};
use std::ffi::{CStr, OsStr, c_char};
use std::sync::OnceLock;

/// The version as CPython prints it, e.g. `3.12.1`.
#[derive(Clone, Debug)]
pub struct Version {
    pub text: String,
    pub minor: u8,
    pub free_threaded: bool,
}

/// The address of an exported symbol of the process, or `None`.
#[must_use]
pub fn symbol(name: &CStr) -> Option<usize> {
    // SAFETY: a NUL-terminated name; dlsym has no other precondition.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!address.is_null()).then_some(address as usize)
}

fn required(name: &'static CStr) -> Result<usize> {
    symbol(name).ok_or_else(|| {
        Error::runtime(format!(
            "spprof needs the symbol {} of the running CPython, which it does not export; \
             run `spprof doctor` and report the output",
            name.to_string_lossy()
        ))
    })
}

/// Reads the interpreter's own version string.
pub fn version() -> Result<Version> {
    let get_version = required(c"Py_GetVersion")?;
    // SAFETY: `const char *Py_GetVersion(void)`, callable at any time; the result is a static string.
    let text = unsafe {
        let get_version: extern "C" fn() -> *const c_char = std::mem::transmute(get_version);
        CStr::from_ptr(get_version()).to_string_lossy().into_owned()
    };
    parse_version(&text).ok_or_else(|| Error::runtime(format!("cannot understand the interpreter's version {text:?}")))
}

fn parse_version(text: &str) -> Option<Version> {
    let number = text.split_whitespace().next()?;
    let mut parts = number.split('.');
    if parts.next()? != "3" {
        return None;
    }
    Some(Version {
        text: number.trim_end_matches('+').to_owned(),
        minor: parts.next()?.parse().ok()?,
        free_threaded: text.contains("free-threading"),
    })
}

static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// The runtime of this process; an error says which version or symbol is the trouble.
pub fn runtime() -> Result<&'static Runtime> {
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let found = find()?;
    Ok(RUNTIME.get_or_init(|| found))
}

fn find() -> Result<Runtime> {
    let version = version()?;
    let build = if version.free_threaded { " (free-threaded)" } else { "" };
    let layout = Layout::find(version.minor, version.free_threaded).ok_or_else(|| {
        Error::runtime(format!(
            "spprof {} does not know the frame layout of CPython {}{build}; it supports 3.9 to 3.15 and free-threaded \
             3.13 to 3.15. Upgrade spprof, or profile with a supported Python",
            env!("CARGO_PKG_VERSION"),
            version.text
        ))
    })?;
    super::debug_offsets::check(layout)?;
    // CPYTHON 3.13: renamed. Not the other way round: an extension may define the old name for itself.
    let unchecked = match symbol(c"PyThreadState_GetUnchecked") {
        Some(address) => address,
        None => required(c"_PyThreadState_UncheckedGet")?,
    };
    let gilstate = required(c"PyGILState_GetThisThreadState")?;
    // SAFETY: both are `PyThreadState *f(void)`.
    let (gilstate, unchecked) = unsafe {
        (std::mem::transmute::<usize, TstateGetter>(gilstate), std::mem::transmute::<usize, TstateGetter>(unchecked))
    };
    Ok(Runtime {
        layout,
        code_type: required(c"PyCode_Type")?,
        gilstate,
        unchecked,
        eval: symbol(c"_PyEval_EvalFrameDefault").unwrap_or(0),
    })
}

/// What a profile says of the process it is taken from.
pub fn describe_process(meta: &mut Metadata) {
    if let Ok(system) = nix::sys::utsname::uname() {
        let text = |part: &OsStr| part.to_string_lossy().into_owned();
        meta.platform = format!("{}-{}-{}", text(system.sysname()), text(system.release()), text(system.machine()));
    }
    meta.python_version = version().map(|version| version.text).unwrap_or_default();
    meta.pid = std::process::id();
    let line = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    let line = line.strip_suffix(b"\0").unwrap_or(&line);
    meta.argv = line.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version strings of releases, development builds and free-threaded builds.
    #[test]
    fn versions_parse() {
        let plain = parse_version("3.12.1 (main, Jan  1 2026, 00:00:00) [GCC 12.2.0]").unwrap();
        assert_eq!((plain.text.as_str(), plain.minor, plain.free_threaded), ("3.12.1", 12, false));
        let free = parse_version("3.13.5 experimental free-threading build (main, ...) [GCC]").unwrap();
        assert_eq!((free.minor, free.free_threaded), (13, true));
        assert_eq!(parse_version("3.15.0+ free-threading build (x)").unwrap().text, "3.15.0");
        assert!(parse_version("2.7.18 (default)").is_none());
        assert!(parse_version("").is_none());
    }
}
