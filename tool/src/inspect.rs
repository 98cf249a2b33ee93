//! What is in a file.

use std::path::PathBuf;

use clap::Args;
use serde_json::{json, to_value, Value};
use sonew::checkpoint::{Checkpoint, SavedTensor};
use sonew::Error;

use crate::output::{array_name, bytes, table, Output};

/// Show the options, tensors, arrays and texts of a file
///
/// Reads and checks its header alone: see verify.
#[derive(Args)]
pub struct Inspect {
    /// A checkpoint or a live file
    file: PathBuf,
}

impl Inspect {
    pub fn run(&self, output: Output) -> Result<(), Error> {
        let file = Checkpoint::open(&self.file)?;
        output.result(|| self.text(&file), || self.json(&file));
        Ok(())
    }

    fn text(&self, file: &Checkpoint) -> String {
        let header = file.header();
        let tensors: Vec<_> = header.tensors.iter().map(tensor).collect();
        let shards: Vec<_> = header.tensors.iter().filter_map(shard).collect();
        let mut sections = vec![
            format!("{}\n", self.file.display()),
            table(&[], &about(file)),
            table(&[], &options(file)),
            table(&TENSORS, &tensors),
        ];
        if !shards.is_empty() {
            sections.push(table(&SHARDS, &shards));
        }
        sections.push(table(&ARRAYS, &arrays(file)));
        if !header.texts.is_empty() {
            let texts: Vec<_> = header.texts.iter().map(text).collect();
            sections.push(table(&TEXTS, &texts));
        }
        sections.join("\n")
    }

    /// Options and tensors are as in the header of a file.
    fn json(&self, file: &Checkpoint) -> Value {
        let header = file.header();
        let arrays = file.arrays().map(|array| {
            json!({
                "name": array_name(file, &array),
                "dtype": array.dtype.name(),
                "offset": array.offset,
                "bytes": array.bytes,
                "crc32": array.crc32.map(|crc| format!("{crc:08x}")),
            })
        });
        json!({
            "file": self.file.to_string_lossy(),
            "format": file.format(),
            "file_bytes": file.file_bytes(),
            "live": file.is_live(),
            "synced": !file.is_unsynced(),
            "step": header.step,
            "parameters": header.parameters,
            "texts": header.texts,
            "options": to_value(&header.options).expect("numbers and names"),
            "tensors": to_value(&header.tensors).expect("numbers and names"),
            "arrays": arrays.collect::<Vec<_>>(),
        })
    }
}

fn about(file: &Checkpoint) -> Vec<Vec<String>> {
    let header = file.header();
    let kind = match (file.is_live(), file.is_unsynced()) {
        (false, _) => "checkpoint",
        (true, false) => "live file, synced",
        (true, true) => "live file, not synced after its last step",
    };
    let mut tensors = header.tensors.iter();
    let parameters = match header.parameters {
        true => "yes",
        false if tensors.all(|t| t.master_set || t.master_reset) => "as master weights",
        false => "no",
    };
    let elements: usize = header.tensors.iter().map(|t| t.spec.len()).sum();
    let current: u64 = file.arrays().map(|array| array.bytes).sum();
    let rows = [
        ("what it is", format!("{kind}, format {}", file.format())),
        ("step", header.step.to_string()),
        ("tensors", header.tensors.len().to_string()),
        ("elements", elements.to_string()),
        ("parameters", parameters.to_owned()),
        ("arrays", bytes(current)),
        ("file", bytes(file.file_bytes())),
    ];
    rows.map(|(name, value)| vec![name.to_owned(), value])
        .into()
}

const TEXTS: [&str; 2] = ["text", "beginning"];

/// A text of the program, which may be long.
fn text((key, text): (&String, &String)) -> Vec<String> {
    const MOST: usize = 60;
    let beginning: String = text.chars().take(MOST).collect();
    let rest = if beginning.len() < text.len() {
        "..."
    } else {
        ""
    };
    vec![key.clone(), format!("{beginning:?}{rest}")]
}

/// All options that a file records, whichever these are.
fn options(file: &Checkpoint) -> Vec<Vec<String>> {
    let options = to_value(&file.header().options).expect("numbers and names");
    let options = options.as_object().into_iter().flatten();
    let rows = options.map(|(name, value)| vec![name.clone(), words(Ok(value.clone()))]);
    rows.collect()
}

/// A value in words: "moving_average" is "moving average".
fn words(value: serde_json::Result<Value>) -> String {
    match value.expect("numbers and names") {
        Value::String(name) => name.replace('_', " "),
        value => value.to_string(),
    }
}

const TENSORS: [&str; 11] = [
    "tensor",
    "shape",
    "chains",
    "update",
    "params",
    "grads",
    "state",
    "master",
    "lr scale",
    "weight decay",
    "steps",
];

fn tensor(saved: &SavedTensor) -> Vec<String> {
    let spec = &saved.spec;
    let master = match (spec.master, saved.master_set, saved.master_reset) {
        (false, ..) => "none",
        (_, true, _) => "set",
        (_, _, true) => "discarded",
        _ => "empty",
    };
    vec![
        spec.name.clone(),
        shape(&spec.dims),
        words(to_value(spec.chains)),
        words(to_value(spec.update)),
        spec.params.to_string(),
        spec.grads.to_string(),
        spec.state.to_string(),
        master.to_owned(),
        saved.lr_scale.to_string(),
        saved.weight_decay.to_string(),
        saved.step_count.to_string(),
    ]
}

const SHARDS: [&str; 4] = ["shard", "first row", "rows", "of"];

/// Which rows of a larger tensor a tensor is.
fn shard(saved: &SavedTensor) -> Option<Vec<String>> {
    let spec = &saved.spec;
    let shard = spec.shard?;
    Some(vec![
        spec.name.clone(),
        shard.first_row.to_string(),
        spec.dims.first()?.to_string(),
        shard.whole_rows.to_string(),
    ])
}

const ARRAYS: [&str; 5] = ["array", "type", "at byte", "size", "checksum"];

fn arrays(file: &Checkpoint) -> Vec<Vec<String>> {
    let row = |array| {
        vec![
            array_name(file, &array),
            array.dtype.to_string(),
            array.offset.to_string(),
            bytes(array.bytes),
            array
                .crc32
                .map_or("none yet".to_owned(), |crc| format!("{crc:08x}")),
        ]
    };
    file.arrays().map(row).collect()
}

fn shape(dims: &[usize]) -> String {
    let dims: Vec<_> = dims.iter().map(usize::to_string).collect();
    match dims.is_empty() {
        true => "scalar".to_owned(),
        false => dims.join(" x "),
    }
}
