//! Waking the manager thread: an eventfd, which a signal handler may write to.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

#[derive(Debug)]
pub struct Wake(OwnedFd);

impl Wake {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no preconditions.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and is owned by nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub fn wake(&self) {
        wake_fd(self.fd());
    }

    /// Waits until woken or until `timeout` has passed.
    pub fn wait(&self, timeout: Duration) {
        let mut poll = libc::pollfd { fd: self.fd(), events: libc::POLLIN, revents: 0 };
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: libc::c_long::from(timeout.subsec_nanos() as i32),
        };
        let mut count = 0_u64;
        // SAFETY: one valid pollfd, a valid timespec, no signal mask; then an 8-byte read into `count`.
        unsafe {
            if libc::ppoll(&mut poll, 1, &timeout, std::ptr::null()) > 0 {
                libc::read(self.fd(), (&raw mut count).cast(), 8);
            }
        }
    }
}

/// Async-signal-safe.
pub fn wake_fd(fd: RawFd) {
    let one = 1_u64;
    // SAFETY: writes 8 bytes from `one`; a failure means that the counter is full, so somebody is being woken anyway.
    unsafe { libc::write(fd, (&raw const one).cast(), 8) };
}
