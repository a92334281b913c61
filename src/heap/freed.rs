//! The last samples that were freed, with their lifetimes: a ring that overwrites its oldest.

use crate::live::{Cell, Sample};
use core::sync::atomic::{AtomicU64, Ordering};

pub const LENGTH: usize = 1 << 12;

/// All zero is an empty log.
#[derive(Debug)]
#[repr(C)]
pub struct Freed {
    cells: [(Cell, AtomicU64); LENGTH],
    next: AtomicU64,
}

impl Freed {
    /// `sample` was freed at `now_ns`.
    pub fn push(&self, sample: &Sample, now_ns: u64) {
        let serial = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some((cell, lifetime)) = self.cells.get(serial as usize % LENGTH) {
            cell.clear();
            lifetime.store(now_ns.saturating_sub(sample.time_ns), Ordering::Release);
            cell.write(serial.wrapping_add(1), sample);
        }
    }

    /// The samples with their lifetimes in nanoseconds, in no order.
    pub fn samples(&self) -> impl Iterator<Item = (Sample, u64)> + '_ {
        self.cells.iter().filter_map(|(cell, lifetime)| {
            let (serial, _) = cell.read()?;
            let lifetime = lifetime.load(Ordering::Acquire);
            let (again, sample) = cell.read()?;
            (serial == again).then_some((sample, lifetime))
        })
    }
}
