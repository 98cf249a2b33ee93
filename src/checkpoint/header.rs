//! The bytes of a file before the data: length, JSON (which contains a checksum
//! of all these bytes), spaces.

use std::borrow::Cow;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

use super::json::{
    self, ArrayInfo, Document, Entry, Pairs, RawText, SavedOptions, Stop, TensorMirror,
};
use super::{
    record, texts, Header, ALIGNMENT, FIRST_FORMAT_OF_ANY_ORDER, FORMAT, LIVE_FORMAT, MAX_TEXTS,
    PADDING,
};
use crate::error::{Error, Result};

/// The longest header that safetensors readers accept.
pub(super) const MAX_LENGTH: u64 = 100_000_000;

/// Size of the field that holds the header's length.
pub(super) const LENGTH_BYTES: usize = 8;

/// The beginning of every header's JSON as this library writes it; the eight digits
/// of the checksum follow. Before format 4 no other was read.
const PREFIX: &str = r#"{"__metadata__":{"sonew.header_crc32":""#;

/// Before format 4, the bytes of the file that hold these digits.
const DIGITS: Range<usize> = LENGTH_BYTES + PREFIX.len()..LENGTH_BYTES + PREFIX.len() + 8;

/// What replaces these digits while the checksum is computed.
const ZEROS: &str = "00000000";

/// The key of the header's checksum.
const CHECKSUM: &str = "sonew.header_crc32";

/// Keys of metadata that this library uses begin with this.
const OWN: &str = "sonew.";

/// A header that is written.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) header: Header,
    /// Every array of the file, padding included.
    pub(super) arrays: Vec<(String, ArrayInfo)>,
    /// Checksum of every array except padding; a live file stores them in its
    /// record instead.
    pub(super) checksums: Vec<(String, u32)>,
}

/// A header that was read, without its arrays.
#[derive(Debug)]
pub(super) struct Decoded<'a> {
    pub(super) header: Header,
    pub(super) format: u64,
    /// Whether the file is a live file.
    pub(super) live: bool,
    /// Words of a tensor's settings in a live file.
    pub(super) settings_words: usize,
    /// The number of arrays.
    pub(super) arrays: usize,
    /// JSON: the checksums of the arrays of a checkpoint.
    pub(super) checksums: RawText<'a>,
}

/// A checksum as it is written.
pub(super) fn hex(crc: u32) -> String {
    format!("{crc:08x}")
}

/// Parses a checksum; accepts only the form in which [`hex`] writes it.
pub(super) fn parse_hex(text: &str) -> Option<u32> {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let known = text.len() == 8 && text.bytes().all(digit);
    known.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

/// Parses a number; accepts only the form in which it is written.
fn parse_number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// The checksum of a header: a sum of CRC-32s, so that it does not depend on the
/// order of keys, and not on the offsets of arrays. These are known to be right if
/// the arrays fill the file without gaps.
#[derive(Debug, Default)]
struct Sum(u32);

impl Sum {
    fn add(&mut self, parts: &[&[u8]]) {
        let mut hasher = crc32fast::Hasher::new();
        parts.iter().for_each(|part| hasher.update(part));
        self.0 = self.0.wrapping_add(hasher.finalize());
    }

    /// Adds an entry of the metadata, if it is this library's.
    fn metadata(&mut self, key: &str, mut value: impl Read) -> io::Result<()> {
        if key.starts_with(OWN) && key != CHECKSUM {
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(key.as_bytes());
            hasher.update(b"=");
            let mut piece = [0; 4096];
            loop {
                match value.read(&mut piece)? {
                    0 => break,
                    count => hasher.update(&piece[..count]),
                }
            }
            self.0 = self.0.wrapping_add(hasher.finalize());
        }
        Ok(())
    }

    fn array(&mut self, name: &str, dtype: &str, shape: &[usize]) {
        let mut text = arrayvec::ArrayString::<{ 21 * crate::layout::MAX_DIMS }>::new();
        for (index, dim) in shape.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            // As many digits as a number can have, and a comma, fit in.
            let _ = std::fmt::write(&mut text, format_args!("{comma}{dim}"));
        }
        self.add(&[
            name.as_bytes(),
            b":",
            dtype.as_bytes(),
            b":",
            text.as_bytes(),
        ]);
    }
}

/// The bytes of the file before the data.
pub(super) fn encode(contents: &Contents) -> serde_json::Result<Vec<u8>> {
    let Contents {
        header,
        arrays,
        checksums,
    } = contents;
    let tensors: Vec<_> = header.tensors.iter().map(TensorMirror::from).collect();
    let checksums = checksums
        .iter()
        .map(|(name, crc)| (name.clone(), hex(*crc)));
    let checksums: Vec<_> = checksums.collect();
    let metadata = [
        ("format", FORMAT.to_string()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("step", header.step.to_string()),
        (
            "options",
            serde_json::to_string(&SavedOptions(header.options.clone()))?,
        ),
        ("tensors", serde_json::to_string(&tensors)?),
        ("checksums", serde_json::to_string(&Pairs(&checksums))?),
    ];
    let texts = header.texts.iter();
    let texts = texts.map(|(key, text)| (format!("{OWN}{}{key}", texts::PREFIX), text.clone()));
    let metadata = metadata.map(|(key, value)| (format!("{OWN}{key}"), value));
    let metadata: Vec<_> = metadata.into_iter().chain(texts).collect();
    let mut sum = Sum::default();
    for (key, value) in &metadata {
        sum.metadata(key, value.as_bytes())
            .map_err(serde_json::Error::io)?;
    }
    for (name, info) in arrays {
        sum.array(name, &info.dtype, &info.shape);
    }
    let mut all = vec![(CHECKSUM.to_owned(), hex(sum.0))];
    all.extend(metadata);
    let document = Document {
        metadata: all,
        arrays: arrays.clone(),
    };
    Ok(enclose(&serde_json::to_vec(&document)?))
}

/// Puts the length before the JSON, and spaces after it.
pub(super) fn enclose(json: &[u8]) -> Vec<u8> {
    let end = (LENGTH_BYTES + json.len()).next_multiple_of(ALIGNMENT);
    let mut bytes = Vec::with_capacity(end);
    bytes.extend(((end - LENGTH_BYTES) as u64).to_le_bytes());
    bytes.extend(json);
    bytes.resize(end, b' ');
    bytes
}

/// Parses what [`encode`] wrote, or another program has put in another order. The
/// caller must still compare the arrays with the file and the tensors.
pub(super) fn decode<'a>(path: &Path, bytes: &'a [u8]) -> Result<Decoded<'a>> {
    let refuse = |reason: String| Error::NotACheckpoint {
        path: path.to_owned(),
        reason,
    };
    let keys = [
        "header_crc32",
        "format",
        "step",
        "options",
        "tensors",
        "checksums",
    ];
    let mut values: [Option<RawText<'a>>; 6] = Default::default();
    let mut found = Vec::new();
    let (mut sum, mut own) = (Sum::default(), false);
    let mut metadata = |key: Cow<'a, str>, value: RawText<'a>| {
        own |= key.starts_with(OWN);
        sum.metadata(&key, value.reader())
            .map_err(|e| e.to_string())?;
        let short = key.strip_prefix(OWN);
        if let Some(key) = short.and_then(|short| short.strip_prefix(texts::PREFIX)) {
            if found.len() == MAX_TEXTS {
                return Err(format!("it has more than {MAX_TEXTS} texts"));
            }
            found.push((key.to_owned(), value));
        }
        if let Some(index) = keys.iter().position(|known| short == Some(known)) {
            if values[index].replace(value).is_some() {
                return Err(format!("its header is malformed: duplicate key {key:?}"));
            }
        }
        Ok(())
    };
    let mut entries = Sum::default();
    let (mut arrays, mut parameters, mut recorded) = (0, false, false);
    let mut settings_words = record::SETTINGS_WORDS;
    let mut array = |name: Cow<'a, str>, entry: Entry<'a>| {
        arrays += 1;
        parameters |= is_parameter(&name);
        recorded |= name == record::COMMIT;
        if name == record::SETTINGS_NAME {
            let words = entry.shape.get(1);
            let older = record::OLDER_WORDS
                .iter()
                .find(|&older| words == Some(older));
            settings_words = older.copied().unwrap_or(settings_words);
        }
        entries.array(&name, &entry.dtype, &entry.shape);
        Ok(())
    };
    let read = json::read_header(&bytes[LENGTH_BYTES..], Some(&mut metadata), &mut array);
    let damaged = || Error::Checksum {
        path: path.to_owned(),
        part: "the header".to_owned(),
    };
    read.map_err(|stop| match stop {
        Stop::Refused(reason) => refuse(reason),
        // It was written by this library, and damaged.
        Stop::Malformed(_) if bytes[LENGTH_BYTES..].starts_with(PREFIX.as_bytes()) => damaged(),
        Stop::Malformed(error) => refuse(format!("its header is malformed: {error}")),
    })?;
    let [digits, format, step, options, tensors, checksums] = values;
    let get = |value: Option<RawText<'a>>, key: usize| {
        value.ok_or_else(|| refuse(format!("its metadata lack {OWN}{}", keys[key])))
    };
    let text = |value, key| get(value, key)?.text().map_err(refuse);
    let number = |value: Option<RawText<'a>>, key: usize| {
        let text = text(value, key)?;
        let number = parse_number(&text);
        number.ok_or_else(|| refuse(format!("{OWN}{} is {text:?}, not a number", keys[key])))
    };
    let malformed =
        |key: usize, e: serde_json::Error| refuse(format!("{OWN}{} is malformed: {e}", keys[key]));
    if !own {
        return Err(refuse("it has none of this library's metadata".to_owned()));
    }

    // The version is checked first, because everything else may be different in
    // a newer one.
    let format = number(format, 1)?;
    if format > FORMAT {
        return Err(Error::FormatVersion {
            path: path.to_owned(),
            version: format,
            supported: FORMAT,
        });
    }
    if format == 0 {
        return Err(refuse("sonew.format is 0".to_owned()));
    }
    let intact = match format < FIRST_FORMAT_OF_ANY_ORDER {
        true => whole(bytes) == Some(true),
        false => parse_hex(&text(digits, 0)?) == Some(sum.0.wrapping_add(entries.0)),
    };
    if !intact {
        return Err(damaged());
    }
    let step = number(step, 2)?;
    let SavedOptions(options) =
        serde_json::from_str(&text(options, 3)?).map_err(|e| malformed(3, e))?;
    // Each has a momentum and a diagonal.
    let tensors = json::read_tensors(get(tensors, 4)?, arrays / 2, step);
    let tensors = tensors.map_err(|e| malformed(4, e))?;
    let header = Header {
        options,
        tensors,
        step,
        parameters,
        texts: texts::read(found)?.map_err(refuse)?,
    };
    header.validate().map_err(|e| not_in_a_file(path, e))?;
    Ok(Decoded {
        header,
        format,
        live: match format {
            LIVE_FORMAT => true,
            _ => recorded && format >= FIRST_FORMAT_OF_ANY_ORDER,
        },
        settings_words,
        arrays,
        checksums: get(checksums, 5)?,
    })
}

/// What a header that no optimizer can have says of its file.
pub(super) fn not_in_a_file(path: &Path, error: Error) -> Error {
    match error {
        Error::OutOfMemory { .. } => error,
        other => Error::NotACheckpoint {
            path: path.to_owned(),
            reason: other.to_string(),
        },
    }
}

/// Whether the checksum of a header of the earlier formats is right: it covers all
/// bytes before the data, with zeros in place of its digits. `None` for a header
/// of another form.
fn whole(bytes: &[u8]) -> Option<bool> {
    let start = bytes.get(LENGTH_BYTES..DIGITS.start)?;
    let digits = bytes.get(DIGITS)?;
    if start != PREFIX.as_bytes() {
        return None;
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..DIGITS.start]);
    hasher.update(ZEROS.as_bytes());
    hasher.update(&bytes[DIGITS.end..]);
    let digits = std::str::from_utf8(digits).ok().and_then(parse_hex);
    Some(digits == Some(hasher.finalize()))
}

/// Whether an array is a parameter. If one is, all parameters are expected, and
/// a file that has only some is refused because others are missing.
fn is_parameter(array: &str) -> bool {
    array
        .rsplit_once('/')
        .is_some_and(|(_, plane)| plane == super::PARAMETER)
}

/// Whether an array only fills a gap. No array of a tensor can have such a name,
/// because it ends with a plane's name, and no plane's name is a number.
pub(super) fn is_padding(name: &str, dtype: &str) -> bool {
    let number = name.strip_prefix(PADDING).and_then(parse_number);
    number.is_some() && dtype == "U8"
}

/// Gives a header that was edited the checksum that it must have, if it can be read.
#[cfg(any(test, fuzzing))]
pub(super) fn seal(json: &[u8]) -> Vec<u8> {
    let mut json = json.to_vec();
    let (mut sum, mut entries) = (Sum::default(), Sum::default());
    let mut metadata = |key: Cow<'_, str>, value: RawText<'_>| {
        sum.metadata(&key, value.reader())
            .map_err(|e| e.to_string())
    };
    let mut array = |name: Cow<'_, str>, entry: Entry<'_>| {
        entries.array(&name, &entry.dtype, &entry.shape);
        Ok(())
    };
    let read = json::read_header(&json, Some(&mut metadata), &mut array);
    let key = format!(r#""{CHECKSUM}":""#).into_bytes();
    let place = json.windows(key.len()).position(|window| window == key);
    if let (Ok(()), Some(place)) = (read, place) {
        let digits = place + key.len()..place + key.len() + 8;
        if let Some(digits) = json.get_mut(digits) {
            digits.copy_from_slice(hex(sum.0.wrapping_add(entries.0)).as_bytes());
        }
    }
    enclose(&json)
}
