//! What the kernel tells of this process' threads: the task list, a thread's state, name and blocked signals.

use super::descriptor::Descriptor;
use std::ffi::{CStr, CString};
use std::{fs, io};

#[must_use]
pub fn gettid() -> i32 {
    // SAFETY: always callable.
    unsafe { libc::syscall(libc::SYS_gettid) as i32 }
}

fn open(path: &CStr, flags: i32) -> io::Result<Descriptor> {
    // SAFETY: a NUL-terminated path.
    Descriptor::adopt(unsafe { libc::open(path.as_ptr(), flags | libc::O_RDONLY | libc::O_CLOEXEC) }.into())
}

/// Reads the task list of this process again and again through one descriptor.
#[derive(Debug)]
pub struct TaskList {
    dir: Descriptor,
    buffer: Vec<u8>,
}

fn open_task_list() -> io::Result<Descriptor> {
    open(c"/proc/self/task", libc::O_DIRECTORY)
}

impl TaskList {
    pub fn open() -> io::Result<Self> {
        Ok(Self { dir: open_task_list()?, buffer: vec![0; 32 * 1024] })
    }

    /// Appends the ids of all threads to `tids`. False when they cannot be read now: the host has closed our descriptor
    /// and leaves none free.
    ///
    /// The kernel ends a list early when the thread it has come to ends at that moment: who is not in it may be alive.
    pub fn read(&mut self, tids: &mut Vec<i32>) -> bool {
        if self.dir.get().is_none()
            && let Ok(dir) = open_task_list()
        {
            self.dir = dir;
        }
        let Some(fd) = self.dir.get() else { return false };
        // SAFETY: plain system calls on our own descriptor and buffer.
        unsafe { libc::lseek(fd, 0, libc::SEEK_SET) };
        loop {
            // SAFETY: as above; the kernel writes at most `len` bytes.
            let got = unsafe { libc::syscall(libc::SYS_getdents64, fd, self.buffer.as_mut_ptr(), self.buffer.len()) };
            let Ok(got) = usize::try_from(got) else { return false };
            if got == 0 {
                return true;
            }
            let mut rest = &self.buffer[..got];
            // struct linux_dirent64: ino u64, off u64, reclen u16, type u8, name.
            while let Some(header) = rest.get(..19) {
                let length = usize::from(u16::from_ne_bytes([header[16], header[17]]));
                let name = rest.get(19..length).unwrap_or(&[]);
                let digits = name.split(|byte| *byte == 0).next().unwrap_or(&[]);
                if let Some(tid) = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()) {
                    tids.push(tid);
                }
                rest = rest.get(length.max(19)..).unwrap_or(&[]);
            }
        }
    }
}

/// A thread's `stat`. Kept open, reading its state letter costs one `pread`; where descriptors are few, it is opened for
/// each look.
#[derive(Debug)]
pub struct TaskStat {
    tid: i32,
    kept: Option<Descriptor>,
}

fn open_stat(tid: i32) -> io::Result<Descriptor> {
    let path = CString::new(format!("/proc/self/task/{tid}/stat"))?;
    open(&path, 0)
}

impl TaskStat {
    /// Fails when there is no such thread.
    pub fn open(tid: i32, keep: bool) -> io::Result<Self> {
        let opened = open_stat(tid)?;
        Ok(Self { tid, kept: keep.then_some(opened) })
    }

    /// `R` running or waiting for a processor, `S`/`D` sleeping, ...; `None` when the thread is gone.
    #[must_use]
    pub fn state(&self) -> Option<u8> {
        match self.kept.as_ref().and_then(Descriptor::get) {
            Some(fd) => self.read(fd),
            None => self.read(open_stat(self.tid).ok()?.get()?),
        }
    }

    fn read(&self, fd: i32) -> Option<u8> {
        let mut buffer = [0_u8; 128];
        // SAFETY: reads into our own buffer.
        let got = unsafe { libc::pread(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let text = buffer.get(..usize::try_from(got).ok()?)?;
        // "tid (comm) S ...": comm may hold anything, parentheses too, so look from the back. It has at most 64 bytes.
        let end = text.iter().rposition(|byte| *byte == b')')?;
        text.get(end + 2).copied()
    }
}

/// The kernel's name of a thread.
#[must_use]
pub fn name(tid: i32) -> Option<Vec<u8>> {
    let mut name = fs::read(format!("/proc/self/task/{tid}/comm")).ok()?;
    while name.last() == Some(&b'\n') {
        name.pop();
    }
    Some(name)
}

/// True when thread `tid` has `signal` blocked.
#[must_use]
pub fn blocks(tid: i32, signal: i32) -> bool {
    is_in("SigBlk:", tid, signal)
}

/// True when `signal` was sent to thread `tid` and has not been delivered.
#[must_use]
pub fn is_pending(tid: i32, signal: i32) -> bool {
    is_in("SigPnd:", tid, signal)
}

/// Whether `signal` is in one of the sets of signals that the kernel shows of a thread.
fn is_in(set: &str, tid: i32, signal: i32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/self/task/{tid}/status")) else { return false };
    status
        .lines()
        .find_map(|line| line.strip_prefix(set))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The list holds the calling thread and its running child; the child's state and name are right.
    #[test]
    fn sees_threads() {
        let (tx, rx) = std::sync::mpsc::channel();
        let (stop_tx, stop_rx) = std::sync::mpsc::channel::<()>();
        let worker = std::thread::Builder::new()
            .name("a) b(c".into())
            .spawn(move || {
                tx.send(gettid()).unwrap();
                stop_rx.recv().ok();
            })
            .unwrap();
        let tid = rx.recv().unwrap();
        let mut list = TaskList::open().unwrap();
        for _ in 0..2 {
            let mut tids = Vec::new();
            assert!(list.read(&mut tids));
            assert!(tids.contains(&tid) && tids.contains(&gettid()), "{tids:?}");
        }
        assert_eq!(name(tid).unwrap(), b"a) b(c");
        assert_eq!(TaskStat::open(gettid(), true).unwrap().state(), Some(b'R'));
        let stat = TaskStat::open(tid, false).unwrap();
        assert!(matches!(stat.state(), Some(b'S' | b'R')));
        assert!(!blocks(tid, libc::SIGURG));
        drop(stop_tx);
        worker.join().unwrap();
    }
}
