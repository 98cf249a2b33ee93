//! The bytes of a file before the data: length, JSON (which contains a checksum
//! of all these bytes), spaces.

use std::ops::Range;
use std::path::Path;

use super::json::{ArrayInfo, Document, Pairs, SavedOptions, TensorMirror};
use super::{Header, ALIGNMENT, CHECKPOINT_FORMAT, FORMAT, LIVE_FORMAT, PADDING};
use crate::error::{Error, Result};

/// The longest header that safetensors readers accept.
pub(super) const MAX_LENGTH: u64 = 100_000_000;

/// Size of the field that holds the header's length.
pub(super) const LENGTH_BYTES: usize = 8;

/// The beginning of every header's JSON; the eight digits of the checksum follow.
pub(super) const PREFIX: &str = r#"{"__metadata__":{"sonew.header_crc32":""#;

/// The bytes of the file that hold these digits.
const DIGITS: Range<usize> = LENGTH_BYTES + PREFIX.len()..LENGTH_BYTES + PREFIX.len() + 8;

/// What replaces the digits while the checksum is computed.
const ZEROS: &str = "00000000";

/// The parts of a header.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) header: Header,
    /// Whether the file is a live file.
    pub(super) live: bool,
    /// Every array of the file, padding included.
    pub(super) arrays: Vec<(String, ArrayInfo)>,
    /// Checksum of every array except padding; a live file stores them in its
    /// record instead.
    pub(super) checksums: Vec<(String, u32)>,
}

/// A checksum as it is written.
pub(super) fn hex(crc: u32) -> String {
    format!("{crc:08x}")
}

/// Parses a checksum; accepts only the form in which [`hex`] writes it.
fn parse_hex(text: &str) -> Option<u32> {
    let crc = u32::from_str_radix(text, 16).ok()?;
    (hex(crc) == text).then_some(crc)
}

/// Parses a number; accepts only the form in which it is written.
fn parse_number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// The bytes of the file before the data.
pub(super) fn encode(contents: &Contents) -> serde_json::Result<Vec<u8>> {
    let Contents {
        header,
        live,
        arrays,
        checksums,
    } = contents;
    let format = if *live {
        LIVE_FORMAT
    } else {
        CHECKPOINT_FORMAT
    };
    let tensors: Vec<_> = header.tensors.iter().map(TensorMirror::from).collect();
    let checksums = checksums
        .iter()
        .map(|(name, crc)| (name.clone(), hex(*crc)));
    let metadata = [
        ("header_crc32", ZEROS.to_owned()),
        ("format", format.to_string()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("step", header.step.to_string()),
        (
            "options",
            serde_json::to_string(&SavedOptions(header.options.clone()))?,
        ),
        ("tensors", serde_json::to_string(&tensors)?),
        (
            "checksums",
            serde_json::to_string(&Pairs(checksums.collect()))?,
        ),
    ];
    let metadata = metadata.map(|(key, value)| (format!("sonew.{key}"), value));
    let document = Document {
        metadata: Pairs(metadata.into()),
        arrays: arrays.clone(),
    };
    let json = serde_json::to_vec(&document)?;
    debug_assert!(json.starts_with(PREFIX.as_bytes()));
    Ok(seal(&json))
}

/// Puts the length before the JSON, spaces after it, and the checksum into the
/// digits after [`PREFIX`].
pub(super) fn seal(json: &[u8]) -> Vec<u8> {
    let end = (LENGTH_BYTES + json.len()).next_multiple_of(ALIGNMENT);
    let mut bytes = Vec::with_capacity(end);
    bytes.extend(((end - LENGTH_BYTES) as u64).to_le_bytes());
    bytes.extend(json);
    bytes.resize(end, b' ');
    let digits = hex(checksum(&bytes));
    bytes[DIGITS].copy_from_slice(digits.as_bytes());
    bytes
}

/// The checksum of the bytes before the data, with zeros in place of its digits.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..DIGITS.start]);
    hasher.update(ZEROS.as_bytes());
    hasher.update(&bytes[DIGITS.end..]);
    hasher.finalize()
}

/// Whether the file may be a checkpoint: all checkpoints begin like this.
pub(super) fn has_prefix(bytes: &[u8]) -> bool {
    bytes
        .get(LENGTH_BYTES..DIGITS.start)
        .is_some_and(|start| start == PREFIX.as_bytes())
}

/// The number of bytes at the start of a file that [`is_live`] needs.
pub(super) const TELLING: usize = DIGITS.end + AFTER_DIGITS.len() + 1;

/// The bytes between the digits and the format version.
const AFTER_DIGITS: &str = r#"","sonew.format":""#;

/// Whether a file that begins with these bytes is a live file.
pub(super) fn is_live(start: &[u8]) -> bool {
    let format = start.get(DIGITS.end..TELLING);
    has_prefix(start) && format == Some(format!("{AFTER_DIGITS}{LIVE_FORMAT}").as_bytes())
}

/// Parses what [`encode`] wrote. The caller must still compare the entries of
/// the arrays with the file and the tensors.
pub(super) fn decode(path: &Path, bytes: &[u8]) -> Result<Contents> {
    let refuse = |reason: String| Error::NotACheckpoint {
        path: path.to_owned(),
        reason,
    };
    if !has_prefix(bytes) || bytes.len() < DIGITS.end {
        return Err(refuse(
            "its header does not begin with sonew.header_crc32".to_owned(),
        ));
    }
    let digits = std::str::from_utf8(&bytes[DIGITS]).ok().and_then(parse_hex);
    if digits != Some(checksum(bytes)) {
        return Err(Error::Checksum {
            path: path.to_owned(),
            part: "the header".to_owned(),
        });
    }

    let Document { metadata, arrays } = serde_json::from_slice(&bytes[LENGTH_BYTES..])
        .map_err(|e| refuse(format!("its header is malformed: {e}")))?;
    let get = |key: &str| {
        let mut pairs = metadata.0.iter();
        pairs
            .find(|(k, _)| k == key)
            .map(|(_, value)| value.as_str())
            .ok_or_else(|| refuse(format!("its metadata lack {key}")))
    };
    let number = |key: &str| {
        let text = get(key)?;
        parse_number(text).ok_or_else(|| refuse(format!("{key} is {text:?}, not a number")))
    };
    let malformed = |key: &str, e: serde_json::Error| refuse(format!("{key} is malformed: {e}"));

    // The version is checked first, because everything else may be different in
    // a newer one.
    let version = number("sonew.format")?;
    if version > FORMAT {
        return Err(Error::FormatVersion {
            path: path.to_owned(),
            version,
            supported: FORMAT,
        });
    }
    if version == 0 {
        return Err(refuse("sonew.format is 0".to_owned()));
    }
    let step = number("sonew.step")?;
    let SavedOptions(options) =
        serde_json::from_str(get("sonew.options")?).map_err(|e| malformed("sonew.options", e))?;
    let tensors: Vec<TensorMirror> =
        serde_json::from_str(get("sonew.tensors")?).map_err(|e| malformed("sonew.tensors", e))?;
    let checksums: Pairs<String> = serde_json::from_str(get("sonew.checksums")?)
        .map_err(|e| malformed("sonew.checksums", e))?;
    let checksums = checksums.0.into_iter().map(|(name, text)| {
        let crc = parse_hex(&text);
        let crc = crc.ok_or_else(|| refuse(format!("the checksum of {name:?} is {text:?}")))?;
        Ok((name, crc))
    });

    let header = Header {
        options,
        tensors: tensors.into_iter().map(Into::into).collect(),
        step,
        parameters: arrays.iter().any(|(name, _)| is_parameter(name)),
    };
    header.validate().map_err(|e| refuse(e.to_string()))?;
    Ok(Contents {
        header,
        live: version == LIVE_FORMAT,
        checksums: checksums.collect::<Result<_>>()?,
        arrays,
    })
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
pub(super) fn is_padding(name: &str, info: &ArrayInfo) -> bool {
    let number = name.strip_prefix(PADDING).and_then(parse_number);
    number.is_some() && info.dtype == "U8"
}
