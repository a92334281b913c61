//! Small libraries made by the machine's own compilers, and what the machine's own tools say of them.
#![allow(dead_code)] // Each test file uses its part.

use object::{Object, ObjectSymbol};
use spprof_symbols::{File, Place, Resolved, resolve};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder of its own for one test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("symbols-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// A shared library of one source file.
    pub fn library(&self, source: &str, text: &str, flags: &[&str]) -> PathBuf {
        let source = self.write(source, text);
        let library = source.with_extension("so");
        let compiler = if source.extension().is_some_and(|suffix| suffix == "cc") { "c++" } else { "cc" };
        run(Command::new(compiler).args(["-shared", "-fPIC", "-o"]).arg(&library).args(flags).arg(&source));
        library
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What the program says.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Start and size of a symbol, from the file itself.
pub fn symbol(file: &Path, name: &str) -> (u64, u64) {
    let bytes = fs::read(file).unwrap();
    let parsed = object::File::parse(&*bytes).unwrap();
    let found = parsed.symbols().chain(parsed.dynamic_symbols()).find(|symbol| symbol.name() == Ok(name));
    found.map(|symbol| (symbol.address(), symbol.size())).unwrap_or_else(|| panic!("no {name} in {}", file.display()))
}

/// Names of symbols that hold `part`, with their starts.
pub fn symbols_with(file: &Path, part: &str) -> Vec<(String, u64)> {
    let bytes = fs::read(file).unwrap();
    let parsed = object::File::parse(&*bytes).unwrap();
    let named = parsed.symbols().filter_map(|symbol| Some((symbol.name().ok()?.to_owned(), symbol.address())));
    named.filter(|(name, _)| name.contains(part)).collect()
}

pub fn build_id(file: &Path) -> Vec<u8> {
    let bytes = fs::read(file).unwrap();
    object::File::parse(&*bytes).unwrap().build_id().unwrap().unwrap_or_default().to_vec()
}

/// As a process that had loaded the file would ask.
pub fn resolved(file: &Path, addresses: &[u64], debug_roots: &[&Path]) -> Resolved {
    let inode = fs::metadata(file).unwrap().ino();
    let build_id = build_id(file);
    resolve(File { path: file.as_os_str().as_bytes(), build_id: &build_id, inode }, addresses, debug_roots)
}

pub fn places(file: &Path, address: u64) -> Vec<Place> {
    resolved(file, &[address], &[]).places.remove(0)
}

pub fn name_at(file: &Path, address: u64) -> String {
    places(file, address).pop().unwrap().name
}

/// (function, file, line), innermost first, by binutils.
pub fn addr2line(file: &Path, addresses: &[u64]) -> Vec<Vec<(String, String, u32)>> {
    let list: String = addresses.iter().map(|address| format!("{address:#x}\n")).collect();
    let input =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("addresses-{}-{:x}", std::process::id(), addresses[0]));
    fs::write(&input, list).unwrap();
    let text =
        run(Command::new("addr2line").args(["-a", "-f", "-i", "-e"]).arg(file).stdin(fs::File::open(&input).unwrap()));
    fs::remove_file(input).unwrap();
    let mut all: Vec<Vec<(String, String, u32)>> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("0x") {
            all.push(Vec::new());
            continue;
        }
        let place = lines.next().unwrap();
        let place = place.split(" (discriminator").next().unwrap();
        let (source, number) = place.rsplit_once(':').unwrap();
        all.last_mut().unwrap().push((line.to_owned(), source.to_owned(), number.parse().unwrap_or(0)));
    }
    all
}
