//! Where functions begin, by the unwind tables: those are there even when every name was stripped.

use addr2line::gimli::{
    BaseAddresses, EhFrame, EhFrameHdr, EndianSlice, ParsedEhFrameHdr, RunTimeEndian, UnwindSection,
};
use object::{Object, ObjectSection};

pub struct Functions<'a> {
    tables: Option<Tables<'a>>,
}

struct Tables<'a> {
    header: ParsedEhFrameHdr<EndianSlice<'a, RunTimeEndian>>,
    frames: EhFrame<EndianSlice<'a, RunTimeEndian>>,
    bases: BaseAddresses,
}

impl<'a> Functions<'a> {
    pub fn new(file: &object::File<'a>) -> Self {
        Self { tables: Self::read(file) }
    }

    fn read(file: &object::File<'a>) -> Option<Tables<'a>> {
        let endian = if file.is_little_endian() { RunTimeEndian::Little } else { RunTimeEndian::Big };
        let header_section = file.section_by_name(".eh_frame_hdr")?;
        let frame_section = file.section_by_name(".eh_frame")?;
        let text = file.section_by_name(".text").map_or(0, |section| section.address());
        let bases = BaseAddresses::default()
            .set_eh_frame_hdr(header_section.address())
            .set_eh_frame(frame_section.address())
            .set_text(text);
        let address_bytes = if file.is_64() { 8 } else { 4 };
        let header = EhFrameHdr::new(header_section.data().ok()?, endian).parse(&bases, address_bytes).ok()?;
        Some(Tables { header, frames: EhFrame::new(frame_section.data().ok()?, endian), bases })
    }

    /// The first address of the function that holds `address`.
    pub fn start(&self, address: u64) -> Option<u64> {
        let tables = self.tables.as_ref()?;
        let entry = tables
            .header
            .table()?
            .fde_for_address(&tables.frames, &tables.bases, address, EhFrame::cie_from_offset)
            .ok()?;
        Some(entry.initial_address())
    }
}
