//! pprof: a gzipped protocol buffer of samples by stack and thread, with source lines.

use crate::frames::thread_name;
use crate::wtf8;
use flate2::{Compression, write::GzEncoder};
use prost::Message;
use rustc_hash::FxHashMap;
use spprof_model::{Column, FunctionKind, NodeId, Profile, Values};
use std::io::{self, Write};

/// The messages of profile.proto that we use; numbers are that file's.
pub(crate) mod proto {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ValueType {
        #[prost(int64, tag = "1")]
        pub r#type: i64,
        #[prost(int64, tag = "2")]
        pub unit: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Label {
        #[prost(int64, tag = "1")]
        pub key: i64,
        #[prost(int64, tag = "2")]
        pub str: i64,
        #[prost(int64, tag = "3")]
        pub num: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Sample {
        #[prost(uint64, repeated, tag = "1")]
        pub location_id: Vec<u64>,
        #[prost(int64, repeated, tag = "2")]
        pub value: Vec<i64>,
        #[prost(message, repeated, tag = "3")]
        pub label: Vec<Label>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Line {
        #[prost(uint64, tag = "1")]
        pub function_id: u64,
        #[prost(int64, tag = "2")]
        pub line: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Location {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(uint64, tag = "2")]
        pub mapping_id: u64,
        #[prost(uint64, tag = "3")]
        pub address: u64,
        #[prost(message, repeated, tag = "4")]
        pub line: Vec<Line>,
    }

    /// `pprof` takes locations for symbolised only if they have a mapping that says so.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Mapping {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(uint64, tag = "2")]
        pub memory_start: u64,
        #[prost(uint64, tag = "3")]
        pub memory_limit: u64,
        #[prost(int64, tag = "5")]
        pub filename: i64,
        #[prost(int64, tag = "6")]
        pub build_id: i64,
        #[prost(bool, tag = "7")]
        pub has_functions: bool,
        #[prost(bool, tag = "8")]
        pub has_filenames: bool,
        #[prost(bool, tag = "9")]
        pub has_line_numbers: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Function {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(int64, tag = "2")]
        pub name: i64,
        #[prost(int64, tag = "3")]
        pub system_name: i64,
        #[prost(int64, tag = "4")]
        pub filename: i64,
        #[prost(int64, tag = "5")]
        pub start_line: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Profile {
        #[prost(message, repeated, tag = "1")]
        pub sample_type: Vec<ValueType>,
        #[prost(message, repeated, tag = "2")]
        pub sample: Vec<Sample>,
        #[prost(message, repeated, tag = "3")]
        pub mapping: Vec<Mapping>,
        #[prost(message, repeated, tag = "4")]
        pub location: Vec<Location>,
        #[prost(message, repeated, tag = "5")]
        pub function: Vec<Function>,
        #[prost(string, repeated, tag = "6")]
        pub string_table: Vec<String>,
        #[prost(int64, tag = "9")]
        pub time_nanos: i64,
        #[prost(int64, tag = "10")]
        pub duration_nanos: i64,
        #[prost(message, optional, tag = "11")]
        pub period_type: Option<ValueType>,
        #[prost(int64, tag = "12")]
        pub period: i64,
        #[prost(int64, repeated, tag = "13")]
        pub comment: Vec<i64>,
        #[prost(int64, tag = "14")]
        pub default_sample_type: i64,
    }
}

/// What a native or synthetic function says as its system name.
pub(crate) const NATIVE: &str = "native";
pub(crate) const SYNTHETIC: &str = "synthetic";

/// The four views of a heap, in the order and with the names of Go's heap profiles, which the tools know.
pub(crate) const HEAP_TYPES: [(&str, &str, Column); 4] = [
    ("alloc_objects", "count", Column::AllocCount),
    ("alloc_space", "bytes", Column::AllocBytes),
    ("inuse_objects", "count", Column::LiveCount),
    ("inuse_space", "bytes", Column::LiveBytes),
];

/// Repeated fields may come in any number of pieces, so each piece is a message with the next few of them, written at once.
pub(crate) fn write(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    let mut out = GzEncoder::new(out, Compression::fast());
    let mut strings = Strings::default();
    strings.number(String::new());
    let meta = &profile.meta;
    let (clock, unit) = match profile.time_column() {
        Column::LiveBytes => ("inuse_space", "bytes"),
        Column::WallNs => ("wall", "nanoseconds"),
        _ if profile.is_trace() => ("wall", "nanoseconds"),
        _ => ("cpu", "nanoseconds"),
    };
    let counted = if profile.is_trace() { "calls" } else { "samples" };
    let mut value_type = |kind: &str, unit: &str| proto::ValueType {
        r#type: strings.number(kind.to_owned()),
        unit: strings.number(unit.to_owned()),
    };
    let time = value_type(clock, unit);
    let sample_type = if profile.is_heap() {
        HEAP_TYPES.map(|(kind, unit, _)| value_type(kind, unit)).to_vec()
    } else {
        vec![value_type(counted, "count"), time.clone()]
    };
    let period_type = if profile.is_heap() { value_type("space", "bytes") } else { time.clone() };
    let head = proto::Profile {
        sample_type,
        mapping: mappings(profile, &mut strings),
        time_nanos: clamp(meta.start_unix_ns),
        duration_nanos: clamp(meta.duration_ns),
        default_sample_type: time.r#type,
        period_type: Some(period_type),
        period: clamp(meta.interval_ns),
        comment: comments(profile).into_iter().map(|comment| strings.number(comment)).collect(),
        ..Default::default()
    };
    put(&mut out, &head)?;
    let locations = write_samples(profile, &mut strings, &mut out)?;
    write_locations(profile, &locations, &mut out)?;
    write_functions(profile, &locations, &mut strings, &mut out)?;
    put(&mut out, &proto::Profile { string_table: strings.texts, ..Default::default() })?;
    out.finish()?;
    Ok(())
}

/// One sample for each stack of the columns, where there is no timeline that tells of threads: calls and time of a trace.
fn write_columns(profile: &Profile, out: &mut impl Write) -> io::Result<Locations> {
    let values = Values::of_profile(profile);
    let mut locations = Locations::default();
    for (i, (&count, &weight_ns)) in values.samples.iter().zip(&values.weight_ns).enumerate() {
        if count == 0 && weight_ns == 0 {
            continue;
        }
        let stack = profile.stack(NodeId::from_index(i as u32));
        let sample = proto::Sample {
            location_id: stack.map(|node| locations.number(profile, node)).collect(),
            value: vec![clamp(count), clamp(weight_ns)],
            label: Vec::new(),
        };
        put(out, &proto::Profile { sample: vec![sample], ..Default::default() })?;
    }
    Ok(locations)
}

/// One sample for each stack that ever allocated: threads are told of live blocks only, and are left out.
fn write_heap(profile: &Profile, out: &mut impl Write) -> io::Result<Locations> {
    let mut locations = Locations::default();
    for i in 1..profile.nodes().len() {
        let leaf = NodeId::from_index(i as u32);
        let value = HEAP_TYPES.map(|(_, _, column)| clamp(profile.value(column, leaf).unwrap_or(0)));
        if value == [0; 4] {
            continue;
        }
        let location_id = profile.stack(leaf).map(|node| locations.number(profile, node)).collect();
        let sample = proto::Sample { location_id, value: value.to_vec(), label: Vec::new() };
        put(out, &proto::Profile { sample: vec![sample], ..Default::default() })?;
    }
    Ok(locations)
}

/// The first is of everything that is not native; the modules follow.
fn mappings(profile: &Profile, strings: &mut Strings) -> Vec<proto::Mapping> {
    let program = profile.meta.argv.first().cloned().unwrap_or_default();
    let mut mapping = |filename: String, build_id: String, start: u64, limit: u64| proto::Mapping {
        id: 0,
        memory_start: start,
        memory_limit: limit,
        filename: strings.number(filename),
        build_id: strings.number(build_id),
        has_functions: true,
        has_filenames: true,
        has_line_numbers: true,
    };
    let mut mappings = vec![mapping(program, String::new(), 0, 0)];
    for module in profile.modules() {
        mappings.push(mapping(wtf8::to_text(&module.path), module.build_id_hex(), module.start, module.end));
    }
    for (i, mapping) in mappings.iter_mut().enumerate() {
        mapping.id = i as u64 + 1;
    }
    mappings
}

/// One sample for each thread and stack. Gives the places they name.
fn write_samples(profile: &Profile, strings: &mut Strings, out: &mut impl Write) -> io::Result<Locations> {
    if profile.is_trace() || profile.is_without_timeline() {
        return write_columns(profile, out);
    }
    if profile.is_heap() {
        return write_heap(profile, out);
    }
    let mut sums: FxHashMap<(usize, NodeId), (u64, u64)> = FxHashMap::default();
    for sample in profile.samples() {
        let sum = sums.entry((sample.thread.index(), sample.node)).or_default();
        *sum = (sum.0.saturating_add(sample.count), sum.1.saturating_add(sample.weight_ns));
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_unstable_by_key(|&(key, _)| key);
    let (thread_key, id_key) = (strings.number("thread".to_owned()), strings.number("thread_id".to_owned()));
    let mut locations = Locations::default();
    for ((thread, leaf), (count, weight_ns)) in sums {
        let name = strings.number(wtf8::to_text(&thread_name(profile, thread)));
        let os_id = profile.threads()[thread].os_id as i64;
        let sample = proto::Sample {
            location_id: profile.stack(leaf).map(|node| locations.number(profile, node)).collect(),
            value: vec![clamp(count), clamp(weight_ns)],
            label: vec![
                proto::Label { key: thread_key, str: name, num: 0 },
                proto::Label { key: id_key, str: 0, num: os_id },
            ],
        };
        put(out, &proto::Profile { sample: vec![sample], ..Default::default() })?;
    }
    Ok(locations)
}

fn write_locations(profile: &Profile, locations: &Locations, out: &mut impl Write) -> io::Result<()> {
    // Of two modules of one path the first: a profile with names has each path once.
    let modules: FxHashMap<&[u8], usize> =
        profile.modules().iter().enumerate().rev().map(|(i, module)| (&*module.path, i)).collect();
    for (i, &(function, line)) in locations.rows.iter().enumerate() {
        let line = proto::Line { function_id: u64::from(function) + 1, line: i64::from(line) };
        let function = &profile.functions()[function as usize];
        let row = modules.get(profile.bytes(function.module)).filter(|_| function.is_native());
        // A sample's own address is not kept: that of its function, as in memory.
        let address = row.map_or(0, |&row| match function.discriminator {
            0 => 0,
            start => start.wrapping_add(profile.modules()[row].bias),
        });
        let mapping_id = row.map_or(1, |&row| row as u64 + 2);
        let location = proto::Location { id: i as u64 + 1, mapping_id, address, line: vec![line] };
        put(out, &proto::Profile { location: vec![location], ..Default::default() })?;
    }
    Ok(())
}

fn write_functions(
    profile: &Profile,
    locations: &Locations,
    strings: &mut Strings,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut used: Vec<u32> = locations.rows.iter().map(|&(function, _)| function).collect();
    used.sort_unstable();
    used.dedup();
    for i in used {
        let function = &profile.functions()[i as usize];
        let function = proto::Function {
            id: u64::from(i) + 1,
            name: strings.number(wtf8::to_text(profile.bytes(function.name))),
            system_name: match function.kind {
                FunctionKind::Native | FunctionKind::Address => strings.number(NATIVE.to_owned()),
                FunctionKind::Synthetic => strings.number(SYNTHETIC.to_owned()),
                _ => 0,
            },
            filename: strings.number(wtf8::to_text(profile.bytes(profile.place_of(function)))),
            start_line: i64::from(function.first_line),
        };
        put(out, &proto::Profile { function: vec![function], ..Default::default() })?;
    }
    Ok(())
}

/// What the format has no field for, as `key: value` comments.
fn comments(profile: &Profile) -> Vec<String> {
    let meta = &profile.meta;
    let mut comments = vec![
        format!("exporter: {}", meta.exporter),
        format!("clock: {}", meta.clock),
        format!("engine: {} ({})", meta.engine, meta.engine_reason),
        format!("python: {}", meta.python_version),
        format!("platform: {}", meta.platform),
        format!("command: {}", meta.argv.join(" ")),
        format!("rate: requested {} Hz, delivered {} Hz", meta.requested_rate_hz, meta.delivered_rate_hz),
        format!("unattributed: {} ns of {} ns process CPU time", meta.unattributed_ns, meta.process_cpu_ns),
    ];
    comments.extend(
        profile
            .losses()
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| format!("loss: {reason} {count}")),
    );
    comments.extend(meta.notes.iter().map(|note| format!("note: {note}")));
    if meta.incomplete {
        comments.push("incomplete: the run did not end".to_owned());
    }
    comments
}

fn put(out: &mut impl Write, piece: &proto::Profile) -> io::Result<()> {
    out.write_all(&piece.encode_to_vec())
}

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[derive(Default)]
struct Strings {
    texts: Vec<String>,
    index: FxHashMap<String, i64>,
}

impl Strings {
    fn number(&mut self, text: String) -> i64 {
        *self.index.entry(text).or_insert_with_key(|text| {
            self.texts.push(text.clone());
            self.texts.len() as i64 - 1
        })
    }
}

/// Places in the program: (function, line), numbered from 1.
#[derive(Default)]
struct Locations {
    rows: Vec<(u32, u32)>,
    index: FxHashMap<(u32, u32), u64>,
}

impl Locations {
    fn number(&mut self, profile: &Profile, node: NodeId) -> u64 {
        let node = profile.node(node);
        let row = (node.function.index() as u32, node.line);
        *self.index.entry(row).or_insert_with(|| {
            self.rows.push(row);
            self.rows.len() as u64
        })
    }
}
