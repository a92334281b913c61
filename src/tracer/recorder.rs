//! What happens on one thread: its shadow stack, and its tree of contexts with counters.
//!
//! Owned by the thread, called with it attached to the interpreter; others see [`Shared`]. Elapsed time goes to the function
//! on top of the stack at every event, so self times add up to the time the stack was not empty, whatever happens, and a
//! reader at any moment misses only what has passed since the last event. A function seen leaving that is not on top was
//! on the stack before the trace began, or the events in between were switched off; the stack is cut back to it.
use super::registry::{Known, Limits};
use super::rows::{AWAIT_TICKS, CALLS, CANCELLATIONS, EXCEPTIONS, RESUMES, ROOT, Row, Rows, SELF_TICKS};
use super::tasks::{self, Ending};
use rustc_hash::FxHashMap;
use spprof_model::FunctionKind;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

const NOTHING: u32 = u32::MAX;

/// What the recorder asks about the function an event is of. The answers may run Python code.
pub trait Site {
    fn describe(&self) -> Known;
    /// The functions below it on the interpreter's stack, innermost first.
    fn callers(&self) -> Vec<(usize, Known)>;
    /// The activation: the same address as long as it exists.
    fn activation(&self) -> usize;
    /// The program wants to know the arguments of this call.
    fn capture(&self) {}
    /// Of a generator whose event does not say: it has run before.
    fn is_resumed(&self) -> bool {
        false
    }
    /// Of a generator that is left by an exception: it was thrown in before the first step.
    fn never_ran(&self) -> bool {
        false
    }
    /// Of a generator whose event does not say: it will be resumed.
    fn is_yielding(&self) -> bool {
        false
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    Call,
    Resume,
    /// The function tells by its kind and its state.
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    Return,
    Yield,
    Raised,
    Cancelled,
    /// A generator that was closed.
    Closed,
    /// A return, or a generator's yield.
    Unknown,
}

/// A function on the shadow stack.
#[derive(Clone, Copy, Debug)]
struct Frame {
    key: usize,
    entered: u64,
    /// The row's self ticks then.
    self_ticks: u64,
    row: &'static Row,
    /// Number of the asyncio task that this frame's step belongs to, where it is the step's first.
    task: u32,
    kind: FunctionKind,
    standing: Standing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// Entered before the trace; its calls are not counted.
    Before,
    Entered,
    /// Entered again, as generators are.
    Resumed,
    /// Beyond a limit: its time is its caller's.
    Folded,
}

/// Where a function that is left was found.
enum Found {
    Below,
    Nowhere,
    Unwanted,
}

/// An interval for the timeline.
#[derive(Clone, Copy, Debug)]
pub struct Interval {
    pub from: u64,
    pub to: u64,
    pub what: What,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// On the stack; the row of the thread.
    Call(u32),
    /// A step of this task.
    Run(u32),
    /// Suspended until it was made ready.
    Wait(u32),
    /// Ready, and waiting for its turn.
    Queued(u32),
}

/// The newest intervals.
#[derive(Default, Debug)]
pub struct Ring {
    pub intervals: VecDeque<Interval>,
    pub dropped: u64,
}

impl Ring {
    pub fn push(&mut self, interval: Interval, limit: usize) {
        while self.intervals.len() >= limit {
            self.intervals.pop_front();
            self.dropped += 1;
        }
        self.intervals.push_back(interval);
    }
}

/// What happened and was not recorded as such.
#[derive(Default, Debug)]
pub struct Losses {
    /// Calls whose context found no room in the tree.
    pub tree_full: AtomicU64,
    /// Functions whose end was not seen.
    pub unseen_exits: AtomicU64,
    /// Calls below the minimum duration.
    pub short_calls: AtomicU64,
    /// Calls deeper than the limit.
    pub deep_calls: AtomicU64,
}

/// The part of a recorder that others read.
#[derive(Debug)]
pub struct Shared {
    pub rows: Rows,
    pub os_id: u64,
    pub python_ident: u64,
    pub began: u64,
    pub losses: Losses,
    pub ring: Mutex<Ring>,
    pub max_depth: AtomicU32,
    top: AtomicU32,
    last: AtomicU64,
}

impl Shared {
    /// The row on top and the ticks at the last event: what no counter holds yet.
    pub fn pending(&self) -> Option<(u32, u64)> {
        let top = self.top.load(Ordering::Relaxed);
        (top != NOTHING).then(|| (top, self.last.load(Ordering::Relaxed)))
    }

    pub fn last_event(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub struct Recorder {
    pub shared: Arc<Shared>,
    limits: &'static Limits,
    stack: Vec<Frame>,
    index: FxHashMap<(u32, usize), u32>,
    known: FxHashMap<usize, Known>,
    /// Of the filters that `known` was made by.
    epoch: u32,
    /// When each suspended coroutine was.
    suspended: FxHashMap<usize, u64>,
    last: u64,
    rooted: bool,
}

fn is_async(kind: FunctionKind) -> bool {
    matches!(kind, FunctionKind::Coroutine | FunctionKind::AsyncGenerator)
}

/// Whether its activations are left and entered again.
fn steps(kind: FunctionKind) -> bool {
    is_async(kind) || kind == FunctionKind::Generator
}

fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

impl Recorder {
    #[must_use]
    pub fn new(limits: &'static Limits, os_id: u64, python_ident: u64, now: u64) -> Self {
        let shared = Shared {
            rows: Rows::new(),
            os_id,
            python_ident,
            began: now,
            losses: Losses::default(),
            ring: Mutex::default(),
            max_depth: AtomicU32::new(0),
            top: AtomicU32::new(NOTHING),
            last: AtomicU64::new(now),
        };
        Self {
            shared: Arc::new(shared),
            limits,
            stack: Vec::with_capacity(64),
            index: FxHashMap::default(),
            known: FxHashMap::default(),
            epoch: limits.epoch(),
            suspended: FxHashMap::default(),
            last: now,
            rooted: false,
        }
    }

    /// A function is entered. False: it is not to be traced.
    #[inline]
    pub fn enter(&mut self, site: &impl Site, key: usize, now: u64, entry: Entry) -> bool {
        let (parent, parent_kind) = match self.stack.last() {
            Some(top) => (top.row, top.kind),
            None => self.root(site),
        };
        let Some((row, kind, mut standing)) = self.child(site, parent, key, entry) else { return false };
        if entry == Entry::Unknown && standing == Standing::Entered && steps(kind) && site.is_resumed() {
            standing = Standing::Resumed;
        }
        self.charge(now);
        let shared = &*self.shared;
        match standing {
            Standing::Entered => row.add(CALLS, 1),
            Standing::Resumed => row.add(RESUMES, 1),
            _ => {}
        }
        let mut task = NOTHING;
        if is_async(kind) {
            if let Some(at) = self.suspended.remove(&site.activation()) {
                row.add(AWAIT_TICKS, now.saturating_sub(at));
            }
            task = self.task_of(kind, parent_kind, key, row.function.load(Ordering::Relaxed), now);
        }
        self.stack.push(Frame { key, entered: now, self_ticks: row.get(SELF_TICKS), row, task, kind, standing });
        let depth = self.stack.len() as u32;
        if depth > shared.max_depth.load(Ordering::Relaxed) {
            shared.max_depth.store(depth, Ordering::Relaxed);
        }
        shared.top.store(row.index(), Ordering::Relaxed);
        if standing == Standing::Entered && self.limits.captures() {
            site.capture();
        }
        true
    }

    /// A function is left. False: it is not to be traced.
    #[inline]
    pub fn leave(&mut self, site: &impl Site, key: usize, now: u64, exit: Exit) -> bool {
        if self.stack.last().is_none_or(|top| top.key != key) {
            match self.cut_back_to(site, key, now) {
                Found::Below => {}
                Found::Nowhere => return true,
                Found::Unwanted => return false,
            }
        }
        self.charge(now);
        let Some(frame) = self.stack.pop() else { return true };
        let exit = match exit {
            Exit::Unknown if steps(frame.kind) && site.is_yielding() => Exit::Yield,
            Exit::Unknown => Exit::Return,
            known => known,
        };
        self.left(site, &frame, now, exit);
        let top = self.stack.last().map_or(NOTHING, |top| top.row.index());
        self.shared.top.store(top, Ordering::Relaxed);
        true
    }

    #[inline]
    fn left(&mut self, site: &impl Site, frame: &Frame, now: u64, exit: Exit) {
        let row = frame.row;
        if exit == Exit::Raised && frame.standing == Standing::Entered && steps(frame.kind) && site.never_ran() {
            row.add(CALLS, u64::MAX);
        } else if frame.standing != Standing::Folded {
            match exit {
                Exit::Raised => row.add(EXCEPTIONS, 1),
                Exit::Cancelled => row.add(CANCELLATIONS, 1),
                _ => {}
            }
        }
        if is_async(frame.kind) {
            if exit == Exit::Yield {
                self.suspended.insert(site.activation(), now);
            }
            if frame.task != NOTHING {
                let ending = match exit {
                    Exit::Yield => Ending::Suspended,
                    Exit::Return | Exit::Closed | Exit::Unknown => Ending::Finished,
                    Exit::Raised => Ending::Failed,
                    Exit::Cancelled => Ending::Cancelled,
                };
                tasks::step_ends(&self.shared, self.limits, frame.task, frame.key, now, ending);
            }
        }
        let plain = matches!(frame.kind, FunctionKind::Python | FunctionKind::Builtin);
        let short = now.saturating_sub(frame.entered) < self.limits.min_ticks();
        if short && plain && frame.standing == Standing::Entered {
            // As if it had not been called: what it called was shorter still, and is gone already.
            let own = row.get(SELF_TICKS).wrapping_sub(frame.self_ticks);
            row.add(SELF_TICKS, own.wrapping_neg());
            row.add(CALLS, u64::MAX);
            let parent = row.parent.load(Ordering::Relaxed);
            self.shared.rows.get(parent).add(SELF_TICKS, own);
            bump(&self.shared.losses.short_calls);
            return;
        }
        let limit = self.limits.intervals();
        if limit > 0 && frame.standing != Standing::Folded {
            let interval = Interval { from: frame.entered, to: now, what: What::Call(row.index()) };
            self.shared.ring.lock().unwrap_or_else(PoisonError::into_inner).push(interval, limit);
        }
    }

    /// Gives the time since the last event to whatever is on top.
    #[inline]
    pub fn charge(&mut self, now: u64) {
        if let Some(top) = self.stack.last() {
            top.row.add(SELF_TICKS, now.saturating_sub(self.last));
        }
        self.last = now;
        self.shared.last.store(now, Ordering::Relaxed);
    }

    /// The row on top of the stack.
    #[must_use]
    pub fn top(&self) -> u32 {
        self.stack.last().map_or(ROOT, |top| top.row.index())
    }

    /// Functions on the stack.
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.stack.len() as u32
    }

    /// A scope is opened by the first of these functions, which the second called, and so on.
    pub fn stand_on(&mut self, chain: &[(usize, Known)], now: u64) {
        self.charge(now);
        if self.stack.is_empty() {
            self.rooted = true;
            self.push_standing(chain);
        }
    }

    #[inline]
    fn child(
        &mut self,
        site: &impl Site,
        parent: &'static Row,
        key: usize,
        entry: Entry,
    ) -> Option<(&'static Row, FunctionKind, Standing)> {
        let standing = if entry == Entry::Resume { Standing::Resumed } else { Standing::Entered };
        if self.has_room_above()
            && let Some(child) = self.recent(parent, key)
        {
            return Some((child, kind_of(child.kind.load(Ordering::Relaxed)), standing));
        }
        self.find_child(site, parent, key, standing)
    }

    #[inline(never)]
    fn find_child(
        &mut self,
        site: &impl Site,
        parent: &'static Row,
        key: usize,
        standing: Standing,
    ) -> Option<(&'static Row, FunctionKind, Standing)> {
        let room = self.has_room_above();
        if room && let Some(&child) = self.index.get(&(parent.index(), key)) {
            let child = self.pinned(child);
            parent.recent_key.store(key as u64, Ordering::Relaxed);
            parent.recent_child.store(std::ptr::from_ref(child).cast_mut(), Ordering::Relaxed);
            return Some((child, kind_of(child.kind.load(Ordering::Relaxed)), standing));
        }
        let (function, kind) = self.known(site, key)?;
        if !room || self.shared.rows.len() >= self.limits.max_rows() {
            let deep = self.stack.len() >= self.limits.max_depth();
            bump(if deep { &self.shared.losses.deep_calls } else { &self.shared.losses.tree_full });
            return Some((parent, kind, Standing::Folded));
        }
        let child = self.insert(parent.index(), key, function, kind);
        Some((self.pinned(child), kind, standing))
    }

    /// Nothing is recorded above a function that could not be, or it would seem to be called by that one's caller.
    #[inline]
    fn has_room_above(&self) -> bool {
        self.stack.len() < self.limits.max_depth()
            && self.stack.last().is_none_or(|top| top.standing != Standing::Folded)
    }

    fn known(&mut self, site: &impl Site, key: usize) -> Option<(u32, FunctionKind)> {
        let epoch = self.limits.epoch();
        if self.epoch != epoch {
            self.epoch = epoch;
            self.known.clear();
        }
        let known = match self.known.get(&key) {
            Some(&known) => known,
            None => {
                let known = site.describe();
                self.known.insert(key, known);
                known
            }
        };
        match known {
            Known::Traced { function, kind } => Some((function, kind)),
            Known::Unwanted => None,
        }
    }

    /// A row, for this recorder's own stack.
    fn pinned(&self, index: u32) -> &'static Row {
        // SAFETY: rows never move, and live as long as `shared`, which this recorder holds; the references stay in its stack.
        unsafe { &*std::ptr::from_ref(self.shared.rows.get(index)) }
    }

    /// The child that was called here last, if it is this one.
    #[inline]
    fn recent(&self, parent: &'static Row, key: usize) -> Option<&'static Row> {
        if parent.recent_key.load(Ordering::Relaxed) != key as u64 {
            return None;
        }
        // SAFETY: stored with its key, by this thread, from a pinned row of the same tree; null before that, when the key is
        // 0, which no function has.
        unsafe { parent.recent_child.load(Ordering::Relaxed).as_ref() }
    }

    fn insert(&mut self, parent: u32, key: usize, function: u32, kind: FunctionKind) -> u32 {
        let child = self.shared.rows.push(parent, function, number_of(kind));
        self.index.insert((parent, key), child);
        child
    }

    /// Puts functions on the empty stack that were entered before; innermost first.
    fn push_standing(&mut self, chain: &[(usize, Known)]) {
        for &(key, known) in chain.iter().rev() {
            let Known::Traced { function, kind } = known else { continue };
            let (parent, parent_kind) = self.above();
            if self.shared.rows.len() >= self.limits.max_rows() {
                break;
            }
            let row = match self.index.get(&(parent.index(), key)) {
                Some(&row) => row,
                None => self.insert(parent.index(), key, function, kind),
            };
            let row = self.pinned(row);
            let task = self.task_of(kind, parent_kind, key, function, self.last);
            let self_ticks = row.get(SELF_TICKS);
            let standing = Standing::Before;
            self.stack.push(Frame { key, entered: self.last, self_ticks, row, task, kind, standing });
        }
        self.shared.top.store(self.stack.last().map_or(NOTHING, |top| top.row.index()), Ordering::Relaxed);
    }

    /// The stack is empty: at first, what is below the function at hand is put there.
    #[cold]
    fn root(&mut self, site: &impl Site) -> (&'static Row, FunctionKind) {
        if !self.rooted {
            self.rooted = true;
            self.push_standing(&site.callers());
        }
        self.above()
    }

    /// The row and the kind of what is called next's caller.
    fn above(&self) -> (&'static Row, FunctionKind) {
        self.stack.last().map_or_else(|| (self.pinned(ROOT), FunctionKind::Synthetic), |top| (top.row, top.kind))
    }

    /// The task whose step begins with entering this function, if one does.
    #[inline]
    fn task_of(&self, kind: FunctionKind, parent: FunctionKind, key: usize, function: u32, now: u64) -> u32 {
        if kind != FunctionKind::Coroutine || steps(parent) {
            return NOTHING;
        }
        tasks::step_begins(&self.shared, self.limits, key, function, now).unwrap_or(NOTHING)
    }

    /// The function that is left is not on top. If it is further down, what is above was left unseen.
    #[cold]
    fn cut_back_to(&mut self, site: &impl Site, key: usize, now: u64) -> Found {
        let Some(at) = self.stack.iter().rposition(|frame| frame.key == key) else {
            return if self.known(site, key).is_some() { Found::Nowhere } else { Found::Unwanted };
        };
        self.charge(now);
        for frame in self.stack.drain(at + 1..) {
            bump(&self.shared.losses.unseen_exits);
            if frame.task != NOTHING {
                tasks::step_ends(&self.shared, self.limits, frame.task, 0, now, Ending::Suspended);
            }
        }
        Found::Below
    }

    /// A call into C ends. Its end may have gone unseen, and so may its beginning: then this is not on top.
    pub fn leave_callable(&mut self, site: &impl Site, key: usize, now: u64, exit: Exit) {
        if self.stack.last().is_some_and(|top| top.key == key && top.kind == FunctionKind::Builtin) {
            self.leave(site, key, now, exit);
        }
    }
}

/// Kinds as numbers in rows.
fn number_of(kind: FunctionKind) -> u32 {
    FunctionKind::ALL.iter().position(|&known| known == kind).unwrap_or(0) as u32
}

#[inline]
fn kind_of(number: u32) -> FunctionKind {
    FunctionKind::ALL.get(number as usize).copied().unwrap_or(FunctionKind::Python)
}
