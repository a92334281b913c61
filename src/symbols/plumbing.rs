//! Functions of the interpreter that only carry a call, or start the interpreter: a stack that shows the Python frames says
//! the same without them. They are told by name, and only in the module that defines the interpreter's loop; where that has no
//! symbols nothing is folded. What does work of its own, such as `PyObject_GetAttr` or `list_sort_impl`, is not among them.

/// Calls from Python to Python or C. A trailing `*` stands for any ending.
const CALLS: [&str; 45] = [
    "_PyEval_EvalCode",
    "_PyEval_EvalCodeWithName",
    "_PyEval_EvalFrame",
    "_PyEval_EvalFrameDefault",
    "_PyEval_Vector",
    "_PyFunction_Vectorcall",
    "_PyObject_CallFunction*",
    "_PyObject_CallMethod*",
    "_PyObject_CallNoArg*",
    "_PyObject_Call",
    "_PyObject_Call_Prepend",
    "_PyObject_FastCall*",
    "_PyObject_MakeTpCall",
    "_PyObject_Vectorcall*",
    "_PyVectorcall_Call",
    "_Py_trampoline_func_start",
    "PyCFunction_Call",
    "PyEval_CallObjectWithKeywords",
    "PyEval_EvalCode",
    "PyEval_EvalCodeEx",
    "PyEval_EvalFrame",
    "PyEval_EvalFrameEx",
    "PyObject_Call",
    "PyObject_CallFunction*",
    "PyObject_CallMethod*",
    "PyObject_CallNoArgs",
    "PyObject_CallObject",
    "PyObject_CallOneArg",
    "PyObject_Vectorcall*",
    "PyVectorcall_Call",
    "call_function",
    "cfunction_call",
    "cfunction_vectorcall_*",
    "do_call_core",
    "function_code_fastcall",
    "gen_send_ex",
    "gen_send_ex2",
    "instancemethod_call",
    "method_call",
    "method_vectorcall*",
    "object_vacall",
    "py_trampoline_evaluator",
    "trace_call_function",
    "vectorcall_maybe",
    "vectorcall_method",
];

/// From the start of a program or thread to its first Python frame.
const STARTS: [&str; 16] = [
    "Py_BytesMain",
    "Py_Main",
    "Py_RunMain",
    "PyRun_*",
    "_PyRun_*",
    "main",
    "pymain_*",
    "pyrun_file",
    "pyrun_simple_file",
    "pythread_wrapper",
    "run_eval_code_obj",
    "run_mod",
    "t_bootstrap",
    "thread_run",
    "PyThread_start_new_thread",
    "bootstrap_thread",
];

/// Those of `STARTS` that whatever called them only called in order to start the interpreter.
const ENTRIES: [&str; 5] = ["Py_BytesMain", "Py_Main", "pymain_main", "pythread_wrapper", "main"];

/// How libc starts a program or a thread.
const LIBC_STARTS: [&str; 8] = [
    "_start",
    "__libc_start_main",
    "__libc_start_main_impl",
    "__libc_start_call_main",
    "clone",
    "clone3",
    "__clone3",
    "start_thread",
];

/// The symbol that the interpreter's module defines, and no other.
pub const LOOP: &str = "_PyEval_EvalFrameDefault";

/// Whether a function of the interpreter's module is left out of stacks.
#[must_use]
pub fn is_plumbing(name: &str) -> bool {
    CALLS.iter().chain(&STARTS).any(|pattern| matches(pattern, name))
}

/// Whether a function of the interpreter's module is where a program or thread of Python begins.
#[must_use]
pub fn is_entry(name: &str) -> bool {
    ENTRIES.contains(&name)
}

/// Whether a function of libc or of the program itself is how programs and threads of any kind begin.
#[must_use]
pub fn is_start(name: &str) -> bool {
    name == "main" || LIBC_STARTS.contains(&name)
}

/// Compilers make copies of functions and say so behind a dot: `name.constprop.0`. A stub does no more than what it leads to.
fn matches(pattern: &str, name: &str) -> bool {
    let name = name.split(['.', '@']).next().unwrap_or(name);
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::{is_entry, is_plumbing};

    /// What carries calls is told from what works, by whole names.
    #[test]
    fn calls_and_work() {
        for name in [
            "_PyEval_EvalFrameDefault",
            "PyObject_Vectorcall",
            "_PyEval_Vector.constprop.0",
            "pymain_run_file",
            "PyObject_Call@plt",
        ] {
            assert!(is_plumbing(name), "{name}");
        }
        for name in ["list_sort_impl", "PyObject_GetAttr", "PyObject_CallFinalizer", "type_call", "mainloop", "PyEval"]
        {
            assert!(!is_plumbing(name), "{name}");
        }
        assert!(is_entry("pythread_wrapper") && !is_entry("PyRun_SimpleString"));
    }
}
