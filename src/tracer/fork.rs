//! A fork while other threads hold the tracer's locks: the forking thread takes them first, so that they are whole in the
//! child. Its own events rest meanwhile, for their handling may need a lock.
#![forbid(unsafe_code)]

use super::local;
use super::registry::{EVENTS, Inner, MARKS};
use super::tasks;
use std::cell::RefCell;
use std::sync::MutexGuard;

type Held = (MutexGuard<'static, Inner>, MutexGuard<'static, Inner>, MutexGuard<'static, Option<tasks::Inner>>);

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
}

pub fn before() {
    local::pause(true);
    HELD.with(|held| {
        if let Ok(mut held) = held.try_borrow_mut()
            && held.is_none()
        {
            *held = Some((EVENTS.lock(), MARKS.lock(), tasks::lock()));
        }
    });
}

/// On the same thread, in the parent and in the child.
pub fn after() {
    HELD.with(|held| held.take());
    local::pause(false);
}
