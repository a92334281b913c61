//! What the kernel tells of this process' threads: the task list, a thread's state, name and blocked signals.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

#[must_use]
pub fn gettid() -> i32 {
    // SAFETY: always callable.
    unsafe { libc::syscall(libc::SYS_gettid) as i32 }
}

/// Reads the task list of this process again and again through one descriptor.
#[derive(Debug)]
pub struct TaskList {
    dir: OwnedFd,
    buffer: Vec<u8>,
}

impl TaskList {
    pub fn open() -> std::io::Result<Self> {
        // SAFETY: a NUL-terminated path.
        let fd = unsafe { libc::open(c"/proc/self/task".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and is owned by nobody else.
        Ok(Self { dir: unsafe { OwnedFd::from_raw_fd(fd) }, buffer: vec![0; 32 * 1024] })
    }

    /// Appends the ids of all threads to `tids`.
    pub fn read(&mut self, tids: &mut Vec<i32>) {
        let fd = self.dir.as_raw_fd();
        // SAFETY: plain system calls on our own descriptor and buffer.
        unsafe { libc::lseek(fd, 0, libc::SEEK_SET) };
        loop {
            // SAFETY: as above; the kernel writes at most `len` bytes.
            let got =
                unsafe { libc::syscall(libc::SYS_getdents64, fd, self.buffer.as_mut_ptr(), self.buffer.len()) };
            let Ok(got) = usize::try_from(got) else { return };
            if got == 0 {
                return;
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

/// A thread's `stat`, kept open: reading its state letter costs one `pread`.
#[derive(Debug)]
pub struct TaskStat(OwnedFd);

impl TaskStat {
    #[must_use]
    pub fn open(tid: i32) -> Option<Self> {
        let path = CString::new(format!("/proc/self/task/{tid}/stat")).ok()?;
        // SAFETY: a NUL-terminated path.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        // SAFETY: `fd` was just opened and is owned by nobody else.
        (fd >= 0).then(|| Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// `R` running or waiting for a processor, `S`/`D` sleeping, ...; `None` when the thread is gone.
    #[must_use]
    pub fn state(&self) -> Option<u8> {
        let mut buffer = [0_u8; 128];
        // SAFETY: reads into our own buffer.
        let got = unsafe { libc::pread(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let text = &buffer[..usize::try_from(got).ok()?];
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
    let Ok(status) = fs::read_to_string(format!("/proc/self/task/{tid}/status")) else { return false };
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigBlk:"))
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
            list.read(&mut tids);
            assert!(tids.contains(&tid) && tids.contains(&gettid()), "{tids:?}");
        }
        assert_eq!(name(tid).unwrap(), b"a) b(c");
        assert_eq!(TaskStat::open(gettid()).unwrap().state(), Some(b'R'));
        let stat = TaskStat::open(tid).unwrap();
        assert!(matches!(stat.state(), Some(b'S' | b'R')));
        assert!(!blocks(tid, libc::SIGURG));
        drop(stop_tx);
        worker.join().unwrap();
    }
}
