//! The JSON in a header: structs that mirror the saved ones, and refuse unknown
//! and duplicate keys.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::SavedTensor;
use crate::dtype::Dtype;
use crate::layout::{Chains, TensorSpec, Update, MAX_DIMS};
use crate::options::{Damping, Graft, InstructionSet, Options, Rounding, Statistics};

const METADATA: &str = "__metadata__";

/// The header of a safetensors file.
pub(super) struct Document {
    pub(super) metadata: Pairs<String>,
    pub(super) arrays: Vec<(String, ArrayInfo)>,
}

/// The entry of one array in a safetensors header.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ArrayInfo {
    pub(super) dtype: String,
    #[serde(deserialize_with = "few_dims")]
    pub(super) shape: Vec<usize>,
    /// Offsets of the first byte and of the end, counted from the end of the
    /// header.
    pub(super) data_offsets: [u64; 2],
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(METADATA, &self.metadata)?;
        for (name, info) in &self.arrays {
            map.serialize_entry(name, info)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the header of a safetensors file")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut metadata = None;
                let mut arrays = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name != METADATA {
                        arrays.push((name, map.next_value()?));
                    } else if metadata.replace(map.next_value()?).is_some() {
                        return Err(de::Error::duplicate_field(METADATA));
                    }
                }
                refuse_duplicates(&arrays)?;
                let metadata = metadata.ok_or_else(|| de::Error::missing_field(METADATA))?;
                Ok(Document { metadata, arrays })
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A JSON object whose entries keep their order in the text.
pub(super) struct Pairs<V>(pub(super) Vec<(String, V)>);

impl<V: Serialize> Serialize for Pairs<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = Pairs<V>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<V>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                refuse_duplicates(&pairs)?;
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

fn refuse_duplicates<V, E: de::Error>(pairs: &[(String, V)]) -> Result<(), E> {
    let mut seen = HashSet::with_capacity(pairs.len());
    match pairs.iter().find(|(key, _)| !seen.insert(key.as_str())) {
        Some((key, _)) => Err(E::custom(format_args!("duplicate key {key:?}"))),
        None => Ok(()),
    }
}

/// A list of at most [`MAX_DIMS`] numbers. A longer one is refused while it is
/// parsed, because it would take several times the memory of its text.
fn few_dims<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
    struct Dims;
    impl<'de> Visitor<'de> for Dims {
        type Value = Vec<usize>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            write!(f, "at most {MAX_DIMS} dimensions")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<usize>, A::Error> {
            let mut dims = Vec::new();
            while let Some(dim) = seq.next_element()? {
                if dims.len() == MAX_DIMS {
                    return Err(de::Error::invalid_length(MAX_DIMS + 1, &self));
                }
                dims.push(dim);
            }
            Ok(dims)
        }
    }
    deserializer.deserialize_seq(Dims)
}

/// `sonew.options`.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub(super) struct SavedOptions(#[serde(with = "OptionsMirror")] pub(super) Options);

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
        }
    }
}

impl From<TensorMirror> for SavedTensor {
    fn from(mirror: TensorMirror) -> Self {
        SavedTensor {
            spec: TensorSpec {
                name: mirror.name,
                dims: mirror.dims,
                chains: mirror.chains,
                update: mirror.update,
                params: mirror.params,
                grads: mirror.grads,
                state: mirror.state,
                master: !matches!(mirror.master, Master::None),
            },
            lr_scale: mirror.lr_scale,
            weight_decay: mirror.weight_decay,
            master_set: matches!(mirror.master, Master::Set),
        }
    }
}
