//! The contract of engines, and which one is truthful at the interval asked for.

use super::linux_perf::{self, PerfEvent};
use super::linux_timer::CpuTimer;
use super::tasks::TaskStat;
use crate::error::{Error, Result};
use spprof_sigsafe::thread::ThreadState;
use std::io;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    Timer,
    Perf,
    Tick,
}

impl Engine {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Timer => "timer",
            Self::Perf => "perf",
            Self::Tick => "tick",
        }
    }
}

/// Between two signals of the timer beside the ticks: seldom at short intervals, often enough at long ones.
fn timer_ns(interval_ns: u64) -> u64 {
    (interval_ns * 8).min(80_000_000).max(interval_ns * 2)
}

/// What makes one thread's signals. Dropping it stops them.
#[derive(Debug)]
pub enum Source {
    Timer(CpuTimer),
    Perf(PerfEvent),
    /// The timer is for a thread that hardly ever is on a processor while the manager is: it fires in the thread's own time.
    Tick(TaskStat, Option<CpuTimer>),
}

impl Source {
    /// `may_keep`: whether it may hold a descriptor. A perf event must.
    pub fn arm(
        engine: Engine,
        tid: i32,
        state: &'static ThreadState,
        interval_ns: u64,
        wall: bool,
        may_keep: bool,
    ) -> io::Result<Self> {
        match engine {
            Engine::Timer => CpuTimer::arm(tid, state, interval_ns).map(Self::Timer),
            Engine::Perf => PerfEvent::arm(tid, state, interval_ns).map(Self::Perf),
            Engine::Tick => {
                let stat = TaskStat::open(tid, may_keep)?;
                // Without it the engine still works.
                let timer = if wall { None } else { CpuTimer::arm(tid, state, timer_ns(interval_ns)).ok() };
                Ok(Self::Tick(stat, timer))
            }
        }
    }

    /// False when the host has closed a descriptor that the signals came from.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        match self {
            Self::Perf(event) => event.is_open(),
            Self::Timer(_) | Self::Tick(..) => true,
        }
    }
}

/// The kernel's tick, below which CPU-clock timers cannot go: CLOCK_MONOTONIC_COARSE advances with it.
#[must_use]
pub fn kernel_tick_ns() -> u64 {
    let mut resolution = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: an out-pointer.
    unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &mut resolution) };
    resolution.tv_nsec.unsigned_abs()
}

/// The engine for a run, with the reason a person can read.
pub fn choose(asked: Option<Engine>, wall: bool) -> Result<(Engine, String)> {
    if wall {
        return match asked {
            None | Some(Engine::Tick) => {
                Ok((Engine::Tick, "the wall clock needs the manager's ticks to see sleeping threads".into()))
            }
            Some(other) => Err(Error::value(format!(
                "engine {:?} cannot measure clock 'wall': it never fires while a thread sleeps; use engine 'tick' or 'auto'",
                other.name()
            ))),
        };
    }
    match asked {
        Some(Engine::Perf) => match linux_perf::available() {
            Ok(()) => Ok((Engine::Perf, "asked for".into())),
            Err(error) => Err(Error {
                kind: crate::error::ErrorKind::Permission,
                message: format!(
                    "engine 'perf' is not allowed here ({error}): it needs CAP_PERFMON or kernel.perf_event_paranoid <= 1; \
                     use engine 'auto'"
                ),
            }),
        },
        Some(engine) => Ok((engine, "asked for".into())),
        None => Ok(match linux_perf::available() {
            Ok(()) => {
                (Engine::Perf, "perf task-clock with kernel time is allowed: exact CPU time at any interval".into())
            }
            Err(error) if TaskStat::open(super::tasks::gettid(), false).is_ok() => (
                Engine::Tick,
                format!("perf with kernel time is not allowed ({error}); CPU-clock timers miss bursty threads"),
            ),
            Err(error) => (
                Engine::Timer,
                format!("perf is not allowed ({error}) and /proc is not readable; rate limited to the kernel tick"),
            ),
        }),
    }
}
