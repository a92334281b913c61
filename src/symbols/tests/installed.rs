//! Libraries as they are installed: some thousand addresses of each, against what binutils say.

mod compile;

use compile::{addr2line, resolved, run};
use object::{Object, ObjectSection};
use spprof_symbols::{File, resolve};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const ADDRESSES: u64 = 3000;

/// Spread over the code, the same on every run.
fn addresses(file: &Path) -> Vec<u64> {
    let bytes = std::fs::read(file).unwrap();
    let parsed = object::File::parse(&*bytes).unwrap();
    let text = parsed.section_by_name(".text").unwrap();
    let mut state = 7_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.address() + (state >> 33) % text.size()
    };
    (0..ADDRESSES).map(|_| next()).collect()
}

/// (start, end, name) of the functions that `nm` lists with a size.
fn sized_functions(file: &Path) -> Vec<(u64, u64, String)> {
    let mut all = Vec::new();
    for table in [&["-S"][..], &["-S", "-D"]] {
        let text = run(Command::new("nm").args(["--defined-only", "--without-symbol-versions"]).args(table).arg(file));
        for line in text.lines() {
            let [start, size, kind, name] = line.split_whitespace().collect::<Vec<_>>()[..] else { continue };
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            if "tTwWiu".contains(kind) {
                all.push((number(start), number(start) + number(size), name.to_owned()));
            }
        }
    }
    all
}

/// libpython of the machine's default Python, or the interpreter that holds it.
fn interpreter() -> PathBuf {
    let script = "import os, sys, sysconfig\n\
        v = sysconfig.get_config_var\n\
        shared = os.path.join(v('LIBDIR') or '', v('INSTSONAME') or v('LDLIBRARY') or '')\n\
        print(shared if '.so' in shared and os.path.exists(shared) else os.path.realpath(sys.executable))";
    PathBuf::from(run(Command::new("python3").args(["-c", script])).trim())
}

fn libc() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.contains("/libc.so.6") || line.contains("/libc-2")).unwrap();
    PathBuf::from(&line[line.find('/').unwrap()..])
}

/// A name is given exactly where a function with a size covers the address, and it is that function's; elsewhere an offset
/// that lies before the address. (Functions without a size, and stubs, have tests of their own.)
#[test]
fn names_are_of_functions_that_cover_the_address() {
    for file in [libc(), interpreter()] {
        let functions = sized_functions(&file);
        let addresses = addresses(&file);
        let found = resolved(&file, &addresses, &[]).places;
        let mut named = 0;
        for (&address, places) in addresses.iter().zip(&found) {
            let covering: BTreeSet<&str> = functions
                .iter()
                .filter(|(start, end, _)| (*start..*end).contains(&address))
                .map(|(_, _, name)| name.split(".cold").next().unwrap())
                .collect();
            let outer = places.last().unwrap();
            let what = format!("{}: {address:#x}: {outer:?} of {covering:?}", file.display());
            assert!(
                outer.start <= address || functions.iter().any(|(_, _, name)| *name == format!("{}.cold", outer.name)),
                "{what}"
            );
            if covering.is_empty() {
                let unsized_ = !functions.iter().any(|(_, _, name)| *name == outer.name);
                assert!(!outer.known || unsized_ || places.len() > 1 || outer.line > 0, "{what}");
            } else {
                named += 1;
                assert!(outer.known, "{what}");
                let base = |name: &str| name.split('.').next().unwrap().to_owned();
                assert!(covering.iter().any(|name| base(name) == base(&outer.name)), "{what}");
            }
        }
        assert!(named > ADDRESSES / 10, "{}: only {named} addresses have a function", file.display());
    }
}

/// Functions, inlined ones and lines of an interpreter with debug information. (Without it there are none to compare.)
#[test]
fn lines_as_binutils_tell_them() {
    let file = interpreter();
    // Of the bytes between functions, which never run, binutils say what is before.
    let functions = sized_functions(&file);
    let is_code = |address: &u64| functions.iter().any(|(start, end, _)| (*start..*end).contains(address));
    let addresses: Vec<u64> = addresses(&file).into_iter().filter(is_code).collect();
    let found = resolved(&file, &addresses, &[]).places;
    let (mut inlined, mut lines) = (0, 0);
    for ((&address, expected), found) in addresses.iter().zip(addr2line(&file, &addresses)).zip(found) {
        let what = format!("{}: {address:#x}: {found:?}, binutils: {expected:?}", file.display());
        if expected.last().is_none_or(|(_, source, _)| source == "??") {
            continue;
        }
        assert_eq!(found.len(), expected.len(), "{what}");
        // (Not the files: binutils 2.40 take the wrong row of the table of files for some headers. tests/compiled.rs has them.)
        for (found, (name, _, line)) in found.iter().zip(&expected) {
            assert_eq!((&found.name, found.line), (name, *line), "{what}");
        }
        inlined += usize::from(found.len() > 1);
        lines += 1;
    }
    println!("{}: {lines} with lines, {inlined} of them inlined", file.display());
}

/// The kernel's own page: the functions that it exports.
#[test]
fn vdso() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let Some(line) = maps.lines().find(|line| line.ends_with("[vdso]")) else { return };
    let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
    let number = |text| usize::from_str_radix(text, 16).unwrap();
    let (start, end) = (number(start), number(end));
    // SAFETY: the kernel keeps it mapped in every process.
    let bytes = unsafe { std::slice::from_raw_parts(start as *const u8, end - start) };
    let parsed = object::File::parse(bytes).unwrap();
    use object::ObjectSymbol;
    let build_id = parsed.build_id().unwrap().unwrap();
    let function =
        parsed.dynamic_symbols().find(|s| s.name().is_ok_and(|name| name.ends_with("clock_gettime"))).unwrap();
    let name = |build_id| {
        let file = File { path: b"[vdso]", build_id, inode: 0 };
        resolve(file, &[function.address() + 1], &[]).places[0][0].name.clone()
    };
    assert!(name(build_id).ends_with("clock_gettime"));
    // Of another kernel: not this one's names.
    assert!(name(b"other").starts_with("[vdso]+0x"));
}
