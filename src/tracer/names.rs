//! What a code object says of itself, by the interpreter's own interface. Runs Python code; called with no lock held.
#![forbid(unsafe_code)]

use super::registry::Entry;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use spprof_model::FunctionKind;

const CO_GENERATOR: u32 = 0x20;
const CO_COROUTINE: u32 = 0x80;
const CO_ITERABLE_COROUTINE: u32 = 0x100;
const CO_ASYNC_GENERATOR: u32 = 0x200;

/// Describes `code`; `globals` are those it runs with, where they are known.
pub fn describe(code: &Bound<'_, PyAny>, globals: Option<&Bound<'_, PyAny>>) -> PyResult<Entry> {
    let name = match code.getattr_opt("co_qualname")? {
        Some(name) => wtf8(&name)?,
        // CPYTHON 3.9, 3.10: found later, by the functions that have this code.
        None => wtf8(&code.getattr("co_name")?)?,
    };
    let table = code.getattr_opt("co_linetable")?.map_or_else(|| code.getattr("co_lnotab"), Ok)?;
    let discriminator = fnv1a(fnv1a(FNV_OFFSET, &name), table.cast::<PyBytes>().map_or(&[], |table| table.as_bytes()));
    Ok(Entry {
        file: wtf8(&code.getattr("co_filename")?)?,
        module: globals.map_or_else(Vec::new, module_of),
        first_line: code
            .getattr("co_firstlineno")?
            .extract::<i64>()
            .map_or(0, |line| line.clamp(0, i64::from(u32::MAX)) as u32),
        kind: kind(code.getattr("co_flags")?.extract().unwrap_or(0)),
        name,
        discriminator,
        object: code.as_ptr() as usize,
    })
}

fn kind(flags: u32) -> FunctionKind {
    if flags & (CO_COROUTINE | CO_ITERABLE_COROUTINE) != 0 {
        FunctionKind::Coroutine
    } else if flags & CO_ASYNC_GENERATOR != 0 {
        FunctionKind::AsyncGenerator
    } else if flags & CO_GENERATOR != 0 {
        FunctionKind::Generator
    } else {
        FunctionKind::Python
    }
}

fn module_of(globals: &Bound<'_, PyAny>) -> Vec<u8> {
    globals.get_item("__name__").ok().and_then(|name| wtf8(&name).ok()).unwrap_or_default()
}

/// A string as the model keeps it. Anything else has no name.
pub fn wtf8(text: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let Ok(text) = text.cast::<PyString>() else { return Ok(Vec::new()) };
    match text.to_cow() {
        Ok(text) => Ok(text.into_owned().into_bytes()),
        Err(_) => text.call_method1("encode", ("utf-8", "surrogatepass"))?.extract(),
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// As the sampler tells functions apart, so that both speak of the same ones.
fn fnv1a(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
