//! Compiles the C of the heap profiler: the hooks that are part of the extension, and the library for LD_PRELOAD, which
//! maturin puts into the wheel from OUT_DIR (pyproject.toml).

use std::path::PathBuf;
use std::process::Command;

const SOURCES: [&str; 8] = [
    "interpose/spprof_alloc.h",
    "interpose/hooks.def",
    "interpose/front.h",
    "interpose/hooks.c",
    "interpose/preload.c",
    "c_shim/in_process.c",
    "c_shim/python_allocators.h",
    "build.rs",
];
const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Werror=implicit-function-declaration", "-fvisibility=hidden"];

fn compiler() -> cc::Build {
    let mut build = cc::Build::new();
    // Always optimised: the hooks are in the way of every allocation, in debug builds too.
    build.opt_level(2).pic(true).warnings(false);
    for flag in WARNINGS {
        build.flag(flag);
    }
    build
}

fn main() {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    compiler().file("c_shim/in_process.c").compile("spprof_in_process");

    let out: PathBuf = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR").into();
    let library = out.join("libspprof_alloc.so");
    let mut command: Command = compiler().get_compiler().to_command();
    command.args(["-shared", "-Wl,-z,now", "-Wl,-z,relro", "-Wl,-soname,libspprof_alloc.so", "-o"]);
    command.arg(&library).args(["interpose/preload.c", "-ldl"]);
    let status = command.status().expect("a C compiler is needed to build spprof");
    assert!(status.success(), "{command:?} failed");
}
