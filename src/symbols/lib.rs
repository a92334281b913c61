//! Addresses in compiled code to function, file and line. For whoever shows a profile, on any thread but in a signal handler.
//!
//! [`resolve`] takes all addresses of one module at once: its files are mapped, read and let go again, so that memory is
//! bounded by the largest module. What a module's file cannot say is told as `module+0xoffset`; a name is given only where a
//! symbol covers the address, and only from the very file that was loaded (by build id, else by inode).

mod demangle;
mod frames;
mod image;
mod lines;
mod plt;
pub mod plumbing;
mod table;

use image::Found;
use lines::Lines;
use object::{Object, ObjectSection};
use plt::Plt;
use std::borrow::Cow;
use std::path::Path;
use table::Symbols;

/// The file of a module as it was loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct File<'a> {
    /// As the dynamic linker knows it; `[vdso]` for the kernel's page.
    pub path: &'a [u8],
    /// The GNU build id; empty when there is none.
    pub build_id: &'a [u8],
    /// 0 when not known.
    pub inode: u64,
}

/// One function at an address: the one the code belongs to, or one that the compiler put into it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Demangled; `module+0xoffset` when unknown.
    pub name: String,
    /// Source file and line; empty and 0 when unknown.
    pub file: String,
    pub line: u32,
    /// Where the function begins, as in the file; 0 for an inlined one.
    pub start: u64,
    /// Whether a name was found.
    pub known: bool,
}

/// The functions at an address, innermost first; never empty. The last is the one that the code belongs to.
pub type Places = Vec<Place>;

/// What is known of some addresses of a module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Resolved {
    /// One for each address asked for.
    pub places: Vec<Places>,
    /// Whether this is the module of the Python interpreter.
    pub is_interpreter: bool,
    /// Whether the file that was loaded is still there.
    pub found: bool,
}

/// What is at each of the `addresses`, which are as in the file. Separate debug files are looked for below `debug_roots`
/// (usually [`DEBUG_ROOTS`]).
#[must_use]
pub fn resolve(file: File<'_>, addresses: &[u64], debug_roots: &[&Path]) -> Resolved {
    resolve_found(file, addresses, debug_roots).unwrap_or_else(|| offsets(file, addresses))
}

/// The same without looking at any file.
#[must_use]
pub fn offsets(file: File<'_>, addresses: &[u64]) -> Resolved {
    let places = addresses.iter().map(|&address| vec![unknown(file.path, address)]).collect();
    Resolved { places, is_interpreter: false, found: false }
}

/// `None` if the file is not to be had.
fn resolve_found(file: File<'_>, addresses: &[u64], debug_roots: &[&Path]) -> Option<Resolved> {
    let image = Found::open(file)?;
    let parsed = object::File::parse(image.bytes()).ok()?;
    let debug = image.debug_file(&parsed, debug_roots);
    let debug_parsed = debug.as_ref().and_then(|debug| object::File::parse(debug.bytes()).ok());
    let with_lines = [Some(&parsed), debug_parsed.as_ref()].into_iter().flatten().find(|file| has_lines(file));
    let supplement = with_lines.zip(debug.as_ref().or(Some(&image))).and_then(|(file, of)| of.supplement(file));
    let supplement_parsed = supplement.as_ref().and_then(|found| object::File::parse(found.bytes()).ok());
    let sections = with_lines.map(|file| lines::sections(file));
    let supplement_sections = supplement_parsed.as_ref().map(lines::sections);
    let lines = sections.as_ref().and_then(|sections| Lines::new(sections, supplement_sections.as_ref()));
    let symbols = Symbols::new(&parsed, debug_parsed.as_ref());
    let is_interpreter = symbols.defines(plumbing::LOOP.as_bytes());
    let resolver = Resolver { path: file.path, symbols, plt: Plt::new(&parsed), lines };
    let places = addresses.iter().map(|&address| resolver.places(address)).collect();
    Some(Resolved { places, is_interpreter, found: true })
}

/// Where distributions put debug information.
pub const DEBUG_ROOTS: [&str; 1] = ["/usr/lib/debug"];

fn has_lines(file: &object::File<'_>) -> bool {
    file.section_by_name(".debug_info").is_some_and(|section| section.size() > 0)
}

/// `module+0xoffset`.
fn unknown(path: &[u8], start: u64) -> Place {
    let base = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    let name = format!("{}+{start:#x}", String::from_utf8_lossy(base));
    Place { name, file: String::new(), line: 0, start, known: false }
}

struct Resolver<'f, 'a> {
    path: &'f [u8],
    symbols: Symbols<'a>,
    plt: Plt<'f, 'a>,
    lines: Option<Lines<'f>>,
}

impl Resolver<'_, '_> {
    fn places(&self, address: u64) -> Places {
        if let Some((start, name)) = self.plt.at(address) {
            let name = format!("{}@plt", demangle::symbol(name));
            return vec![Place { name, file: String::new(), line: 0, start, known: true }];
        }
        let symbol = self.symbols.at(address);
        let mut places = self.lines.as_ref().map(|lines| lines.at(address)).unwrap_or_default();
        let outer = match places.pop() {
            Some(outer) => outer,
            None => lines::At { name: None, file: String::new(), line: 0 },
        };
        let start = symbol.map(|symbol| symbol.start).or_else(|| self.symbols.function_start(address));
        let start = start.unwrap_or(address);
        let name = match (&symbol, outer.name) {
            (Some(symbol), Some(name)) => Some(demangle::preferred(symbol.name, name)),
            (Some(symbol), None) => Some(demangle::symbol(table::without_part(symbol.name)).into_owned()),
            (None, Some(name)) => Some(name.text()),
            (None, None) => None,
        };
        let outer = match name {
            Some(name) => Place { name, file: outer.file, line: outer.line, start, known: true },
            None => Place { file: outer.file, line: outer.line, ..unknown(self.path, start) },
        };
        let inlined = places.into_iter().map(|at| {
            let name = at.name.map_or_else(|| "<inlined>".to_owned(), |name| name.text());
            Place { name, file: at.file, line: at.line, start: 0, known: true }
        });
        inlined.chain(std::iter::once(outer)).collect()
    }
}

/// The bytes of a section, unpacked if need be; none if it is not there or damaged.
fn section_bytes<'a>(file: &object::File<'a>, name: &str) -> Cow<'a, [u8]> {
    file.section_by_name(name).and_then(|section| section.uncompressed_data().ok()).unwrap_or_default()
}
