//! Descriptors of ours in a process whose host may close any number and use it for a file of its own (daemons do).
//!
//! Each carries a mark, `F_SETSIG` with the sampling signal, which lives in the open file and not in the number; and each
//! number has at most one owner among us. So before a number is used or closed it is known whose it is. A forked child
//! closes all that its parent's list names.

use super::signals::SAMPLE_SIGNAL;
use spprof_sigsafe::zone::{MAX_FDS, ZONE};
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;

/// Who owns a number: a [`Descriptor`]'s ticket, or 0.
static OWNERS: [AtomicU32; MAX_FDS] = [const { AtomicU32::new(0) }; MAX_FDS];
/// One more than the highest number ever owned.
static END: AtomicUsize = AtomicUsize::new(0);
static NEXT_TICKET: AtomicU32 = AtomicU32::new(1);

#[derive(Debug)]
pub struct Descriptor {
    fd: RawFd,
    ticket: u32,
}

impl Descriptor {
    /// Takes over what an opening system call has returned.
    pub fn adopt(opened: i64) -> io::Result<Self> {
        if opened < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = opened as RawFd;
        // SAFETY: fcntl on the descriptor just opened.
        let marked = match unsafe { libc::fcntl(fd, F_SETSIG, SAMPLE_SIGNAL) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        };
        match (OWNERS.get(fd as usize), marked) {
            (Some(owner), Ok(())) => {
                let ticket = NEXT_TICKET.fetch_add(1, Ordering::Relaxed).max(1);
                END.fetch_max(fd as usize + 1, Ordering::AcqRel);
                owner.store(ticket, Ordering::Release);
                Ok(Self { fd, ticket })
            }
            (_, marked) => {
                // SAFETY: just opened, closed once.
                unsafe { libc::close(fd) };
                Err(marked.err().unwrap_or_else(|| io::Error::other("the descriptor's number is too large")))
            }
        }
    }

    /// The number, if it is still ours.
    #[must_use]
    pub fn get(&self) -> Option<RawFd> {
        let owned = OWNERS.get(self.fd as usize)?.load(Ordering::Acquire) == self.ticket;
        (owned && is_marked(self.fd)).then_some(self.fd)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        let owner = OWNERS.get(self.fd as usize);
        if owner.is_some_and(|it| it.compare_exchange(self.ticket, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()) {
            let_go(self.fd);
        }
    }
}

fn is_marked(fd: RawFd) -> bool {
    // SAFETY: fcntl on a number; a foreign or closed descriptor gives another answer.
    unsafe { libc::fcntl(fd, F_GETSIG) == SAMPLE_SIGNAL }
}

fn let_go(fd: RawFd) {
    ZONE.retire_fd(fd);
    if is_marked(fd) {
        // SAFETY: a descriptor of ours, closed once.
        unsafe { libc::close(fd) };
    }
}

/// In a forked child: closes its copies of the parent's descriptors. Async-signal-safe.
pub fn close_inherited() {
    for (fd, owner) in OWNERS.iter().enumerate().take(END.load(Ordering::Acquire)) {
        if owner.swap(0, Ordering::AcqRel) != 0 {
            let_go(fd as RawFd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::{AsRawFd, IntoRawFd};

    fn open() -> Descriptor {
        Descriptor::adopt(File::open("/dev/null").unwrap().into_raw_fd().into()).unwrap()
    }

    fn is_open(fd: RawFd) -> bool {
        // SAFETY: reads the flags of a number.
        unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
    }

    /// Ours is closed with its owner.
    #[test]
    fn closes_its_own() {
        let ours = open();
        let fd = ours.get().unwrap();
        drop(ours);
        assert_eq!(OWNERS[fd as usize].load(Ordering::Relaxed), 0);
    }

    /// A number the host has closed and used again is neither given out nor closed; nor is one that became ours anew.
    #[test]
    fn a_reused_number_is_not_the_first_owners() {
        let hosts = File::open("/dev/null").unwrap();
        let first = open();
        let fd = first.get().unwrap();
        // SAFETY: dup2 onto a number of this test's own, at once closing what it was.
        assert_eq!(unsafe { libc::dup2(hosts.as_raw_fd(), fd) }, fd);
        assert_eq!(first.get(), None);
        let second = Descriptor::adopt(fd.into()).unwrap();
        assert_eq!((first.get(), second.get()), (None, Some(fd)));
        drop(first);
        assert!(is_open(fd) && second.get() == Some(fd));
    }
}
