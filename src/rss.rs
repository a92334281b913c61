//! How much memory the process holds, and the most it held while somebody wanted to know.
//!
//! The kernel keeps the peak of a process's whole life; of a part of it there is none. So a thread of its own looks every
//! millisecond, with no lock of the interpreter: a peak that lasts less than that may be missed, one that is held is not.

use crate::error::{Error, Result};
use crate::sampler::runtime;
use crate::sampler::signals::AllBlocked;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Bytes the process holds in memory now.
pub fn resident() -> Result<u64> {
    File::open("/proc/self/statm").and_then(|file| read(&file)).map_err(|error| Error::os("/proc/self/statm", &error))
}

/// What glibc's malloc says of its arenas, as XML; `None` with a C library that does not.
#[must_use]
pub fn malloc_info() -> Option<Vec<u8>> {
    type MallocInfo = unsafe extern "C" fn(libc::c_int, *mut libc::FILE) -> libc::c_int;
    let (mut text, mut length) = (std::ptr::null_mut(), 0);
    // SAFETY: `int malloc_info(int, FILE *)`, found by its name; the stream's buffer is ours once it is closed.
    unsafe {
        let malloc_info = std::mem::transmute::<usize, MallocInfo>(runtime::symbol(c"malloc_info")?);
        let stream = libc::open_memstream(&raw mut text, &raw mut length);
        if stream.is_null() {
            return None;
        }
        let failed = malloc_info(0, stream) != 0;
        libc::fclose(stream);
        let copy = (!text.is_null()).then(|| std::slice::from_raw_parts(text.cast::<u8>(), length).to_vec());
        libc::free(text.cast());
        copy.filter(|_| !failed)
    }
}

/// Looks until it is stopped.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// The process the thread lives in.
    pid: u32,
}

#[derive(Debug, Default)]
struct Shared {
    peak: AtomicU64,
    ended: AtomicBool,
}

impl Watch {
    pub fn start() -> Result<Self> {
        let failed = |error: std::io::Error| Error::os("watching the memory of the process", &error);
        let file = File::open("/proc/self/statm").map_err(failed)?;
        let shared = Arc::new(Shared::default());
        shared.peak.store(read(&file).map_err(failed)?, Ordering::Relaxed);
        let theirs = Arc::clone(&shared);
        let thread = {
            // The host's signals are not for this thread, from its first instruction on.
            let _blocked = AllBlocked::new();
            std::thread::Builder::new().name("spprof-rss".into()).stack_size(128 * 1024).spawn(move || {
                while !theirs.ended.load(Ordering::Acquire) {
                    theirs.peak.fetch_max(read(&file).unwrap_or(0), Ordering::Relaxed);
                    std::thread::park_timeout(LOOK_EVERY);
                }
            })
        };
        Ok(Self { shared, thread: Some(thread.map_err(failed)?), pid: std::process::id() })
    }

    /// The most bytes seen since the start.
    pub fn stop(&mut self) -> u64 {
        if let Some(thread) = self.thread.take() {
            self.shared.ended.store(true, Ordering::Release);
            if self.pid == std::process::id() {
                thread.thread().unpark();
                // It cannot panic.
                drop(thread.join());
            } else {
                // A child after fork: there is no such thread to wait for.
                std::mem::forget(thread);
            }
            self.shared.peak.fetch_max(resident().unwrap_or(0), Ordering::Relaxed);
        }
        self.shared.peak.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The second number of statm is pages.
fn read(file: &File) -> std::io::Result<u64> {
    let mut text = [0; 128];
    let len = file.read_at(&mut text, 0)?;
    let pages = std::str::from_utf8(&text[..len]).ok().and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    // SAFETY: sysconf has no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
    pages.map(|pages| pages * page).ok_or_else(|| std::io::Error::other("no number of resident pages"))
}
