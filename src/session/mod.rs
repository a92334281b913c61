//! A CPU run: start, drain, stop, fork, exit. Composition root of `sampler` and `resolve`.
//!
//! `start` and `stop` run on the caller's thread with the GIL held (an attached thread state); between them the run lives on
//! the [`manager`] thread, which never needs it.

mod doctor;
mod drain;
mod fork;
mod manager;
pub mod names;
mod own_stack;
mod shared;
mod terminate;
mod thread;
mod tick;
mod wake;

use crate::error::{Error, Result};
use crate::resolve::Resolver;
use crate::resolve::lifetime::{self, User};
use crate::resolve::native::{NativeDetail, Natives};
use crate::sampler::signals::{AllBlocked, SignalOwner};
use crate::sampler::source::{self, Engine};
use crate::sampler::tasks::TaskList;
use crate::sampler::{pool, runtime};
use drain::Sink;
use manager::{Manager, Setup};
use shared::Shared;
use spprof_export::{Format, Journal};
use spprof_model::Profile;
use spprof_sigsafe::zone::ZONE;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

pub use doctor::doctor;
pub use own_stack::native_stack;

/// Which time a run measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock {
    Cpu,
    Wall,
}

/// What makes samples happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineChoice {
    Auto,
    Timer,
    Perf,
    Tick,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub interval_ns: u64,
    pub clock: Clock,
    pub engine: EngineChoice,
    pub memory_limit_bytes: u64,
    pub native: NativeDetail,
    /// Where the profile is journalled to while running (`<path>.journal`) and saved on SIGTERM.
    pub output: Option<PathBuf>,
    /// Export format of `output` ("speedscope", "collapsed", "pprof", "svg", "spprof").
    pub output_format: String,
}

/// Counters of the run in progress.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub collected_samples: u64,
    pub dropped_samples: u64,
    pub duration_ns: u64,
    /// Engine in use ("timer", "perf", "tick") and why it was chosen.
    pub engine: &'static str,
    pub engine_reason: String,
    pub interval_ns: u64,
    /// Samples per CPU second (cpu clock) or per thread second (wall clock): asked for and delivered.
    pub requested_rate_hz: f64,
    pub delivered_rate_hz: f64,
    /// Nanoseconds the host's threads spent in our signal handler, and our own thread's CPU time.
    pub handler_ns: u64,
    /// Median of one handler run, to 64 ns.
    pub handler_median_ns: u64,
    pub profiler_cpu_ns: u64,
    /// Loss and trouble by reason, always the full list: (reason, count).
    pub losses: Vec<(&'static str, u64)>,
    pub process_cpu_ns: u64,
    pub weight_ns: u64,
    pub unattributed_ns: u64,
    pub threads: u64,
    pub memory_bytes: u64,
}

/// Where a run with output path `output` keeps what it has flushed so far.
#[must_use]
pub fn journal_path(output: &Path) -> PathBuf {
    let mut path = output.as_os_str().to_owned();
    path.push(".journal");
    PathBuf::from(path)
}

/// The run in progress, as its callers see it.
struct Running {
    shared: Arc<Shared>,
    manager: JoinHandle<(Profile, SignalOwner)>,
    output: Option<PathBuf>,
}

/// One run at a time; every transition is a compare-and-swap on this.
mod phase {
    pub const IDLE: u8 = 0;
    pub const STARTING: u8 = 1;
    pub const ACTIVE: u8 = 2;
    pub const STOPPING: u8 = 3;
}

static PHASE: AtomicU8 = AtomicU8::new(phase::IDLE);
/// Set while the phase is ACTIVE. A forked child forgets it (see [`fork`]).
static RUNNING: AtomicPtr<Running> = AtomicPtr::new(std::ptr::null_mut());
/// Threads that are looking at `RUNNING` right now: without a GIL, a stop may come meanwhile.
static READERS: AtomicUsize = AtomicUsize::new(0);

fn transition(from: u8, to: u8) -> bool {
    PHASE.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

/// Where the list of interpreters begins; read anew each time, because it changes.
fn interpreters_head() -> usize {
    static HEAD: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    match *HEAD.get_or_init(|| runtime::symbol(c"PyInterpreterState_Head").unwrap_or(0)) {
        0 => 0,
        // SAFETY: `PyInterpreterState *PyInterpreterState_Head(void)` only reads a static.
        address => unsafe { std::mem::transmute::<usize, extern "C" fn() -> usize>(address)() },
    }
}

/// Starts sampling every thread of the process. Needs the GIL.
pub fn start(options: Options) -> Result<()> {
    if !transition(phase::IDLE, phase::STARTING) {
        return Err(Error::runtime("Profiler already running"));
    }
    match launch(options) {
        Ok(running) => {
            RUNNING.store(Box::into_raw(Box::new(running)), Ordering::Release);
            PHASE.store(phase::ACTIVE, Ordering::Release);
            Ok(())
        }
        Err(error) => {
            PHASE.store(phase::IDLE, Ordering::Release);
            Err(error)
        }
    }
}

fn launch(options: Options) -> Result<Running> {
    let asked = match options.engine {
        EngineChoice::Auto => None,
        EngineChoice::Timer => Some(Engine::Timer),
        EngineChoice::Perf => Some(Engine::Perf),
        EngineChoice::Tick => Some(Engine::Tick),
    };
    let (engine, engine_reason) = source::choose(asked, options.clock == Clock::Wall)?;
    let runtime = runtime::runtime()?;
    let tasks =
        TaskList::open().map_err(|error| Error::os("cannot read /proc/self/task, which lists the threads", &error))?;
    let shared = Arc::new(Shared::new());
    let mut profile = Profile::new(options.memory_limit_bytes);
    describe(&mut profile.meta, &options);
    let sink = Sink::new(profile, Resolver::new(runtime.layout, runtime.code_type), Natives::new(options.native));
    let format = Format::from_name(&options.output_format)
        .ok_or_else(|| Error::value(format!("Unknown format: {}", options.output_format)))?;
    let journal = match &options.output {
        Some(path) => {
            let path = journal_path(path);
            Some(
                Journal::create(&path)
                    .map_err(|error| Error::permission(format!("Cannot write to {}: {error}", path.display())))?,
            )
        }
        None => None,
    };
    fork::register();
    fork::prepare_fd_table()?;
    pool::prepare()?;
    if options.native != NativeDetail::None {
        pool::prepare_native()?;
    }
    ZONE.set_runtime(runtime);
    lifetime::install(User::Cpu, runtime.layout, runtime.code_type)?;
    let signals =
        SignalOwner::install().inspect_err(|_| lifetime::uninstall(User::Cpu, runtime.layout, runtime.code_type))?;
    let output = options.output.clone();
    let setup = Setup {
        runtime,
        options,
        engine,
        engine_reason,
        output_format: format,
        shared: Arc::clone(&shared),
        signals,
        sink,
        tasks,
        journal,
    };
    let (armed, is_armed) = mpsc::channel();
    let spawned = {
        let _blocked = AllBlocked::new();
        std::thread::Builder::new().name("spprof".into()).stack_size(512 * 1024).spawn(move || {
            // SAFETY: sets this thread's timer slack, so that ticks come when they are due.
            unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
            let mut manager = Manager::new(setup);
            manager.arm_all();
            let _ = armed.send(());
            manager.run()
        })
    };
    let manager = spawned.map_err(|error| {
        SignalOwner::restore_current();
        lifetime::uninstall(User::Cpu, runtime.layout, runtime.code_type);
        Error::os("cannot start the manager thread", &error)
    })?;
    let _ = is_armed.recv();
    if output.is_some() {
        terminate::watch();
    }
    Ok(Running { shared, manager, output })
}

/// What a profile says, before its first sample, of the run and the process it is taken from.
fn describe(meta: &mut spprof_model::Metadata, options: &Options) {
    meta.interval_ns = options.interval_ns;
    // It decides which column the samples' weights go to.
    meta.clock = if options.clock == Clock::Wall { "wall" } else { "cpu" }.to_owned();
    runtime::describe_process(meta);
}

/// Stops sampling and gives the profile, with the output path of the run. Needs the GIL (an attached thread state).
pub fn stop() -> Result<(Profile, Option<PathBuf>)> {
    if !transition(phase::ACTIVE, phase::STOPPING) {
        return Err(Error::runtime("Profiler not running"));
    }
    terminate::unwatch();
    let running = RUNNING.swap(std::ptr::null_mut(), Ordering::SeqCst);
    // ORDER: pairs with `with_shared`: whoever does not see the null is counted by now.
    while READERS.load(Ordering::SeqCst) != 0 {
        std::thread::yield_now();
    }
    // SAFETY: made by `start` from a Box; the transition above makes this the only taker, and nobody reads it any more.
    let running = unsafe { Box::from_raw(running) };
    running.shared.stop.store(true, Ordering::Release);
    wake::wake();
    let ended = running.manager.join();
    let result = match ended {
        Ok((profile, signals)) => {
            signals.restore();
            Ok((profile, running.output))
        }
        Err(_) => {
            ZONE.active.store(false, Ordering::SeqCst);
            Err(Error::runtime("the profiler's thread failed; the profile is lost. Please report this"))
        }
    };
    if let Ok(runtime) = runtime::runtime() {
        lifetime::uninstall(User::Cpu, runtime.layout, runtime.code_type);
    }
    PHASE.store(phase::IDLE, Ordering::Release);
    result
}

#[must_use]
pub fn is_active() -> bool {
    PHASE.load(Ordering::Acquire) == phase::ACTIVE
}

/// Gives the run's shared part to `read`; `None` when no run is active.
fn with_shared<T>(read: impl FnOnce(&Shared) -> T) -> Option<T> {
    READERS.fetch_add(1, Ordering::SeqCst);
    // SAFETY: `stop` takes the pointer away, then waits until READERS is 0, before it frees what it points to.
    let shared = unsafe { RUNNING.load(Ordering::SeqCst).as_ref() }.map(|running| Arc::clone(&running.shared));
    READERS.fetch_sub(1, Ordering::SeqCst);
    shared.map(|shared| read(&shared))
}

/// `None` when no run is active.
#[must_use]
pub fn stats() -> Option<Stats> {
    with_shared(Shared::stats)
}

/// Tells the run the Python name of thread `tid`, at the thread's start or later. Without a run it does nothing.
pub fn note_thread(tid: i32, ident: u64, name: &[u8]) {
    with_shared(|shared| {
        shared.note_thread(tid, ident, name);
        wake::wake();
    });
}

/// Captures the calling thread's own Python stack, leaf first: (code object address, instruction offset). For the self-test.
pub fn walk_own_stack() -> Result<Vec<(usize, i64)>> {
    use spprof_sigsafe::pywalk::{Interrupted, Verified, WalkOutcome, walk};
    let runtime = runtime::runtime()?;
    let mut stack = spprof_sigsafe::stack::Stack::new();
    // SAFETY: needs no GIL, reads a thread-specific slot.
    let tstate = unsafe { (runtime.unchecked)() };
    match walk(runtime, &mut Verified::new(), tstate, Interrupted::default(), &mut stack) {
        WalkOutcome::Complete => Ok(stack.frames().iter().map(|frame| (frame.code, frame.offset)).collect()),
        _ => Err(Error::runtime("the frames of the calling thread cannot be followed")),
    }
}
