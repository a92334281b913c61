//! Source files, lines and inlined functions from DWARF, if a file has it.

use crate::demangle::Raw;
use crate::section_bytes;
use addr2line::Context;
use addr2line::gimli::{AbbreviationsCacheStrategy, DwarfSections, EndianSlice, RunTimeEndian};
use object::Object;
use std::borrow::Cow;
use std::convert::Infallible;

/// One function at an address.
#[derive(Clone, Debug)]
pub struct At {
    pub name: Option<Raw>,
    pub file: String,
    pub line: u32,
}

pub struct Sections<'a> {
    dwarf: DwarfSections<Cow<'a, [u8]>>,
    endian: RunTimeEndian,
}

pub struct Lines<'a> {
    context: Context<EndianSlice<'a, RunTimeEndian>>,
}

/// The sections of a file, unpacked.
pub fn sections<'a>(file: &object::File<'a>) -> Sections<'a> {
    let load = |id: addr2line::gimli::SectionId| Ok::<_, Infallible>(section_bytes(file, id.name()));
    let Ok(dwarf) = DwarfSections::load(load);
    Sections { dwarf, endian: if file.is_little_endian() { RunTimeEndian::Little } else { RunTimeEndian::Big } }
}

impl<'a> Lines<'a> {
    /// `supplement`: a file with what several have in common, as dwz makes.
    pub fn new(sections: &'a Sections<'_>, supplement: Option<&'a Sections<'_>>) -> Option<Self> {
        let supplement = supplement.map(|supplement| &supplement.dwarf);
        let mut dwarf =
            sections.dwarf.borrow_with_sup(supplement, |section| EndianSlice::new(section, sections.endian));
        dwarf.populate_abbreviations_cache(AbbreviationsCacheStrategy::Duplicates);
        Some(Self { context: Context::from_dwarf(dwarf).ok()? })
    }

    /// Innermost first; nothing where the debug information is silent or damaged.
    pub fn at(&self, address: u64) -> Vec<At> {
        let mut places = Vec::new();
        // No code is there, and the library adds to the address.
        if address >= u64::MAX / 2 {
            return places;
        }
        let Ok(mut frames) = self.context.find_frames(address).skip_all_loads() else { return places };
        while let Ok(Some(frame)) = frames.next() {
            let name = frame.function.and_then(|function| {
                Some(Raw { name: function.raw_name().ok()?.into_owned(), language: function.language })
            });
            let location = frame.location;
            let file = location.as_ref().and_then(|location| location.file).unwrap_or_default().to_owned();
            places.push(At { name, file, line: location.and_then(|location| location.line).unwrap_or(0) });
        }
        places
    }
}
