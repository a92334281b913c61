//! Intervals of calls on one thread, as what begins and ends when.

use spprof_model::{NodeId, Span, SpanKind};

/// A call begins or ends; in order of time, and one inside the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Edge {
    Open(NodeId, u64),
    Close(NodeId, u64),
}

/// Edges of the calls among these spans. What the clock made stick out of its caller is cut.
pub(crate) fn edges<'a>(spans: impl Iterator<Item = &'a Span>) -> Vec<Edge> {
    let mut calls: Vec<(u64, u64, NodeId)> = spans
        .filter_map(|span| match span.kind {
            SpanKind::Call(node) => Some((span.start_ns, span.end_ns, node)),
            _ => None,
        })
        .collect();
    // Callers first: they end later; of equal intervals, the one recorded later is the caller.
    calls.reverse();
    calls.sort_by_key(|&(start, end, _)| (start, std::cmp::Reverse(end)));
    let mut edges = Vec::with_capacity(calls.len() * 2);
    let mut open: Vec<(u64, NodeId)> = Vec::new();
    for (start, end, node) in calls {
        while let Some(&(until, above)) = open.last()
            && until <= start
        {
            edges.push(Edge::Close(above, until));
            open.pop();
        }
        let end = open.last().map_or(end, |&(until, _)| end.min(until));
        edges.push(Edge::Open(node, start));
        open.push((end, node));
    }
    while let Some((until, node)) = open.pop() {
        edges.push(Edge::Close(node, until));
    }
    edges
}

#[cfg(test)]
mod tests {
    use super::*;
    use spprof_model::ThreadId;

    fn span(start_ns: u64, end_ns: u64, node: u32) -> Span {
        let thread = ThreadId::from_index(0);
        Span { start_ns, end_ns, thread, kind: SpanKind::Call(NodeId::from_index(node)) }
    }

    /// Whatever is opened is closed, the last first, and time never goes back.
    #[test]
    fn edges_nest() {
        let spans = [span(2, 4, 3), span(5, 6, 3), span(1, 7, 2), span(7, 8, 4), span(7, 8, 5), span(0, 9, 1)];
        let mut open = Vec::new();
        let mut now = 0;
        let mut seen = Vec::new();
        for edge in edges(spans.iter()) {
            match edge {
                Edge::Open(node, at) => {
                    assert!(at >= now);
                    now = at;
                    seen.push((open.len(), node.index()));
                    open.push(node);
                }
                Edge::Close(node, at) => {
                    assert!(at >= now);
                    now = at;
                    assert_eq!(open.pop(), Some(node));
                }
            }
        }
        assert!(open.is_empty());
        assert_eq!(seen, [(0, 1), (1, 2), (2, 3), (2, 3), (1, 5), (2, 4)]);
    }
}
