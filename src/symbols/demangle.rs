//! The names that programmers know, from those of the linker.

use addr2line::gimli::DwLang;
use std::borrow::Cow;

/// A name from debug information, as it stands there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Raw {
    pub name: String,
    pub language: Option<DwLang>,
}

impl Raw {
    pub fn text(&self) -> String {
        addr2line::demangle_auto(Cow::Borrowed(&self.name), self.language).into_owned()
    }
}

/// A symbol of C stays as it is; those of C++ and Rust have a prefix.
pub fn symbol(name: &[u8]) -> Cow<'_, str> {
    let name = String::from_utf8_lossy(name);
    if is_mangled(&name) { addr2line::demangle_auto(name, None) } else { name }
}

fn is_mangled(name: &str) -> bool {
    name.starts_with("_Z") || name.starts_with("_R") || name.starts_with("__Z")
}

/// Of the symbol at an address and what debug information calls the function there: the latter, which does not tell a
/// function's parts apart and knows which of several aliases it was written as; but the symbol's when only that one is
/// mangled, because it says more (namespace, parameters).
pub fn preferred(symbol_name: &[u8], raw: Raw) -> String {
    let mangled = std::str::from_utf8(symbol_name).is_ok_and(is_mangled);
    if mangled && !is_mangled(&raw.name) {
        return symbol(super::table::without_part(symbol_name)).into_owned();
    }
    raw.text()
}

#[cfg(test)]
mod tests {
    use super::symbol;

    /// C++, both manglings of Rust, and C.
    #[test]
    fn names() {
        assert_eq!(symbol(b"_ZN3foo3barEi"), "foo::bar(int)");
        assert_eq!(symbol(b"_ZN4core3fmt5Write9write_str17h0123456789abcdefE"), "core::fmt::Write::write_str");
        assert_eq!(symbol(b"_RNvC6_123foo3bar"), "123foo::bar");
        assert_eq!(symbol(b"PyLong_FromLong"), "PyLong_FromLong");
        assert_eq!(symbol(b"_Znonsense"), "_Znonsense");
    }
}
