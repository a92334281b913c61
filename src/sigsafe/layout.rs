//! Where CPython keeps what a stack walk and the resolver read, one row per minor version.
//!
//! The numbers are compiled `offsetof`s of x86-64/aarch64 LP64 builds (3.9-3.15 and free-threaded 3.13-3.15); within a
//! minor version the offsets used here did not change between micro releases (3.11.2/3.11.7, 3.13.0/3.13.18 compared).
//! A row is never trusted alone: the session's self-test walks its own stack and compares it with `sys._getframe`, and
//! on 3.13+ compares the row with `_Py_DebugOffsets`. An unknown minor has no row, and profiling is refused.

/// How the chain of Python frames hangs off a thread state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameChain {
    /// 3.9, 3.10: `tstate->frame` is a `PyFrameObject*`, linked by `f_back`.
    FrameObjects,
    /// 3.11: `tstate->cframe->current_frame`, C-stack entry marked by `is_entry`.
    CFrameEntry,
    /// 3.12: `tstate->cframe->current_frame`, shim frames (owner 3) mark C entries.
    CFrameShim,
    /// 3.13+: `tstate->current_frame`, shim frames mark C entries.
    CurrentFrame,
}

/// How a code object maps instruction offsets to lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LineTable {
    /// 3.9: `co_lnotab`, address/line increments; the saved offset is in bytes.
    Lnotab,
    /// 3.10: `co_linetable`, start/line deltas, -128 means no line; the saved offset is in 2-byte instructions.
    Linetable310,
    /// 3.11+: location table.
    Locations,
}

/// How `PyASCIIObject.state` packs its bit fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StrState {
    pub kind_shift: u32,
    pub compact_shift: u32,
    pub ascii_shift: u32,
}

/// Byte offsets into CPython's structures. A field absent in a version is `None`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    pub minor: u8,
    pub free_threaded: bool,
    pub chain: FrameChain,
    pub lines: LineTable,

    pub tstate_next: usize,
    pub tstate_interp: usize,
    pub tstate_thread_id: usize,
    pub tstate_native_thread_id: Option<usize>,
    /// `frame`, `cframe` or `current_frame`, by `chain`.
    pub tstate_frame: usize,
    pub tstate_datastack_chunk: Option<usize>,
    pub tstate_datastack_top: Option<usize>,
    /// 3.10: the interpreter's C calls are chained here, though the frames are not.
    pub tstate_cframe: Option<usize>,
    /// `_PyCFrame.current_frame`.
    pub cframe_current: Option<usize>,
    /// `_PyCFrame.previous`.
    pub cframe_previous: Option<usize>,
    pub interp_next: usize,
    pub interp_id: usize,
    pub interp_threads_head: usize,

    /// `f_back` or `previous`.
    pub frame_previous: usize,
    /// `f_code` or `f_executable`; mask the low bits with `code_tag_mask`.
    pub frame_code: usize,
    /// `f_lasti` (i32, 3.9/3.10), `prev_instr` or `instr_ptr` (pointer).
    pub frame_instr: usize,
    pub frame_owner: Option<usize>,
    /// 3.11 only: byte `is_entry`.
    pub frame_is_entry: Option<usize>,
    pub frame_tlbc_index: Option<usize>,
    /// Bits to clear in `frame_code` (3.14+ tags the reference).
    pub code_tag_mask: usize,

    pub ob_type: usize,
    pub type_dealloc: usize,
    pub code_filename: usize,
    /// `co_qualname` where it exists (3.11+), else `co_name`.
    pub code_qualname: usize,
    pub code_name: usize,
    pub code_firstlineno: usize,
    pub code_linetable: usize,
    /// `co_code_adaptive`; on 3.9/3.10 the `co_code` bytes object.
    pub code_instructions: usize,
    pub code_tlbc: Option<usize>,
    pub sizeof_code: usize,

    pub str_length: usize,
    pub str_state: usize,
    pub str_bits: StrState,
    pub sizeof_ascii: usize,
    pub sizeof_compact: usize,
    pub bytes_size: usize,
    pub bytes_data: usize,
}

/// Frame owner value that marks a shim between C and Python (`FRAME_OWNED_BY_CSTACK`, 3.12+).
pub const OWNER_CSTACK: u8 = 3;

const STR_CLASSIC: StrState = StrState { kind_shift: 2, compact_shift: 5, ascii_shift: 6 };
const STR_FT_314: StrState = StrState { kind_shift: 8, compact_shift: 11, ascii_shift: 12 };

const V39: Layout = Layout {
    minor: 9,
    free_threaded: false,
    chain: FrameChain::FrameObjects,
    lines: LineTable::Lnotab,
    tstate_next: 8,
    tstate_interp: 16,
    tstate_thread_id: 176,
    tstate_native_thread_id: None,
    tstate_frame: 24,
    tstate_datastack_chunk: None,
    tstate_datastack_top: None,
    tstate_cframe: None,
    cframe_current: None,
    cframe_previous: None,
    interp_next: 0,
    interp_id: 24,
    interp_threads_head: 8,
    frame_previous: 24,
    frame_code: 32,
    frame_instr: 104,
    frame_owner: None,
    frame_is_entry: None,
    frame_tlbc_index: None,
    code_tag_mask: 0,
    ob_type: 8,
    type_dealloc: 48,
    code_filename: 104,
    code_qualname: 112,
    code_name: 112,
    code_firstlineno: 40,
    code_linetable: 120,
    code_instructions: 48,
    code_tlbc: None,
    sizeof_code: 176,
    str_length: 16,
    str_state: 32,
    str_bits: STR_CLASSIC,
    sizeof_ascii: 48,
    sizeof_compact: 72,
    bytes_size: 16,
    bytes_data: 32,
};

const V310: Layout = Layout {
    minor: 10,
    lines: LineTable::Linetable310,
    frame_instr: 96,
    tstate_cframe: Some(48),
    cframe_previous: Some(8),
    ..V39
};

const V311: Layout = Layout {
    minor: 11,
    chain: FrameChain::CFrameEntry,
    lines: LineTable::Locations,
    tstate_thread_id: 152,
    tstate_native_thread_id: Some(160),
    tstate_frame: 56,
    tstate_datastack_chunk: Some(296),
    tstate_datastack_top: Some(304),
    cframe_current: Some(8),
    cframe_previous: Some(16),
    interp_id: 48,
    interp_threads_head: 16,
    frame_previous: 48,
    frame_code: 32,
    frame_instr: 56,
    frame_owner: Some(69),
    frame_is_entry: Some(68),
    code_filename: 112,
    code_qualname: 128,
    code_name: 120,
    code_firstlineno: 72,
    code_linetable: 136,
    code_instructions: 184,
    sizeof_code: 192,
    ..V39
};

const V312: Layout = Layout {
    minor: 12,
    chain: FrameChain::CFrameShim,
    tstate_thread_id: 136,
    tstate_native_thread_id: Some(144),
    tstate_datastack_chunk: Some(232),
    tstate_datastack_top: Some(240),
    cframe_current: Some(0),
    cframe_previous: Some(8),
    interp_id: 8,
    interp_threads_head: 72,
    frame_previous: 8,
    frame_code: 0,
    frame_owner: Some(70),
    frame_is_entry: None,
    code_firstlineno: 68,
    code_instructions: 192,
    sizeof_code: 200,
    sizeof_ascii: 40,
    sizeof_compact: 56,
    ..V311
};

const V313: Layout = Layout {
    minor: 13,
    chain: FrameChain::CurrentFrame,
    tstate_thread_id: 152,
    tstate_native_thread_id: Some(160),
    tstate_frame: 72,
    cframe_current: None,
    cframe_previous: None,
    interp_next: 7264,
    interp_id: 7272,
    interp_threads_head: 7344,
    code_instructions: 200,
    sizeof_code: 208,
    ..V312
};

const V314: Layout = Layout {
    minor: 14,
    interp_next: 7272,
    interp_id: 7280,
    frame_owner: Some(74),
    code_tag_mask: 7,
    code_instructions: 208,
    sizeof_code: 216,
    ..V313
};

const V315: Layout = Layout {
    minor: 15,
    tstate_thread_id: 176,
    tstate_native_thread_id: Some(184),
    tstate_datastack_chunk: Some(256),
    tstate_datastack_top: Some(264),
    interp_next: 7264,
    interp_id: 7272,
    interp_threads_head: 7336,
    ..V314
};

/// What free-threaded builds have in common: a 32-byte object header.
const fn free_threaded(base: Layout) -> Layout {
    Layout {
        free_threaded: true,
        ob_type: 24,
        type_dealloc: 64,
        code_filename: 128,
        code_qualname: 144,
        code_name: 136,
        code_firstlineno: 84,
        code_linetable: 152,
        str_length: 32,
        str_state: 48,
        sizeof_ascii: 56,
        sizeof_compact: 72,
        bytes_size: 32,
        bytes_data: 48,
        ..base
    }
}

const V313T: Layout = Layout { code_instructions: 216, sizeof_code: 224, ..free_threaded(V313) };
const V314T: Layout = Layout {
    str_bits: STR_FT_314,
    frame_owner: Some(78),
    frame_tlbc_index: Some(72),
    code_tlbc: Some(224),
    code_instructions: 232,
    sizeof_code: 240,
    ..free_threaded(V314)
};
const V315T: Layout = Layout {
    str_bits: STR_FT_314,
    frame_owner: Some(78),
    frame_tlbc_index: Some(72),
    code_tlbc: Some(224),
    code_instructions: 232,
    sizeof_code: 240,
    ..free_threaded(V315)
};

static LAYOUTS: [Layout; 10] = [V39, V310, V311, V312, V313, V314, V315, V313T, V314T, V315T];

impl Layout {
    /// The row for CPython 3.`minor`, or `None` when that version is not known.
    #[must_use]
    pub fn find(minor: u8, free_threaded: bool) -> Option<&'static Layout> {
        LAYOUTS.iter().find(|l| l.minor == minor && l.free_threaded == free_threaded)
    }
}
