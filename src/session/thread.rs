//! A thread as the manager tracks it, from discovery to its end.

use super::drain::Sink;
use crate::sampler::source::Source;
use spprof_model::{NodeId, Thread, ThreadId};
use spprof_sigsafe::sys::{clock_ns, thread_clock};
use spprof_sigsafe::thread::ThreadState;
use std::sync::atomic::Ordering;

#[derive(Debug)]
pub struct Tracked {
    pub tid: i32,
    pub state: &'static ThreadState,
    /// `None` when no engine could be armed.
    pub source: Option<Source>,
    pub name: Option<Vec<u8>>,
    pub python_ident: u64,
    /// The thread in the model, once it has a sample.
    pub model: Option<ThreadId>,
    /// Nodes of the last record, root first.
    pub path: Vec<NodeId>,
    pub start_ns: u64,
    /// CPU clock when tracking began, and when last read.
    pub first_cpu_ns: u64,
    pub seen_cpu_ns: u64,
    /// Tick engine: CPU time at which the next sample is due.
    pub due_cpu_ns: u64,
    /// Handler runs counted so far into `due_cpu_ns`.
    pub seen_entered: u64,
    /// It began a moment ago, during the run: a perf event comes more often yet.
    pub young: bool,
    /// Ticks since its CPU clock last moved.
    pub idle_ticks: u32,
    /// Wall clock: the stack found when its CPU clock read this.
    pub parked: Option<(u64, NodeId)>,
    /// The thread blocks the sampling signal: it is sampled remotely.
    pub blocked: bool,
    /// When a signal that is still pending was first noticed, in manager rounds.
    pub pending_rounds: u32,
    /// Samples taken remotely, which the state does not count.
    pub remote_samples: u64,
    pub remote_weight_ns: u64,
}

impl Tracked {
    /// The thread's CPU time now; `None` when it is gone.
    pub fn cpu_ns(&self) -> Option<u64> {
        match clock_ns(thread_clock(self.tid)) {
            0 => None,
            cpu => Some(cpu),
        }
    }

    /// Moves all that its handler has written into the model. Gives the number of samples.
    pub fn drain(&mut self, sink: &mut Sink, start_ns: u64) -> u64 {
        let mut reader = self.state.ring.read();
        if reader.is_empty() {
            return 0;
        }
        let thread = self.model_id(sink);
        let mut taken = 0;
        while let Some(record) = sink.next(&mut reader, &mut self.path) {
            let time = record.time_ns.saturating_sub(start_ns);
            sink.profile.record(time, thread, record.node, record.weight_ns);
            taken += 1;
        }
        reader.commit();
        taken
    }

    /// Records a sample that was taken from outside the thread.
    pub fn record_remote(&mut self, sink: &mut Sink, time_ns: u64, node: NodeId, weight_ns: u64) {
        let thread = self.model_id(sink);
        sink.profile.record(time_ns, thread, node, weight_ns);
        self.remote_samples += 1;
        self.remote_weight_ns += weight_ns;
    }

    fn model_id(&mut self, sink: &mut Sink) -> ThreadId {
        if let Some(id) = self.model {
            return id;
        }
        let name = self.name.clone().or_else(|| crate::sampler::tasks::name(self.tid));
        let name = name.map(|name| sink.profile.intern(&name));
        let id = sink.profile.thread(Thread {
            os_id: self.tid as u64,
            python_ident: self.python_ident,
            name,
            start_ns: self.start_ns,
            end_ns: 0,
            cpu_ns: 0,
            unattributed_ns: 0,
        });
        self.model = Some(id);
        id
    }

    /// Writes what is known at the end of tracking into the model.
    pub fn close(&mut self, sink: &mut Sink, now_ns: u64) {
        if let Some(cpu) = self.cpu_ns() {
            self.seen_cpu_ns = cpu;
        }
        let last = self.state.last_cpu_ns.load(Ordering::Acquire);
        if let Some(id) = self.model {
            let name = self.name.as_ref().map(|name| sink.profile.intern(name));
            let thread = sink.profile.thread_mut(id);
            thread.end_ns = now_ns;
            thread.cpu_ns = self.seen_cpu_ns.max(last).saturating_sub(self.first_cpu_ns);
            // What no sample claimed: used after the last one, or claimed by samples that found no room.
            thread.unattributed_ns =
                self.seen_cpu_ns.saturating_sub(last) + self.state.losses.dropped_ns.load(Ordering::Relaxed);
            thread.name = name.or(thread.name);
            thread.python_ident = self.python_ident;
        }
    }
}
