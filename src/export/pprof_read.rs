//! pprof read back: stacks, values and thread labels of any exporter. Inlined lines become frames.

use crate::load::{Builder, ReadError};
use crate::pprof::{HEAP_TYPES, NATIVE, SYNTHETIC, proto};
use flate2::read::MultiGzDecoder;
use prost::Message;
use rustc_hash::FxHashMap;
use spprof_model::{Column, FunctionKind, HEAP, Module, NodeId, Profile, ThreadId};
use std::io::Read;

/// A small file may unpack to anything; this much is believed.
const MAX_UNPACKED_BYTES: u64 = 1 << 30;

pub(crate) fn read(bytes: &[u8]) -> Result<Profile, ReadError> {
    let mut unpacked = Vec::new();
    let mut decoder = MultiGzDecoder::new(bytes).take(MAX_UNPACKED_BYTES + 1);
    if let Err(error) = decoder.read_to_end(&mut unpacked) {
        return Err(ReadError::new(bytes.len(), format!("expected more or other gzip data: {error}")));
    }
    if unpacked.len() as u64 > MAX_UNPACKED_BYTES {
        return Err(ReadError::new(bytes.len(), "expected at most 1 GiB of unpacked data"));
    }
    let invalid = |what: &str| ReadError::new(0, format!("expected a pprof profile, but {what}"));
    let file = proto::Profile::decode(&unpacked[..]).map_err(|error| invalid(&error.to_string()))?;
    drop(unpacked);
    let string = |i: i64| usize::try_from(i).ok().and_then(|i| file.string_table.get(i)).map_or("", String::as_str);
    let type_index = |wanted: &dyn Fn(&str, &str) -> bool| {
        file.sample_type.iter().position(|value| wanted(string(value.r#type), string(value.unit)))
    };
    // Of a heap's four views, those of what is alive are the samples.
    let count_index = type_index(&|kind, _| kind == "inuse_objects").or_else(|| type_index(&|_, unit| unit == "count"));
    let time_index =
        type_index(&|_, unit| unit == "nanoseconds").or_else(|| type_index(&|kind, _| kind == "inuse_space"));
    let traced = count_index.is_some_and(|i| string(file.sample_type[i].r#type) == "calls");
    if count_index.is_none() && time_index.is_none() {
        return Err(invalid("it has neither counts nor nanoseconds"));
    }
    let functions: FxHashMap<u64, &proto::Function> = file.function.iter().map(|f| (f.id, f)).collect();
    let locations: FxHashMap<u64, &proto::Location> = file.location.iter().map(|l| (l.id, l)).collect();
    let mappings: FxHashMap<u64, &proto::Mapping> = file.mapping.iter().map(|m| (m.id, m)).collect();
    let mut builder = Builder::new();
    let meta = &mut builder.profile.meta;
    if let Some(i) = time_index {
        meta.clock = match string(file.sample_type[i].r#type) {
            "wall" => "wall",
            "inuse_space" => HEAP,
            _ => "cpu",
        }
        .to_owned();
    }
    meta.exporter.clear();
    meta.start_unix_ns = u64::try_from(file.time_nanos).unwrap_or(0);
    meta.duration_ns = u64::try_from(file.duration_nanos).unwrap_or(0);
    meta.interval_ns = u64::try_from(file.period).unwrap_or(0);
    meta.notes.extend(file.comment.iter().map(|&comment| string(comment).to_owned()));
    let mut threads: FxHashMap<(&str, u64), ThreadId> = FxHashMap::default();
    // The first is of everything that is not native.
    for mapping in file.mapping.iter().skip(1) {
        let build_id = bytes_of_hex(string(mapping.build_id)).unwrap_or_default();
        let path = string(mapping.filename).as_bytes().to_vec();
        let (start, end) = (mapping.memory_start, mapping.memory_limit);
        builder.profile.module(&Module { path, build_id, start, end, ..Module::default() });
    }
    for sample in &file.sample {
        let label = |key| sample.label.iter().find(|label| string(label.key) == key);
        let name = label("thread").map_or("", |label| string(label.str));
        let os_id = label("thread_id").map_or(0, |label| label.num as u64);
        let mut node = NodeId::ROOT;
        for id in sample.location_id.iter().rev() {
            let location = locations.get(id).ok_or_else(|| invalid(&format!("location {id} is missing")))?;
            for line in location.line.iter().rev() {
                let (name, file, kind) = match functions.get(&line.function_id) {
                    Some(function) => {
                        (string(function.name), string(function.filename), kind(string(function.system_name)))
                    }
                    None => {
                        return Err(invalid(&format!("function {} is missing", line.function_id)));
                    }
                };
                let line = u32::try_from(line.line).unwrap_or(0);
                let module = match mappings.get(&location.mapping_id) {
                    Some(mapping) if kind == FunctionKind::Native => string(mapping.filename),
                    _ => "",
                };
                let [name, file, module] = [name, file, module].map(str::as_bytes);
                node = builder.child_of_module(node, name, file, line, kind, module);
            }
        }
        let value =
            |index: Option<usize>| index.and_then(|i| sample.value.get(i)).and_then(|&value| u64::try_from(value).ok());
        if traced {
            builder.profile.add(Column::Calls, node, value(count_index).unwrap_or(0));
            builder.profile.add(Column::SelfNs, node, value(time_index).unwrap_or(0));
            continue;
        }
        for (kind, _, column) in HEAP_TYPES.into_iter().filter(|(_, _, column)| *column != Column::LiveBytes) {
            let index = type_index(&|name, _| name == kind);
            if index.is_some() {
                builder.profile.add(column, node, value(index).unwrap_or(0));
            }
        }
        let count = value(count_index).unwrap_or(1).min(u64::from(u32::MAX));
        let thread = *threads.entry((name, os_id)).or_insert_with(|| builder.thread(name.as_bytes(), os_id));
        builder.record(0, thread, node, value(time_index).unwrap_or(0), count);
    }
    Ok(builder.profile)
}

fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    digits.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect()
}

fn kind(system_name: &str) -> FunctionKind {
    match system_name {
        NATIVE => FunctionKind::Native,
        SYNTHETIC => FunctionKind::Synthetic,
        _ => FunctionKind::Python,
    }
}
