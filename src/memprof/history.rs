//! Live bytes over time, in a log of bounded length: when it is full every other point goes, and from then on half as many come.
#![forbid(unsafe_code)]

const POINTS: usize = 4096;
const FIRST_PERIOD_NS: u64 = 20_000_000;

/// The estimate at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Point {
    /// On the monotonic clock.
    pub time_ns: u64,
    pub live_bytes: u64,
    pub live_count: u64,
    /// Allocated since the first start.
    pub alloc_bytes: u64,
}

#[derive(Debug)]
pub struct History {
    points: Vec<Point>,
    period_ns: u64,
}

impl Default for History {
    fn default() -> Self {
        Self { points: Vec::new(), period_ns: FIRST_PERIOD_NS }
    }
}

impl History {
    /// Notes a point, unless the last one is too near.
    pub fn note(&mut self, point: Point) {
        if self.points.last().is_some_and(|last| point.time_ns < last.time_ns + self.period_ns) {
            return;
        }
        if self.points.len() == POINTS {
            let mut keep = false;
            self.points.retain(|_| {
                keep = !keep;
                keep
            });
            self.period_ns *= 2;
        }
        self.points.push(point);
    }

    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However long it goes on, the log is bounded, in order, and even.
    #[test]
    fn bounded_and_even() {
        let mut history = History::default();
        for i in 0..100_000_u64 {
            history.note(Point { time_ns: i * FIRST_PERIOD_NS, live_bytes: i, ..Point::default() });
        }
        let points = history.points();
        assert!(points.len() > POINTS / 2 && points.len() <= POINTS);
        assert_eq!(points[0].live_bytes, 0);
        let gaps: Vec<u64> = points.windows(2).map(|two| two[1].time_ns - two[0].time_ns).collect();
        assert!(gaps.iter().all(|gap| *gap == gaps[0]), "{gaps:?}");
    }
}
