//! A part of a profile as a profile: by thread, by time, by frame. What is left out is stated, not lost from sight.

use crate::hot::add;
use crate::ids::{NodeId, ThreadId};
use crate::merge::{Translation, copy_thread};
use crate::profile::Profile;
use crate::timeline::Sample;
use std::ops::Range;

/// What to keep; the parts that are `None` keep everything.
#[derive(Default)]
pub struct Selection<'a> {
    pub threads: Option<&'a [ThreadId]>,
    /// Samples at these times since the start of the profile.
    pub time_ns: Option<Range<u64>>,
    /// Samples whose stack holds a frame like this.
    #[allow(clippy::type_complexity)]
    pub frame: Option<&'a dyn Fn(&Profile, NodeId) -> bool>,
}

/// The selected samples with the whole tree. Metadata tells the weight that was left out, in a note, and as losses
/// `filtered_samples` and `filtered_ns`. Columns other than those of the samples are of the whole run and are left out.
#[must_use]
pub fn filter(profile: &Profile, selection: &Selection) -> Profile {
    let mut kept = Profile::unlimited();
    kept.meta = profile.meta.clone();
    kept.meta.losses = profile.losses();
    let translation = Translation::copy(profile, &mut kept);
    let threads: Vec<ThreadId> =
        profile.threads().iter().map(|thread| copy_thread(profile, &mut kept, thread, 0)).collect();
    let mut matches = vec![false; profile.nodes().len()];
    for (i, node) in profile.nodes().iter().enumerate() {
        matches[i] = match selection.frame {
            None => true,
            Some(_) if i == 0 => false,
            Some(frame) => matches[node.parent.index()] || frame(profile, NodeId(i as u32)),
        };
    }
    let (mut left_out, mut left_out_ns, mut kept_ns) = (0, 0, 0);
    for sample in profile.samples() {
        let selected = matches[sample.node.index()]
            && selection.threads.is_none_or(|threads| threads.contains(&sample.thread))
            && selection.time_ns.as_ref().is_none_or(|range| range.contains(&sample.time_ns));
        if selected {
            add(&mut kept_ns, sample.weight_ns);
            kept.record_merged(&Sample {
                thread: threads[sample.thread.index()],
                node: translation.node(sample.node),
                ..sample
            });
        } else {
            add(&mut left_out, sample.count);
            add(&mut left_out_ns, sample.weight_ns);
        }
    }
    kept.meta.weight_ns = kept_ns;
    if left_out > 0 {
        kept.meta.losses.push(("filtered_samples".to_owned(), left_out));
        kept.meta.losses.push(("filtered_ns".to_owned(), left_out_ns));
        kept.meta.notes.push(format!("a filter left out {left_out} samples of {left_out_ns} ns"));
    }
    kept
}
