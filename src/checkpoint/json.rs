//! The JSON in a header: structs that mirror the saved ones, and refuse unknown
//! and duplicate keys.

use std::borrow::Cow;
use std::{fmt, io};

use arrayvec::ArrayVec;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::SavedTensor;
use crate::dtype::Dtype;
use crate::layout::{Chains, Scalars, Shard, TensorSpec, Update, MAX_DIMS};
use crate::options::{Damping, Graft, InstructionSet, Options, Pooling, Rounding, Statistics};

const METADATA: &str = "__metadata__";

/// The header of a safetensors file that is written.
pub(super) struct Document {
    pub(super) metadata: Vec<(String, String)>,
    pub(super) arrays: Vec<(String, ArrayInfo)>,
}

/// The entry of one array in a header that is written.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct ArrayInfo {
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    /// Offsets of the first byte and of the end, counted from the end of the
    /// header.
    pub(super) data_offsets: [u64; 2],
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(METADATA, &Pairs(&self.metadata))?;
        for (name, info) in &self.arrays {
            map.serialize_entry(name, info)?;
        }
        map.end()
    }
}

/// A JSON object whose entries keep their order in the text.
pub(super) struct Pairs<'a>(pub(super) &'a [(String, String)]);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// A string, which is copied only if it has escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The entry of one array in a header that is read.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry<'a> {
    #[serde(borrow)]
    pub(super) dtype: Cow<'a, str>,
    #[serde(deserialize_with = "few_dims")]
    pub(super) shape: ArrayVec<usize, MAX_DIMS>,
    pub(super) data_offsets: [u64; 2],
}

/// The result of a check, with a description of what is wrong.
pub(super) type Outcome<T> = std::result::Result<T, String>;

/// Why reading has stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// The text is no JSON, or has not the form of a header.
    Malformed(serde_json::Error),
    /// A call has refused an entry.
    Refused(String),
}

/// A string as it is in the text of a header: in quotes, with escapes. It may be as
/// long as the header, and is not copied.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawText<'a>(&'a str);

impl<'a> RawText<'a> {
    /// The string, for those that are short.
    pub(super) fn text(self) -> Outcome<Cow<'a, str>> {
        let text: Result<Text<'a>, _> = serde_json::from_str(self.0);
        let text = text.map_err(|e| format!("its header is malformed: {e}"))?;
        Ok(text.0)
    }

    /// No fewer than the bytes of the string.
    pub(super) fn length(self) -> usize {
        self.0.len()
    }

    /// The bytes of the string.
    pub(super) fn reader(self) -> Unescaped<'a> {
        let text = self
            .0
            .strip_prefix('"')
            .and_then(|text| text.strip_suffix('"'));
        Unescaped {
            text: text.unwrap_or_default().as_bytes(),
            ready: ArrayVec::new(),
        }
    }
}

/// Reads a string without its escapes.
pub(super) struct Unescaped<'a> {
    /// What is left, in which all escapes are known to be valid.
    text: &'a [u8],
    /// The bytes of a character that had an escape.
    ready: ArrayVec<u8, 4>,
}

impl Unescaped<'_> {
    fn escape(&mut self) {
        let unit = |text: &[u8]| {
            let digits = text.get(2..6).and_then(|d| std::str::from_utf8(d).ok());
            digits.and_then(|digits| u16::from_str_radix(digits, 16).ok())
        };
        let (length, character) = match self.text.get(1) {
            Some(b'u') => {
                let first = unit(self.text);
                let second = self.text.get(6..).filter(|t| t.starts_with(b"\\u"));
                let units = first.into_iter().chain(second.and_then(unit));
                let found = char::decode_utf16(units).next().and_then(Result::ok);
                let found = found.unwrap_or(char::REPLACEMENT_CHARACTER);
                (6 * found.len_utf16(), found)
            }
            Some(b'b') => (2, '\u{8}'),
            Some(b'f') => (2, '\u{c}'),
            Some(b'n') => (2, '\n'),
            Some(b'r') => (2, '\r'),
            Some(b't') => (2, '\t'),
            Some(&other) => (2, char::from(other)),
            None => (1, '\\'),
        };
        self.text = self.text.get(length..).unwrap_or_default();
        let bytes = character.encode_utf8(&mut [0; 4]).as_bytes().to_owned();
        self.ready.extend(bytes);
    }
}

impl io::Read for Unescaped<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ready.is_empty() && self.text.first() == Some(&b'\\') {
            self.escape();
        }
        if !self.ready.is_empty() {
            let count = self.ready.len().min(buffer.len());
            buffer[..count].copy_from_slice(&self.ready[..count]);
            self.ready.drain(..count);
            return Ok(count);
        }
        let plain = self.text.iter().take(buffer.len());
        let plain = plain.take_while(|byte| **byte != b'\\').count();
        buffer[..plain].copy_from_slice(&self.text[..plain]);
        self.text = &self.text[plain..];
        Ok(plain)
    }
}

/// What is called for every entry of the metadata.
type OnText<'c, 'a> = dyn FnMut(Cow<'a, str>, RawText<'a>) -> Outcome<()> + 'c;
/// What is called for every entry of an object of short strings.
type OnPair<'c> = dyn FnMut(String, String) -> Outcome<()> + 'c;
/// What is called for every array of a header.
type OnArray<'c, 'a> = dyn FnMut(Cow<'a, str>, Entry<'a>) -> Outcome<()> + 'c;

/// Reads the header of a safetensors file and keeps nothing of it, because it may
/// be long, and hostile. Calls `metadata`, if it is there, for every entry of the
/// metadata, and `array` for every array.
pub(super) fn read_header<'a>(
    json: &'a [u8],
    metadata: Option<&mut OnText<'_, 'a>>,
    array: &mut OnArray<'_, 'a>,
) -> Result<(), Stop> {
    let mut refused = None;
    let header = HeaderReader {
        metadata,
        array,
        refused: &mut refused,
    };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let read = header.deserialize(&mut deserializer);
    let read = read.and_then(|()| deserializer.end());
    read.map_err(|error| refused.map_or(Stop::Malformed(error), Stop::Refused))
}

/// Reads an object of short strings, and calls `entry` for each of them.
pub(super) fn read_object(json: RawText<'_>, entry: &mut OnPair<'_>) -> Result<(), Stop> {
    let mut refused = None;
    let object = PairReader {
        entry,
        refused: &mut refused,
    };
    let mut deserializer = serde_json::Deserializer::from_reader(io::BufReader::new(json.reader()));
    let read = object.deserialize(&mut deserializer);
    let read = read.and_then(|()| deserializer.end());
    read.map_err(|error| refused.map_or(Stop::Malformed(error), Stop::Refused))
}

/// Keeps why an entry was refused; the error only ends the reading.
fn kept<E: de::Error>(outcome: Outcome<()>, refused: &mut Option<String>) -> Result<(), E> {
    outcome.map_err(|reason| {
        *refused = Some(reason);
        E::custom("refused")
    })
}

struct HeaderReader<'c, 'm, 'n, 'a> {
    metadata: Option<&'c mut OnText<'m, 'a>>,
    array: &'c mut OnArray<'n, 'a>,
    refused: &'c mut Option<String>,
}

impl<'a> DeserializeSeed<'a> for HeaderReader<'_, '_, '_, 'a> {
    type Value = ();
    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for HeaderReader<'_, '_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("the header of a safetensors file")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut found = false;
        while let Some(Text(name)) = map.next_key()? {
            if name != METADATA {
                let entry = map.next_value()?;
                kept((self.array)(name, entry), self.refused)?;
                continue;
            }
            if found {
                return Err(de::Error::duplicate_field(METADATA));
            }
            found = true;
            match &mut self.metadata {
                Some(entry) => map.next_value_seed(ObjectReader {
                    entry: &mut **entry,
                    refused: self.refused,
                })?,
                None => map.next_value::<IgnoredAny>().map(drop)?,
            }
        }
        match found {
            true => Ok(()),
            false => Err(de::Error::missing_field(METADATA)),
        }
    }
}

struct ObjectReader<'c, 'm, 'a> {
    entry: &'c mut OnText<'m, 'a>,
    refused: &'c mut Option<String>,
}

impl<'a> DeserializeSeed<'a> for ObjectReader<'_, '_, 'a> {
    type Value = ();
    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for ObjectReader<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(key)) = map.next_key()? {
            let value: &'a RawValue = map.next_value()?;
            if !value.get().starts_with('"') {
                return Err(de::Error::invalid_type(
                    de::Unexpected::Other("no string"),
                    &self,
                ));
            }
            kept((self.entry)(key, RawText(value.get())), self.refused)?;
        }
        Ok(())
    }
}

struct PairReader<'c, 'm> {
    entry: &'c mut OnPair<'m>,
    refused: &'c mut Option<String>,
}

impl<'a> DeserializeSeed<'a> for PairReader<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for PairReader<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry()? {
            kept((self.entry)(key, value), self.refused)?;
        }
        Ok(())
    }
}

/// A list of at most [`MAX_DIMS`] numbers.
fn few_dims<'de, D, L>(deserializer: D) -> Result<L, D::Error>
where
    D: Deserializer<'de>,
    L: FromIterator<usize>,
{
    struct Dims;
    impl<'de> Visitor<'de> for Dims {
        type Value = ArrayVec<usize, MAX_DIMS>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            write!(f, "at most {MAX_DIMS} dimensions")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut dims = ArrayVec::new();
            while let Some(dim) = seq.next_element()? {
                if dims.try_push(dim).is_err() {
                    return Err(de::Error::invalid_length(MAX_DIMS + 1, &self));
                }
            }
            Ok(dims)
        }
    }
    let dims = deserializer.deserialize_seq(Dims)?;
    Ok(dims.into_iter().collect())
}

/// Reads `sonew.tensors` of a file of this step: at most `limit` tensors, because the
/// text of a hostile file would take several times its memory.
pub(super) fn read_tensors(
    json: RawText<'_>,
    limit: usize,
    step: u64,
) -> serde_json::Result<Vec<SavedTensor>> {
    struct Tensors {
        limit: usize,
        step: u64,
    }
    impl<'de> DeserializeSeed<'de> for Tensors {
        type Value = Vec<SavedTensor>;
        fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
            d.deserialize_seq(self)
        }
    }
    impl<'de> Visitor<'de> for Tensors {
        type Value = Vec<SavedTensor>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            write!(f, "at most {} tensors", self.limit)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut tensors = Vec::new();
            while let Some(mirror) = seq.next_element::<TensorMirror>()? {
                if tensors.len() == self.limit {
                    return Err(de::Error::invalid_length(self.limit + 1, &self));
                }
                tensors.push(mirror.saved(self.step));
            }
            Ok(tensors)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_reader(io::BufReader::new(json.reader()));
    let tensors = Tensors { limit, step }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(tensors)
}

/// `sonew.options`.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub(super) struct SavedOptions(#[serde(with = "OptionsMirror")] pub(super) Options);

/// As in `sonew.options`.
impl Serialize for Options {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        OptionsMirror::serialize(self, serializer)
    }
}

/// As in `sonew.tensors`.
impl Serialize for SavedTensor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        TensorMirror::from(self).serialize(serializer)
    }
}

/// The fields of [`Options`]. serde compares them with the original struct: if a
/// field is added there but not here, this does not compile.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(remote = "Options", deny_unknown_fields)]
struct OptionsMirror {
    band: usize,
    beta1: f64,
    beta2: f64,
    eps: f64,
    gamma: f64,
    statistics: Statistics,
    damping: Damping,
    bias_correction: bool,
    graft: Graft,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lagged_norms: Option<bool>,
    #[serde(default, skip_serializing_if = "is_none")]
    pooling: Pooling,
    #[serde(default = "default_rank", skip_serializing_if = "is_default_rank")]
    rank: usize,
    #[serde(default = "default_shrink", skip_serializing_if = "is_default_shrink")]
    shrink: f64,
    #[serde(default, skip_serializing_if = "is_false")]
    nesterov: bool,
    graft_eps: f64,
    graft_bias_correction: bool,
    weight_decay: f64,
    #[serde(default = "nearest")]
    rounding: Rounding,
    #[serde(default)]
    seed: u64,
    /// Not saved: it belongs to the machine, not to the state.
    #[serde(skip)]
    threads: usize,
    /// Not saved, as above.
    #[serde(skip, default = "auto")]
    instruction_set: InstructionSet,
}

/// What is false is left out, as in files from before there was the option.
#[allow(clippy::trivially_copy_pass_by_ref)] // As serde asks for it.
fn is_false(option: &bool) -> bool {
    !option
}

fn is_none(pooling: &Pooling) -> bool {
    *pooling == Pooling::None
}

fn default_rank() -> usize {
    Options::default().rank
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As above.
fn is_default_rank(rank: &usize) -> bool {
    *rank == default_rank()
}

fn default_shrink() -> f64 {
    Options::default().shrink
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As above.
fn is_default_shrink(shrink: &f64) -> bool {
    *shrink == default_shrink()
}

/// The rounding of files of format 1, which do not contain it.
fn nearest() -> Rounding {
    Rounding::Nearest
}

fn auto() -> InstructionSet {
    InstructionSet::Auto
}

/// One element of `sonew.tensors`.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TensorMirror {
    name: String,
    #[serde(deserialize_with = "few_dims")]
    dims: Vec<usize>,
    chains: Chains,
    update: Update,
    lr_scale: f64,
    weight_decay: f64,
    #[serde(default = "float32", with = "DtypeMirror")]
    params: Dtype,
    #[serde(default = "float32", with = "DtypeMirror")]
    grads: Dtype,
    #[serde(default = "float32", with = "DtypeMirror")]
    state: Dtype,
    #[serde(default)]
    master: Master,
    /// Missing in files from before tensors had one: it is the optimizer's.
    step_count: Option<u64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    norm_ratio: f64,
    #[serde(default, skip_serializing_if = "are_zero")]
    bias_corrections: [f64; 2],
    #[serde(default, skip_serializing_if = "is_zero")]
    largest: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shard: Option<Shard>,
    /// Only of tensors that have some of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    options: Option<Box<SavedOptions>>,
}

/// What no step has set is left out, too.
fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

fn are_zero(numbers: &[f64; 2]) -> bool {
    *numbers == [0.0; 2]
}

/// The variants of [`Dtype`] under the names that safetensors files use.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(remote = "Dtype")]
enum DtypeMirror {
    F32,
    F64,
    #[serde(rename = "BF16")]
    Bf16,
    F16,
}

/// The element type of files of format 1, which do not contain it.
fn float32() -> Dtype {
    Dtype::F32
}

/// Whether a tensor keeps master weights, and whether they are set.
#[derive(Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Master {
    #[default]
    None,
    Empty,
    Set,
}

impl From<&SavedTensor> for TensorMirror {
    fn from(tensor: &SavedTensor) -> Self {
        let TensorSpec {
            name,
            dims,
            chains,
            update,
            params,
            grads,
            state,
            master,
            shard,
            options,
        } = tensor.spec.clone();
        TensorMirror {
            name,
            dims,
            chains,
            update,
            lr_scale: tensor.lr_scale,
            weight_decay: tensor.weight_decay,
            params,
            grads,
            state,
            master: match (master, tensor.master_set) {
                (false, _) => Master::None,
                (true, false) => Master::Empty,
                (true, true) => Master::Set,
            },
            step_count: Some(tensor.step_count),
            norm_ratio: tensor.scalars.norm_ratio,
            bias_corrections: tensor.scalars.bias_corrections,
            largest: tensor.scalars.largest,
            shard,
            options: options.map(|options| Box::new(SavedOptions(*options))),
        }
    }
}

impl TensorMirror {
    /// The tensor of a file of this step.
    fn saved(self, step: u64) -> SavedTensor {
        SavedTensor {
            spec: TensorSpec {
                name: self.name,
                dims: self.dims,
                chains: self.chains,
                update: self.update,
                params: self.params,
                grads: self.grads,
                state: self.state,
                master: !matches!(self.master, Master::None),
                shard: self.shard,
                options: self.options.map(|options| Box::new(options.0)),
            }
            .simplified(),
            lr_scale: self.lr_scale,
            weight_decay: self.weight_decay,
            master_set: matches!(self.master, Master::Set),
            master_reset: false,
            step_count: self.step_count.unwrap_or(step),
            scalars: Scalars {
                norm_ratio: self.norm_ratio,
                bias_corrections: self.bias_corrections,
                largest: self.largest,
            },
        }
    }
}
