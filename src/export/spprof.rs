//! The lossless format: a header, then chunks of (type, length, CRC-32, payload). Writer; the same chunks make a journal.
//!
//! Payloads are protocol buffers, metadata is JSON. Ids are positions in the file's own tables. `docs/formats.md` describes it.

use crate::activity;
use prost::Message;
use spprof_model::{Column, FunctionKind, Metadata, Profile, Thread};
use std::io::{self, Write};

pub(crate) const MAGIC: [u8; 8] = *b"SPPROF\r\n";
pub(crate) const VERSION: u16 = 1;
pub(crate) const KIND_FINAL: u16 = 0;
pub(crate) const KIND_JOURNAL: u16 = 1;
pub(crate) const HEADER_BYTES: usize = 12;
pub(crate) const CHUNK_HEADER_BYTES: usize = 12;

pub(crate) const STRINGS: [u8; 4] = *b"STRS";
pub(crate) const FUNCTIONS: [u8; 4] = *b"FUNC";
pub(crate) const NODES: [u8; 4] = *b"NODE";
pub(crate) const THREADS: [u8; 4] = *b"THRD";
pub(crate) const SAMPLES: [u8; 4] = *b"SAMP";
/// In lower case: readers that know nothing of modules may skip it.
pub(crate) const MODULES: [u8; 4] = *b"mods";
pub(crate) const COLUMN: [u8; 4] = *b"COLM";
/// Of traces. Readers that do not know them can do without.
pub(crate) const TASKS: [u8; 4] = *b"task";
pub(crate) const SPANS: [u8; 4] = *b"span";
pub(crate) const METADATA: [u8; 4] = *b"META";
pub(crate) const END: [u8; 4] = *b"END.";

/// Rows in one chunk at most.
const ROWS: usize = 1 << 16;

pub(crate) mod rows {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Strings {
        #[prost(bytes = "vec", repeated, tag = "1")]
        pub strings: Vec<Vec<u8>>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Functions {
        #[prost(uint32, repeated, tag = "1")]
        pub name: Vec<u32>,
        #[prost(uint32, repeated, tag = "2")]
        pub file: Vec<u32>,
        #[prost(uint32, repeated, tag = "3")]
        pub module: Vec<u32>,
        #[prost(uint32, repeated, tag = "4")]
        pub first_line: Vec<u32>,
        #[prost(uint32, repeated, tag = "5")]
        pub kind: Vec<u32>,
        #[prost(fixed64, repeated, tag = "6")]
        pub discriminator: Vec<u64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Nodes {
        #[prost(uint32, repeated, tag = "1")]
        pub parent: Vec<u32>,
        #[prost(uint32, repeated, tag = "2")]
        pub function: Vec<u32>,
        #[prost(uint32, repeated, tag = "3")]
        pub line: Vec<u32>,
    }

    /// Rows of the thread table from `first` on; later chunks may replace earlier rows.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Threads {
        #[prost(uint32, tag = "1")]
        pub first: u32,
        #[prost(message, repeated, tag = "2")]
        pub threads: Vec<Thread>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Thread {
        #[prost(uint64, tag = "1")]
        pub os_id: u64,
        #[prost(uint64, tag = "2")]
        pub python_ident: u64,
        /// 0: none; else the string's position plus 1.
        #[prost(uint32, tag = "3")]
        pub name: u32,
        #[prost(uint64, tag = "4")]
        pub start_ns: u64,
        #[prost(uint64, tag = "5")]
        pub end_ns: u64,
        #[prost(uint64, tag = "6")]
        pub cpu_ns: u64,
        #[prost(uint64, tag = "7")]
        pub unattributed_ns: u64,
    }

    /// Samples in order. What earlier chunks hold from `position` on, counted in recorded samples, is replaced.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Samples {
        #[prost(uint64, tag = "1")]
        pub position: u64,
        /// Differences, the first from 0.
        #[prost(sint64, repeated, tag = "2")]
        pub time_ns: Vec<i64>,
        #[prost(uint32, repeated, tag = "3")]
        pub thread: Vec<u32>,
        #[prost(uint32, repeated, tag = "4")]
        pub node: Vec<u32>,
        #[prost(uint64, repeated, tag = "5")]
        pub weight_ns: Vec<u64>,
        /// Absent: all 1.
        #[prost(uint32, repeated, tag = "6")]
        pub count: Vec<u32>,
    }

    /// Files of compiled code, as they were in memory.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Modules {
        #[prost(message, repeated, tag = "1")]
        pub modules: Vec<Module>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Module {
        #[prost(uint32, tag = "1")]
        pub id: u32,
        #[prost(bytes = "vec", tag = "2")]
        pub path: Vec<u8>,
        #[prost(bytes = "vec", tag = "3")]
        pub build_id: Vec<u8>,
        #[prost(uint64, tag = "4")]
        pub start: u64,
        #[prost(uint64, tag = "5")]
        pub end: u64,
        #[prost(uint64, tag = "6")]
        pub bias: u64,
        #[prost(uint64, tag = "7")]
        pub device: u64,
        #[prost(uint64, tag = "8")]
        pub inode: u64,
    }

    /// A metric column that does not follow from the samples; self values by node.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Column {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(uint64, repeated, tag = "2")]
        pub values: Vec<u64>,
    }
}

pub(crate) fn write(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    write_header(out, KIND_FINAL)?;
    Progress::default().write_new(profile, &profile.meta, out)?;
    for column in profile.columns().filter(|&column| !is_of_samples(profile, column)) {
        // What is not there is 0.
        let values = profile.column(column).unwrap_or_default();
        let values = values[..values.iter().rposition(|&value| value > 0).map_or(0, |last| last + 1)].to_vec();
        write_chunk(out, COLUMN, &rows::Column { name: column.name().to_owned(), values }.encode_to_vec())?;
    }
    activity::write(profile, out)?;
    write_chunk(out, END, &[])
}

/// Columns that the samples on the timeline add up to.
pub(crate) fn is_of_samples(profile: &Profile, column: Column) -> bool {
    !profile.is_without_timeline() && (column == Column::Samples || column == profile.time_column())
}

pub(crate) fn write_header(out: &mut dyn Write, kind: u16) -> io::Result<()> {
    out.write_all(&MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())?;
    out.write_all(&kind.to_le_bytes())
}

pub(crate) fn write_chunk(out: &mut dyn Write, kind: [u8; 4], payload: &[u8]) -> io::Result<()> {
    let len = u32::try_from(payload.len()).map_err(|_| io::Error::other("a chunk is larger than 4 GiB"))?;
    out.write_all(&kind)?;
    out.write_all(&len.to_le_bytes())?;
    out.write_all(&checksum(kind, payload).to_le_bytes())?;
    out.write_all(payload)
}

pub(crate) fn checksum(kind: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&kind);
    hasher.update(payload);
    hasher.finalize()
}

pub(crate) fn kind_number(kind: FunctionKind) -> u32 {
    FunctionKind::ALL.iter().position(|&known| known == kind).unwrap_or(0) as u32
}

pub(crate) fn kind_of_number(number: u32) -> Option<FunctionKind> {
    FunctionKind::ALL.get(number as usize).copied()
}

/// How much of a growing profile is in the file already.
#[derive(Default)]
pub(crate) struct Progress {
    strings: usize,
    functions: usize,
    /// The root is never written.
    nodes: usize,
    threads: Vec<Thread>,
    modules: usize,
    position: u64,
}

impl Progress {
    /// Writes what is new since the last call, definitions before their use, the metadata last.
    pub fn write_new(&mut self, profile: &Profile, meta: &Metadata, out: &mut dyn Write) -> io::Result<()> {
        self.write_strings(profile, out)?;
        self.write_modules(profile, out)?;
        self.write_functions(profile, out)?;
        self.write_nodes(profile, out)?;
        self.write_threads(profile, out)?;
        self.write_samples(profile, out)?;
        let meta = Metadata { losses: losses(profile, meta), ..meta.clone() };
        write_chunk(out, METADATA, &serde_json::to_vec(&meta)?)
    }

    fn write_strings(&mut self, profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
        while self.strings < profile.string_count() {
            let mut chunk = rows::Strings::default();
            let mut bytes = 0;
            while self.strings < profile.string_count() && bytes < 1 << 20 {
                let string = profile.bytes(spprof_model::StringId::from_index(self.strings as u32));
                bytes += string.len() + 2;
                chunk.strings.push(string.to_vec());
                self.strings += 1;
            }
            write_chunk(out, STRINGS, &chunk.encode_to_vec())?;
        }
        Ok(())
    }

    fn write_modules(&mut self, profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
        let new = profile.modules().get(self.modules..).unwrap_or_default();
        if new.is_empty() {
            return Ok(());
        }
        let rows = new.iter().map(|module| rows::Module {
            id: module.id,
            path: module.path.clone(),
            build_id: module.build_id.clone(),
            start: module.start,
            end: module.end,
            bias: module.bias,
            device: module.device,
            inode: module.inode,
        });
        self.modules = profile.modules().len();
        write_chunk(out, MODULES, &rows::Modules { modules: rows.collect() }.encode_to_vec())
    }

    fn write_functions(&mut self, profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
        for functions in profile.functions()[self.functions..].chunks(ROWS) {
            let mut chunk = rows::Functions::default();
            for function in functions {
                chunk.name.push(function.name.index() as u32);
                chunk.file.push(function.file.index() as u32);
                chunk.module.push(function.module.index() as u32);
                chunk.first_line.push(function.first_line);
                chunk.kind.push(kind_number(function.kind));
                chunk.discriminator.push(function.discriminator);
            }
            write_chunk(out, FUNCTIONS, &chunk.encode_to_vec())?;
        }
        self.functions = profile.functions().len();
        Ok(())
    }

    fn write_nodes(&mut self, profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
        for nodes in profile.nodes()[self.nodes.max(1)..].chunks(ROWS) {
            let mut chunk = rows::Nodes::default();
            for node in nodes {
                chunk.parent.push(node.parent.index() as u32);
                chunk.function.push(node.function.index() as u32);
                chunk.line.push(node.line);
            }
            write_chunk(out, NODES, &chunk.encode_to_vec())?;
        }
        self.nodes = profile.nodes().len();
        Ok(())
    }

    fn write_threads(&mut self, profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
        let mut chunk = rows::Threads::default();
        for (i, thread) in profile.threads().iter().enumerate() {
            if self.threads.get(i) == Some(thread) {
                continue;
            }
            if chunk.first as usize + chunk.threads.len() != i || chunk.threads.len() == ROWS {
                if !chunk.threads.is_empty() {
                    write_chunk(out, THREADS, &chunk.encode_to_vec())?;
                }
                chunk = rows::Threads { first: i as u32, threads: Vec::new() };
            }
            chunk.threads.push(rows::Thread {
                os_id: thread.os_id,
                python_ident: thread.python_ident,
                name: thread.name.map_or(0, |name| name.index() as u32 + 1),
                start_ns: thread.start_ns,
                end_ns: thread.end_ns,
                cpu_ns: thread.cpu_ns,
                unattributed_ns: thread.unattributed_ns,
            });
        }
        if !chunk.threads.is_empty() {
            write_chunk(out, THREADS, &chunk.encode_to_vec())?;
        }
        self.threads = profile.threads().to_vec();
        Ok(())
    }

    fn write_samples(&mut self, profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
        let (mut position, samples) = profile.samples_from(self.position);
        let mut samples = samples.peekable();
        while samples.peek().is_some() {
            let mut chunk = rows::Samples { position, ..Default::default() };
            let mut before_ns = 0_u64;
            for sample in samples.by_ref().take(ROWS) {
                chunk.time_ns.push(sample.time_ns.wrapping_sub(before_ns) as i64);
                before_ns = sample.time_ns;
                chunk.thread.push(sample.thread.index() as u32);
                chunk.node.push(sample.node.index() as u32);
                chunk.weight_ns.push(sample.weight_ns);
                chunk.count.push(u32::try_from(sample.count).unwrap_or(u32::MAX));
                position += sample.count;
            }
            if chunk.count.iter().all(|&count| count == 1) {
                chunk.count.clear();
            }
            write_chunk(out, SAMPLES, &chunk.encode_to_vec())?;
        }
        self.position = position;
        Ok(())
    }
}

/// A journal's metadata is not the profile's own yet; the memory limit's losses are.
fn losses(profile: &Profile, meta: &Metadata) -> Vec<(String, u64)> {
    let mut losses = meta.losses.clone();
    for (reason, count) in profile.losses() {
        match losses.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, known)) => *known = count.max(*known),
            None => losses.push((reason, count)),
        }
    }
    losses
}
