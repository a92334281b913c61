//! The self-test: before the first run, our walk and our readers must agree with what Python says of its own frames.

use crate::error::{Error, Result as SpprofResult};
use crate::resolve::Resolver;
use crate::sampler::runtime;
use crate::session;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use spprof_model::Profile;

/// Frames compared: enough to cover every kind, little enough to cost nothing.
const MAX_COMPARED: usize = 64;

static VERDICT: PyOnceLock<SpprofResult<()>> = PyOnceLock::new();

/// The verdict, found once per process. Must be called from Python code, whose frame is the first one compared.
pub fn verdict(py: Python<'_>) -> SpprofResult<()> {
    if let Some(verdict) = VERDICT.get(py) {
        return verdict.clone();
    }
    // Not within an initialiser: the test runs Python code, another thread may fork meanwhile, and its child would wait for
    // an end that never comes. Done twice, it does no harm.
    let verdict = check(py);
    let _ = VERDICT.set(py, verdict.clone());
    verdict
}

fn refuse(what: &str, ours: &str, theirs: &str) -> Error {
    let version = runtime::version().map_or_else(|_| "?".to_owned(), |version| version.text);
    Error::runtime(format!(
        "self-test failed on CPython {version}: {what} reads {ours}, Python says {theirs}. spprof refuses to profile rather \
         than guess; upgrade spprof, or report the output of `spprof doctor`"
    ))
}

fn check(py: Python<'_>) -> SpprofResult<()> {
    let ours = session::walk_own_stack()?;
    let theirs =
        frames(py).map_err(|error| Error::runtime(format!("self-test could not look at the frames: {error}")))?;
    let runtime = runtime::runtime()?;
    let mut resolver = Resolver::new(runtime.layout, runtime.code_type);
    let mut profile = Profile::new(1 << 24);
    if ours.len() < theirs.len().min(MAX_COMPARED) {
        return Err(refuse("the number of frames", &ours.len().to_string(), &theirs.len().to_string()));
    }
    for ((code, offset), python) in ours.into_iter().zip(theirs) {
        if code != python.code {
            return Err(refuse("a frame's code object", &format!("{code:#x}"), &format!("{:#x}", python.code)));
        }
        if offset != python.lasti {
            return Err(refuse("a frame's instruction", &offset.to_string(), &python.lasti.to_string()));
        }
        let (function, line) = resolver.frame(&mut profile, code, offset);
        let function = *profile.function_info(function);
        let name = String::from_utf8_lossy(profile.bytes(function.name)).into_owned();
        if name != python.name {
            return Err(refuse("a function's name", &name, &python.name));
        }
        if python.line.is_some_and(|theirs| theirs != line) {
            return Err(refuse("a frame's line", &line.to_string(), &format!("{:?}", python.line)));
        }
    }
    Ok(())
}

struct PythonFrame {
    code: usize,
    lasti: i64,
    line: Option<u32>,
    name: String,
}

fn frames(py: Python<'_>) -> PyResult<Vec<PythonFrame>> {
    let mut frame = py.import("sys")?.getattr("_getframe")?.call0()?;
    let mut found = Vec::new();
    while !frame.is_none() && found.len() < MAX_COMPARED {
        let code = frame.getattr("f_code")?;
        let name = code.getattr("co_qualname").or_else(|_| code.getattr("co_name"))?;
        found.push(PythonFrame {
            code: code.as_ptr() as usize,
            lasti: frame.getattr("f_lasti")?.extract()?,
            line: frame.getattr("f_lineno")?.extract()?,
            name: name.to_string(),
        });
        frame = frame.getattr("f_back")?;
    }
    Ok(found)
}
