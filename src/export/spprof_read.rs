//! The lossless format read back. A final file must be whole; a journal ends where its last whole chunk ends.

use crate::activity;
use crate::load::ReadError;
use crate::spprof::{
    self, CHUNK_HEADER_BYTES, COLUMN, END, FUNCTIONS, HEADER_BYTES, KIND_FINAL, KIND_JOURNAL, MAGIC, METADATA, MODULES,
    NODES, SAMPLES, SPANS, STRINGS, TASKS, THREADS, VERSION, checksum, rows,
};
use prost::Message;
use spprof_model::{
    Column, Function, FunctionId, Metadata, Module, NodeId, Profile, Sample, Span, SpanKind, StringId, Thread, ThreadId,
};

pub(crate) fn read(bytes: &[u8]) -> Result<Profile, ReadError> {
    let header = bytes.get(..HEADER_BYTES).ok_or_else(|| {
        ReadError::new(bytes.len(), format!("expected a header of {HEADER_BYTES} bytes, the file ends here"))
    })?;
    if header[..8] != MAGIC {
        return Err(ReadError::new(4, "expected the rest of an spprof header (was the file changed as text?)"));
    }
    let version = u16::from_le_bytes([header[8], header[9]]);
    if version != VERSION {
        return Err(ReadError::new(8, format!("expected format version {VERSION}, this is version {version}")));
    }
    let journal = match u16::from_le_bytes([header[10], header[11]]) {
        KIND_FINAL => false,
        KIND_JOURNAL => true,
        kind => {
            return Err(ReadError::new(10, format!("expected kind 0 (final) or 1 (journal), found {kind}")));
        }
    };
    let mut reader = Reader::new();
    let mut offset = HEADER_BYTES;
    let ended = loop {
        match chunk_at(bytes, offset).and_then(|chunk| Ok((reader.take(&chunk)?, chunk))) {
            Ok((true, _)) => break None,
            Ok((false, chunk)) => offset += CHUNK_HEADER_BYTES + chunk.payload.len(),
            Err(error) => break Some(error),
        }
    };
    match ended {
        Some(error) if !journal => return Err(error),
        // Behind the last whole chunk there is nothing, a torn chunk, or damage; what is before stands.
        Some(error) if offset < bytes.len() => {
            let rest = bytes.len() - offset;
            reader.meta.notes.push(format!("the journal's last {rest} bytes were not read: {}", error.message));
        }
        _ => {}
    }
    Ok(reader.finish(journal))
}

struct Chunk<'a> {
    kind: [u8; 4],
    payload: &'a [u8],
    offset: usize,
}

fn chunk_at(bytes: &[u8], offset: usize) -> Result<Chunk<'_>, ReadError> {
    let rest = &bytes[offset..];
    let Some(&[k0, k1, k2, k3, l0, l1, l2, l3, c0, c1, c2, c3]) = rest.first_chunk::<CHUNK_HEADER_BYTES>() else {
        return Err(ReadError::new(bytes.len(), "expected another chunk, the file is cut off here"));
    };
    let kind = [k0, k1, k2, k3];
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let Some(payload) = rest[CHUNK_HEADER_BYTES..].get(..len) else {
        let there = rest.len() - CHUNK_HEADER_BYTES;
        let name = String::from_utf8_lossy(&kind).into_owned();
        return Err(ReadError::new(
            offset,
            format!("expected a chunk {name:?} of {len} bytes, the file is cut off after {there} of them"),
        ));
    };
    if checksum(kind, payload) != u32::from_le_bytes([c0, c1, c2, c3]) {
        let name = String::from_utf8_lossy(&kind).into_owned();
        return Err(ReadError::new(
            offset,
            format!("expected a chunk {name:?} that matches its checksum, it is damaged"),
        ));
    }
    Ok(Chunk { kind, payload, offset })
}

/// The file's tables, by the file's own ids.
struct Reader {
    profile: Profile,
    meta: Metadata,
    strings: Vec<StringId>,
    functions: Vec<FunctionId>,
    nodes: Vec<NodeId>,
    threads: Vec<ThreadId>,
    /// Where the file's modules are in the profile.
    modules: Vec<u32>,
    /// Samples with the number recorded before each; a journal may replace the tail.
    samples: Vec<(u64, Sample)>,
    recorded: u64,
    columns: Vec<(Column, Vec<u64>)>,
}

impl Reader {
    fn new() -> Self {
        Self {
            profile: Profile::unlimited(),
            meta: Metadata::default(),
            strings: Vec::new(),
            functions: Vec::new(),
            nodes: vec![NodeId::ROOT],
            threads: Vec::new(),
            modules: Vec::new(),
            samples: Vec::new(),
            recorded: 0,
            columns: Vec::new(),
        }
    }

    /// True: this was the end.
    fn take(&mut self, chunk: &Chunk) -> Result<bool, ReadError> {
        let invalid = |what: &str| {
            let name = String::from_utf8_lossy(&chunk.kind).into_owned();
            ReadError::new(chunk.offset, format!("expected a valid chunk {name:?}, but {what}"))
        };
        let invalid_proto = |error: prost::DecodeError| invalid(&error.to_string());
        let taken = match chunk.kind {
            STRINGS => self.take_strings(&rows::Strings::decode(chunk.payload).map_err(invalid_proto)?),
            FUNCTIONS => self.take_functions(&rows::Functions::decode(chunk.payload).map_err(invalid_proto)?),
            NODES => self.take_nodes(&rows::Nodes::decode(chunk.payload).map_err(invalid_proto)?),
            MODULES => self.take_modules(rows::Modules::decode(chunk.payload).map_err(invalid_proto)?),
            THREADS => self.take_threads(&rows::Threads::decode(chunk.payload).map_err(invalid_proto)?),
            SAMPLES => self.take_samples(&rows::Samples::decode(chunk.payload).map_err(invalid_proto)?),
            COLUMN => self.take_column(rows::Column::decode(chunk.payload).map_err(invalid_proto)?),
            TASKS => self.take_tasks(&activity::Tasks::decode(chunk.payload).map_err(invalid_proto)?),
            SPANS => self.take_spans(&activity::Spans::decode(chunk.payload).map_err(invalid_proto)?),
            METADATA => {
                self.meta = serde_json::from_slice(chunk.payload).map_err(|error| invalid(&error.to_string()))?;
                Some(())
            }
            END => return Ok(true),
            // From a later minor version: chunks that can be done without.
            [b'a'..=b'z', ..] => Some(()),
            _ => return Err(invalid("its type is unknown")),
        };
        taken.map(|()| false).ok_or_else(|| invalid("its rows do not fit each other or what came before"))
    }

    fn take_strings(&mut self, chunk: &rows::Strings) -> Option<()> {
        for string in &chunk.strings {
            self.strings.push(self.profile.intern(string));
        }
        Some(())
    }

    fn take_modules(&mut self, chunk: rows::Modules) -> Option<()> {
        for row in chunk.modules {
            let rows::Module { id, path, build_id, start, end, bias, device, inode } = row;
            let module = Module { id, path, build_id, start, end, bias, device, inode };
            self.modules.push(self.profile.module(&module));
        }
        Some(())
    }

    fn take_functions(&mut self, chunk: &rows::Functions) -> Option<()> {
        for i in 0..chunk.name.len() {
            let string = |ids: &[u32]| self.strings.get(*ids.get(i)? as usize).copied();
            let function = Function {
                name: string(&chunk.name)?,
                file: string(&chunk.file)?,
                module: string(&chunk.module)?,
                first_line: *chunk.first_line.get(i)?,
                kind: spprof::kind_of_number(*chunk.kind.get(i)?)?,
                discriminator: *chunk.discriminator.get(i)?,
            };
            // An address names the file's row of its module.
            let function = match function.address() {
                Some((0, _)) | None => function,
                Some((row, address)) => Function::of_address(*self.modules.get(row as usize - 1)?, address),
            };
            self.functions.push(self.profile.function(function));
        }
        Some(())
    }

    fn take_nodes(&mut self, chunk: &rows::Nodes) -> Option<()> {
        for i in 0..chunk.parent.len() {
            let parent = *self.nodes.get(chunk.parent[i] as usize)?;
            let function = *self.functions.get(*chunk.function.get(i)? as usize)?;
            self.nodes.push(self.profile.child(parent, function, *chunk.line.get(i)?));
        }
        Some(())
    }

    fn take_threads(&mut self, chunk: &rows::Threads) -> Option<()> {
        for (i, row) in chunk.threads.iter().enumerate() {
            let name = match row.name.checked_sub(1) {
                None => None,
                Some(name) => Some(*self.strings.get(name as usize)?),
            };
            let thread = Thread {
                os_id: row.os_id,
                python_ident: row.python_ident,
                name,
                start_ns: row.start_ns,
                end_ns: row.end_ns,
                cpu_ns: row.cpu_ns,
                unattributed_ns: row.unattributed_ns,
            };
            match self.threads.get((chunk.first as usize).checked_add(i)?) {
                Some(&known) => *self.profile.thread_mut(known) = thread,
                None if chunk.first as usize + i == self.threads.len() => {
                    self.threads.push(self.profile.thread(thread));
                }
                None => return None,
            }
        }
        Some(())
    }

    fn take_samples(&mut self, chunk: &rows::Samples) -> Option<()> {
        if chunk.position > self.recorded {
            return None;
        }
        let keep = self.samples.partition_point(|&(position, _)| position < chunk.position);
        let mut decoded = Vec::with_capacity(chunk.time_ns.len());
        let mut position = chunk.position;
        let mut time_ns = 0_u64;
        for (i, &delta_ns) in chunk.time_ns.iter().enumerate() {
            time_ns = time_ns.wrapping_add(delta_ns as u64);
            let count = if chunk.count.is_empty() { 1 } else { *chunk.count.get(i)? };
            let sample = Sample {
                time_ns,
                thread: *self.threads.get(*chunk.thread.get(i)? as usize)?,
                node: *self.nodes.get(*chunk.node.get(i)? as usize)?,
                weight_ns: *chunk.weight_ns.get(i)?,
                count: u64::from(count),
            };
            decoded.push((position, sample));
            position = position.checked_add(sample.count)?;
        }
        self.samples.truncate(keep);
        self.samples.extend(decoded);
        self.recorded = position;
        Some(())
    }

    fn take_column(&mut self, chunk: rows::Column) -> Option<()> {
        // An unknown column is of a later version.
        if let Some(column) = Column::from_name(&chunk.name) {
            (chunk.values.len() <= self.nodes.len()).then_some(())?;
            self.columns.push((column, chunk.values));
        }
        Some(())
    }

    fn take_tasks(&mut self, chunk: &activity::Tasks) -> Option<()> {
        self.profile.activity.max_unfinished = chunk.max_unfinished;
        self.profile.activity.max_runnable = chunk.max_runnable;
        self.profile.activity.max_lag_ns = chunk.max_lag_ns;
        for row in &chunk.tasks {
            let name = *self.strings.get(row.name as usize)?;
            let function = *self.functions.get(row.function as usize)?;
            let thread = *self.threads.get(row.thread as usize)?;
            self.profile.activity.tasks.push(activity::task(row, name, function, thread)?);
        }
        let tasks = self.profile.activity.tasks.len();
        self.profile.activity.tasks.iter().all(|task| task.parent.is_none_or(|it| (it as usize) < tasks)).then_some(())
    }

    fn take_spans(&mut self, chunk: &activity::Spans) -> Option<()> {
        let mut before_ns = 0_u64;
        for (i, &delta_ns) in chunk.end_ns.iter().enumerate() {
            let end_ns = before_ns.wrapping_add(delta_ns as u64);
            before_ns = end_ns;
            let subject = *chunk.subject.get(i)?;
            let kind = match *chunk.kind.get(i)? {
                0 => SpanKind::Call(*self.nodes.get(subject as usize)?),
                kind => activity::task_span(kind, subject, self.profile.activity.tasks.len())?,
            };
            self.profile.activity.spans.push(Span {
                start_ns: end_ns.checked_sub(*chunk.length_ns.get(i)?)?,
                end_ns,
                thread: *self.threads.get(*chunk.thread.get(i)? as usize)?,
                kind,
            });
        }
        Some(())
    }

    fn finish(mut self, journal: bool) -> Profile {
        self.profile.meta = self.meta;
        self.profile.meta.incomplete |= journal;
        for (_, sample) in &self.samples {
            self.profile.record_merged(sample);
        }
        for (column, values) in self.columns {
            for (&node, value) in self.nodes.iter().zip(values).filter(|&(_, value)| value > 0) {
                self.profile.add(column, node, value);
            }
        }
        self.profile
    }
}
