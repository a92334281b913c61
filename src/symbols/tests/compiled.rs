//! Names, lines and inlined functions of libraries that the test has compiled itself.

mod compile;

use compile::{Folder, addr2line, name_at, places, resolved, run, symbol, symbols_with};
use std::path::Path;
use std::process::Command;

const INLINED: &str = r#"
int table[64];
static inline __attribute__((always_inline)) int innermost(int x) {
    return table[x & 63] * 31 + x;
}
static inline __attribute__((always_inline)) int middle(int x) {
    int sum = 0;
    for (int i = 0; i < x; i++)
        sum += innermost(i);
    return sum;
}
static __attribute__((noinline)) int hidden(int x) {
    return middle(x) ^ 5;
}
int outer(int x) {
    return middle(x) + hidden(x + 1);
}
int last(int x) {
    return outer(x) + 1;
}
"#;

/// Every address of a function that others were put into, against binutils: names, files and lines at each level.
#[test]
fn inlined_functions_and_lines() {
    let folder = Folder::new("inlined");
    let library = folder.library("inlined.c", INLINED, &["-O2", "-g"]);
    let (start, size) = symbol(&library, "outer");
    let addresses: Vec<u64> = (start..start + size).collect();
    let expected = addr2line(&library, &addresses);
    let found = resolved(&library, &addresses, &[]).places;
    let mut deepest = 0;
    for ((address, expected), found) in addresses.iter().zip(expected).zip(found) {
        let found: Vec<_> = found.into_iter().map(|place| (place.name, place.file, place.line)).collect();
        assert_eq!(found, expected, "{address:#x}");
        deepest = deepest.max(found.len());
    }
    assert_eq!(deepest, 3, "the compiler inlined nothing");
}

/// Code from a header is in the header.
#[test]
fn lines_of_headers() {
    let folder = Folder::new("headers");
    folder.write(
        "twice.h",
        "\n\nstatic inline __attribute__((always_inline)) int twice(volatile int *x) {\n  return *x * 2;\n}\n",
    );
    let source = "#include \"twice.h\"\nint both(volatile int *x) {\n  return twice(x) + 1;\n}\n";
    let library = folder.library("both.c", source, &["-O2", "-g"]);
    let (start, size) = symbol(&library, "both");
    let addresses: Vec<u64> = (start..start + size).collect();
    let found = resolved(&library, &addresses, &[]).places;
    let shown = |place: &spprof_symbols::Place| {
        (place.name.clone(), place.file.rsplit('/').next().unwrap().to_owned(), place.line)
    };
    let stacks: Vec<Vec<_>> = found.iter().map(|places| places.iter().map(shown).collect()).collect();
    let inside = vec![("twice".to_owned(), "twice.h".to_owned(), 4), ("both".to_owned(), "both.c".to_owned(), 3)];
    assert!(stacks.contains(&inside), "{stacks:?}");
}

/// Without debug information: functions by their symbols, local ones too, each with its start.
#[test]
fn symbols_alone() {
    let folder = Folder::new("symbols");
    let library = folder.library("plain.c", INLINED, &["-O2"]);
    for name in ["hidden", "outer", "last"] {
        let (start, size) = symbol(&library, name);
        for address in [start, start + size - 1] {
            let place = places(&library, address).remove(0);
            assert_eq!((place.name.as_str(), place.start, place.line, place.known), (name, start, 0, true));
        }
        // The bytes that fill up to the next function are nobody's.
        if (start + size) % 16 != 0 {
            assert!(!places(&library, start + size)[0].known, "{name}");
        }
    }
}

/// A stripped library: what it exports has names; what it does not is an offset, the same one for the whole function, and
/// never the name of the neighbour.
#[test]
fn stripped() {
    let folder = Folder::new("stripped");
    let library = folder.library("stripped.c", INLINED, &["-O2"]);
    let (start, size) = symbol(&library, "hidden");
    let (exported, _) = symbol(&library, "outer");
    run(Command::new("strip").arg(&library));
    for address in start..start + size {
        let place = places(&library, address).remove(0);
        assert_eq!((place.name, place.known), (format!("stripped.so+{start:#x}"), false));
    }
    assert_eq!(name_at(&library, exported), "outer");
}

/// Debug information in a file of its own: found by the name that the library gives, and by build id.
#[test]
fn separate_debug_file() {
    let folder = Folder::new("separate");
    let library = folder.library("separate.c", INLINED, &["-O2", "-g", "-Wl,--build-id"]);
    let (start, size) = symbol(&library, "hidden");
    let addresses: Vec<u64> = (start..start + size).collect();
    let whole = resolved(&library, &addresses, &[]);
    assert!(whole.places.iter().flatten().all(|place| place.known && place.line > 0));
    let debug = folder.path("separate.debug");
    run(Command::new("objcopy").arg("--only-keep-debug").arg(&library).arg(&debug));
    run(Command::new("strip").arg(&library));
    assert!(!places(&library, start)[0].known);
    run(Command::new("objcopy").arg(format!("--add-gnu-debuglink={}", debug.display())).arg(&library));
    assert_eq!(resolved(&library, &addresses, &[]), whole);

    // The name leads nowhere: by build id.
    let id: String = compile::build_id(&library).iter().map(|byte| format!("{byte:02x}")).collect();
    let root = folder.path("debug");
    let place = root.join(".build-id").join(&id[..2]);
    std::fs::create_dir_all(&place).unwrap();
    let by_id = place.join(format!("{}.debug", &id[2..]));
    std::fs::rename(&debug, &by_id).unwrap();
    assert!(!places(&library, start)[0].known);
    assert_eq!(resolved(&library, &addresses, &[&root]), whole);

    // Compressed, as distributions ship it.
    run(Command::new("objcopy").arg("--compress-debug-sections").arg(&by_id));
    assert_eq!(resolved(&library, &addresses, &[&root]), whole);

    // That of another build is not believed, by whatever way it came.
    let other = folder.library("other.c", &INLINED.replace("31", "37"), &["-O2", "-g", "-Wl,--build-id"]);
    run(Command::new("objcopy").arg("--only-keep-debug").arg(&other).arg(&by_id));
    std::fs::copy(&by_id, &debug).unwrap();
    assert!(!resolved(&library, &[start], &[&root]).places[0][0].known);
}

/// Without a build id the name's checksum decides.
#[test]
fn checksum_of_a_debug_file() {
    let folder = Folder::new("checksum");
    let library = folder.library("sum.c", INLINED, &["-O2", "-g", "-Wl,--build-id=none"]);
    let (start, _) = symbol(&library, "hidden");
    let debug = folder.path("sum.debug");
    run(Command::new("objcopy").arg("--only-keep-debug").arg(&library).arg(&debug));
    run(Command::new("strip").arg(&library));
    run(Command::new("objcopy").arg(format!("--add-gnu-debuglink={}", debug.display())).arg(&library));
    assert_eq!(name_at(&library, start), "hidden");
    run(Command::new("objcopy").args(["--remove-section", ".comment"]).arg(&debug));
    assert!(!places(&library, start)[0].known);
}

/// Functions that the compiler moved out of the way count as what they are part of.
#[test]
fn unlikely_code() {
    let source = "void __attribute__((cold, noinline)) rare(int x) { __asm__ volatile(\"\" :: \"r\"(x)); }\n\
        int work(int x) { if (__builtin_expect(x == 7, 0)) { rare(x); rare(x * 2); return rare(3), 9; } return x * 3; }\n";
    let folder = Folder::new("cold");
    let library = folder.library("cold.c", source, &["-O2", "-freorder-blocks-and-partition"]);
    let parts = symbols_with(&library, "work.cold");
    assert_eq!(parts.len(), 1, "the compiler left the code where it was");
    let place = places(&library, parts[0].1).remove(0);
    assert_eq!((place.name.as_str(), place.start), ("work", symbol(&library, "work").0));
}

/// C++: templates, namespaces and parameters, with and without debug information.
#[test]
fn names_of_cpp() {
    let source = "namespace geometry { template <typename T> struct Box { T side; __attribute__((noinline)) T area(int n) const; };\n\
        template <typename T> T Box<T>::area(int n) const { return side * side * n; } }\n\
        double use(double x) { return geometry::Box<double>{x}.area(3) + geometry::Box<float>{float(x)}.area(2); }\n";
    let folder = Folder::new("cpp");
    for flags in [&["-O1"][..], &["-O1", "-g"]] {
        let library = folder.library("box.cc", source, flags);
        let mangled = symbols_with(&library, "area");
        let names: Vec<String> = mangled.iter().map(|(_, start)| name_at(&library, *start)).collect();
        for kind in ["double", "float"] {
            assert!(names.contains(&format!("geometry::Box<{kind}>::area(int) const")), "{names:?}");
        }
        assert_eq!(name_at(&library, symbols_with(&library, "_Z3used")[0].1), "use(double)");
    }
}

/// Rust: paths without the hash.
#[test]
fn names_of_rust() {
    let source = "pub mod deep { #[inline(never)] pub fn add_all(x: &[u64]) -> u64 { x.iter().map(|v| v * 3).sum() } }\n\
        #[unsafe(no_mangle)] pub extern \"C\" fn entry(n: u64) -> u64 { deep::add_all(&[n, n + 1, n * 7]) }\n";
    let folder = Folder::new("rust");
    let source = folder.write("paths.rs", source);
    let library = folder.path("libpaths.so");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    run(Command::new(rustc)
        .args(["--edition=2024", "--crate-type=cdylib", "-O", "-g", "-o"])
        .arg(&library)
        .arg(&source));
    let (_, start) = symbols_with(&library, "add_all").remove(0);
    let found = places(&library, start);
    assert_eq!(found.last().unwrap().name, "paths::deep::add_all");
    assert!(found.last().unwrap().file.ends_with("paths.rs"));
}

/// Stubs are named by what they lead to, with lazy binding, without, and with branch protection.
#[test]
fn stubs() {
    let source = "#include <stdlib.h>\n#include <string.h>\nint use(const char *a) { return atoi(a) + (int)strlen(strdup(a)); }\n\
        void *take(void) { return (void *)atoi; }\n";
    let folder = Folder::new("stubs");
    for flags in [&["-Wl,-z,lazy"][..], &["-Wl,-z,now"], &["-fcf-protection=full", "-Wl,-z,ibtplt"]] {
        let library = folder.library("stubs.c", source, &[&["-O2"], flags].concat());
        let expected = run(Command::new("objdump").args(["-d", "--no-show-raw-insn"]).arg(&library));
        let mut seen = 0;
        for line in expected.lines().filter(|line| line.ends_with("@plt>:")) {
            let (address, name) = line.split_once(' ').unwrap();
            let address = u64::from_str_radix(address, 16).unwrap();
            let name = name.trim_start_matches('<').trim_end_matches(">:");
            // (binutils gives no name to what the lazy half of protected stubs does.)
            assert_eq!(name_at(&library, address + 5), name, "{flags:?}");
            seen += 1;
        }
        assert!(seen >= 3, "{flags:?}: {expected}");
    }
}

/// Functions in assembler without a size: up to the next symbol of the file, but never over a function that the unwind
/// tables know, and not at all when only the exported symbols are left.
#[test]
fn functions_without_a_size() {
    let source = "__asm__(\".text\\n.globl bare\\nbare:\\n nop\\n nop\\n nop\\n nop\\n ret\\n\
        .globl next\\nnext:\\n nop\\n ret\\n\
        known: .cfi_startproc\\n nop\\n nop\\n ret\\n .cfi_endproc\\n\");\n";
    let folder = Folder::new("unsized");
    let library = folder.library("bare.c", source, &["-O2", "-nostdlib"]);
    let (bare, size) = symbol(&library, "bare");
    assert_eq!(size, 0);
    let (next, _) = symbol(&library, "next");
    let (known, _) = symbol(&library, "known");
    assert_eq!(name_at(&library, bare), "bare");
    assert_eq!(name_at(&library, next - 1), "bare");
    assert_eq!(name_at(&library, next), "next");
    assert_eq!(name_at(&library, known + 1), "known");
    run(Command::new("objcopy").args(["--strip-symbol=known"]).arg(&library));
    assert_eq!(name_at(&library, next), "next");
    assert_eq!(name_at(&library, known + 1), format!("bare.so+{known:#x}"));
    run(Command::new("strip").arg(&library));
    assert_eq!(name_at(&library, bare + 1), format!("bare.so+{:#x}", bare + 1));
}

/// A symbol within another's range ends where its own size says; what follows is the outer one's again.
#[test]
fn symbols_within_symbols() {
    let source = "__asm__(\".text\\n.globl whole\\n.type whole, @function\\nwhole:\\n nop\\n nop\\n\
        .type inner, @function\\ninner:\\n nop\\n nop\\n.size inner, . - inner\\n nop\\n ret\\n.size whole, . - whole\\n\");\n";
    let folder = Folder::new("within");
    let library = folder.library("within.c", source, &["-O2", "-nostdlib"]);
    let (whole, size) = symbol(&library, "whole");
    let names: Vec<String> = (whole..whole + size).map(|address| name_at(&library, address)).collect();
    assert_eq!(names, ["whole", "whole", "inner", "inner", "whole", "whole"]);
}

/// A file that took the place of the loaded one gives no names: told by build id, and by inode where there is none.
#[test]
fn replaced_files() {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    let folder = Folder::new("replaced");
    for flag in ["-Wl,--build-id", "-Wl,--build-id=none"] {
        let library = folder.library("lib.c", INLINED, &["-O2", flag]);
        let (start, _) = symbol(&library, "outer");
        let loaded_id = compile::build_id(&library);
        let inode = std::fs::metadata(&library).unwrap().ino();
        let loaded = spprof_symbols::File { path: library.as_os_str().as_bytes(), build_id: &loaded_id, inode };
        let name = |roots: &[&Path]| spprof_symbols::resolve(loaded, &[start], roots).places[0][0].name.clone();
        assert_eq!(name(&[]), "outer");
        // Kept, or its inode could be given to the new one.
        std::fs::rename(&library, folder.path("old.so")).unwrap();
        assert_eq!(name(&[]), format!("lib.so+{start:#x}"), "gone");
        let replacement = folder.library("new.c", &INLINED.replace("31", "37"), &["-O2", flag]);
        std::fs::rename(replacement, &library).unwrap();
        assert_eq!(name(&[]), format!("lib.so+{start:#x}"), "replaced");
    }
}

/// No file, no ELF file, half a file: offsets, and no panic.
#[test]
fn damaged_files() {
    let folder = Folder::new("damaged");
    let library = folder.library("damaged.c", INLINED, &["-O2", "-g"]);
    let (start, _) = symbol(&library, "outer");
    let whole = std::fs::read(&library).unwrap();
    for len in [0, 3, 16, 64, 65, 1000, whole.len() / 2, whole.len() - 1] {
        let cut = folder.path("cut.so");
        std::fs::write(&cut, &whole[..len]).unwrap();
        let inode = std::fs::metadata(&cut).map(|m| std::os::unix::fs::MetadataExt::ino(&m)).unwrap();
        let path = cut.to_str().unwrap().as_bytes();
        let build_id = compile::build_id(&library);
        for build_id in [&build_id[..], &[]] {
            let file = spprof_symbols::File { path, build_id, inode };
            assert_eq!(spprof_symbols::resolve(file, &[start, 0, u64::MAX], &[]).places.len(), 3);
        }
    }
    // Every hundredth byte turned over, one at a time.
    let build_id = compile::build_id(&library);
    let bent = folder.path("bent.so");
    for i in (0..whole.len()).step_by(101) {
        let mut bytes = whole.clone();
        bytes[i] ^= 0xff;
        std::fs::write(&bent, &bytes).unwrap();
        let file = spprof_symbols::File { path: bent.to_str().unwrap().as_bytes(), build_id: &build_id, inode: 0 };
        assert_eq!(spprof_symbols::resolve(file, &[start, start + 9, 0, u64::MAX], &[]).places.len(), 4);
    }
}
