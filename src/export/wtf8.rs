//! WTF-8: UTF-8 that may also hold lone surrogates (three bytes each). Python names may; most formats may not.

/// Code points, surrogates included. Bytes that are not WTF-8 give U+FFFD each.
pub(crate) fn code_points(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    Wtf8 { bytes, text: "".chars() }
}

struct Wtf8<'a> {
    bytes: &'a [u8],
    text: std::str::Chars<'a>,
}

impl Iterator for Wtf8<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        if let Some(c) = self.text.next() {
            return Some(c as u32);
        }
        let (valid, error_at) = match std::str::from_utf8(self.bytes) {
            Ok(text) => (text, None),
            Err(error) => {
                let valid = &self.bytes[..error.valid_up_to()];
                (std::str::from_utf8(valid).unwrap_or_default(), Some(error.valid_up_to()))
            }
        };
        if !valid.is_empty() {
            self.bytes = &self.bytes[valid.len()..];
            self.text = valid.chars();
            return self.text.next().map(u32::from);
        }
        error_at?;
        let (point, len) = match self.bytes {
            &[0xed, b @ 0xa0..=0xbf, c @ 0x80..=0xbf, ..] => {
                (0xd000 | u32::from(b & 0x3f) << 6 | u32::from(c & 0x3f), 3)
            }
            _ => (0xfffd, 1),
        };
        self.bytes = &self.bytes[len..];
        Some(point)
    }
}

/// Appends a code point, surrogates included; U+FFFD for what is none.
pub(crate) fn push(out: &mut Vec<u8>, point: u32) {
    match char::from_u32(point) {
        Some(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        None if (0xd800..0xe000).contains(&point) => {
            out.extend_from_slice(&[0xed, 0x80 | (point >> 6) as u8 & 0x3f, 0x80 | point as u8 & 0x3f]);
        }
        None => push(out, 0xfffd),
    }
}

/// As text, with U+FFFD for lone surrogates.
pub(crate) fn to_text(bytes: &[u8]) -> String {
    code_points(bytes).map(|point| char::from_u32(point).unwrap_or('\u{fffd}')).collect()
}

/// Appends a JSON string in ASCII. Lone surrogates become `\udXXX`, which is why this is not the JSON library's work: it takes
/// only `str`.
pub(crate) fn push_json(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for point in code_points(bytes) {
        match point {
            0x22 => out.extend_from_slice(b"\\\""),
            0x5c => out.extend_from_slice(b"\\\\"),
            0x20..0x7f => out.push(point as u8),
            _ => push_escape(out, point),
        }
    }
    out.push(b'"');
}

/// Appends JSON text in ASCII: beyond ASCII there is nothing but what is inside of strings.
pub(crate) fn push_json_text(out: &mut Vec<u8>, json: &str) {
    for c in json.chars() {
        match c {
            '\0'..='\x7f' => out.push(c as u8),
            _ => push_escape(out, u32::from(c)),
        }
    }
}

fn push_escape(out: &mut Vec<u8>, point: u32) {
    let mut units = [0; 2];
    let surrogate = [point as u16];
    let units: &[u16] = match char::from_u32(point) {
        Some(c) => c.encode_utf16(&mut units),
        None => &surrogate,
    };
    for unit in units {
        out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
    }
}

/// Bytes of a JSON string literal's inside; the inverse of `push_json`, for readers. `None`: not a JSON string.
pub(crate) fn from_json(literal: &str) -> Option<Vec<u8>> {
    if let Ok(text) = serde_json::from_str::<String>(literal) {
        return Some(text.into_bytes());
    }
    // The JSON library refuses lone surrogates; everything else it has checked when it split the document.
    let inside = literal.strip_prefix('"')?.strip_suffix('"')?;
    let mut out = Vec::with_capacity(inside.len());
    let mut units: Vec<u16> = Vec::new();
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            flush_units(&mut out, &mut units);
            push(&mut out, u32::from(c));
            continue;
        }
        let plain = match chars.next()? {
            'u' => {
                let hex: String = chars.by_ref().take(4).collect();
                units.push(u16::from_str_radix(&hex, 16).ok()?);
                continue;
            }
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            c @ ('"' | '\\' | '/') => c,
            _ => return None,
        };
        flush_units(&mut out, &mut units);
        push(&mut out, u32::from(plain));
    }
    flush_units(&mut out, &mut units);
    Some(out)
}

fn flush_units(out: &mut Vec<u8>, units: &mut Vec<u16>) {
    for unit in char::decode_utf16(units.drain(..)) {
        push(out, unit.map_or_else(|lone| u32::from(lone.unpaired_surrogate()), u32::from));
    }
}
