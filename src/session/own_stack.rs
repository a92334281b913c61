//! The native stack of the calling thread, on request. Runs on the caller's thread, without the GIL; no run is needed.
//!
//! The stack is read as it lies there, by the same tables that every C++ exception trusts.

use crate::sampler::native::modules::{self, Modules};
use spprof_model::Module;
use spprof_sigsafe::unwind::Trace;
use spprof_sigsafe::unwind::map::Cache;
use spprof_sigsafe::unwind::rule::Registers;
use spprof_symbols::{DEBUG_ROOTS, File, resolve};
use std::collections::BTreeMap;
use std::path::Path;

/// One frame, named.
#[derive(Clone, Debug, Default)]
pub struct NamedFrame {
    /// In memory; of callers the address they return to.
    pub ip: u64,
    pub symbol: String,
    pub module: Vec<u8>,
    /// From the start of the symbol.
    pub offset: u64,
    pub is_known: bool,
}

/// Where this very instruction is.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn here() -> Option<Registers> {
    let (ip, sp, bp): (usize, usize, usize);
    // SAFETY: reads three registers.
    unsafe {
        std::arch::asm!("lea {}, [rip]", "mov {}, rsp", "mov {}, rbp", out(reg) ip, out(reg) sp, out(reg) bp,
            options(nomem, nostack, preserves_flags));
    }
    Some(Registers::few(ip, sp, Some(bp)))
}

#[cfg(not(target_arch = "x86_64"))]
fn here() -> Option<Registers> {
    None
}

/// The native stack of the calling thread, leaf first and without our own frames; `None` where that cannot be had.
#[must_use]
pub fn native_stack() -> Option<Vec<NamedFrame>> {
    let registers = here()?;
    let own = registers.ip as u64;
    let now = modules::current();
    let mut trace = Box::new(Trace::new());
    trace.follow(now.map(), &mut Box::new(Cache::new()), registers);
    let frames = trace.frames().iter().filter_map(|traced| traced.frame.as_native());
    let ours = now.list.iter().find(|module| (module.start..module.end).contains(&own)).map(|module| module.id);
    let frames: Vec<(u32, u64)> =
        frames.skip_while(|frame| Some(frame.module) == ours).map(|frame| (frame.module, frame.address)).collect();
    Some(name(&now, &frames))
}

/// Names frames, given by module and looked-up address; each module's file is read once.
fn name(modules: &Modules, frames: &[(u32, u64)]) -> Vec<NamedFrame> {
    let mut by_module: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (index, (module, _)) in frames.iter().enumerate() {
        by_module.entry(*module).or_default().push(index);
    }
    let roots = DEBUG_ROOTS.map(Path::new);
    let mut named = vec![NamedFrame::default(); frames.len()];
    for (id, indices) in by_module {
        let module = modules.list.iter().find(|module| module.id == id);
        let addresses: Vec<u64> = indices.iter().map(|&index| frames[index].1).collect();
        let file = |it: &Module| resolve(file_of(it), &addresses, &roots);
        let places = module.map(|it| file(it).places);
        for (order, (&index, address)) in indices.iter().zip(addresses).enumerate() {
            // The first frame is where it stood, callers are looked up at the last byte of their call.
            let ip = address + module.map_or(0, |it| it.bias) + u64::from(index != 0);
            // The one that the code belongs to: what was put into it has no address of its own.
            let place = places.as_ref().and_then(|places| places.get(order)?.last());
            named[index] = NamedFrame {
                ip,
                symbol: place.map_or_else(|| format!("{ip:#x}"), |place| place.name.clone()),
                module: module.map(|it| it.path.clone()).unwrap_or_default(),
                offset: place.map_or(0, |place| address.saturating_sub(place.start) + u64::from(index != 0)),
                is_known: place.is_some_and(|place| place.known),
            };
        }
    }
    named
}

fn file_of(module: &Module) -> File<'_> {
    File { path: &module.path, build_id: &module.build_id, inode: module.inode }
}
