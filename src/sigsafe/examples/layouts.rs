//! Prints every row of the layout table, field by field, for `tests/repo/test_layouts.py`, which compares them with what a
//! C compiler says of each Python's own headers.

use spprof_sigsafe::layout::{Layout, OWNER_CSTACK};

fn main() {
    for minor in 0..=u8::MAX {
        for row in [false, true].into_iter().filter_map(|free_threaded| Layout::find(minor, free_threaded)) {
            println!("{row:#?}");
        }
    }
    println!("OWNER_CSTACK: {OWNER_CSTACK}");
}
