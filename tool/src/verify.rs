//! Whether a file is as it was written.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use sonew::checkpoint::Checkpoint;
use sonew::Error;

use crate::output::{array_name, bytes, count, of_error, progress, Output};

/// Check a whole file: its header, its sizes and every checksum
#[derive(Args)]
pub struct Verify {
    /// A checkpoint, or a live file that is not in use
    file: PathBuf,
}

impl Verify {
    /// Returns whether every checksum matches. Names all arrays that are damaged, not
    /// only the first.
    pub fn run(&self, output: Output) -> Result<bool, Error> {
        let file = Checkpoint::open(&self.file)?;
        if file.is_unsynced() {
            // Refuses it, and says why.
            file.verify()?;
        }
        let total = file.arrays().map(|array| array.bytes).sum();
        let bar = progress("verifying", total);
        let mut arrays = 0;
        let mut damaged = Vec::new();
        for array in file.arrays() {
            arrays += 1;
            match file.check(array.tensor, array.plane, &mut |bytes| bar.inc(bytes)) {
                Ok(()) => {}
                Err(error @ Error::Checksum { .. }) => {
                    damaged.push((array_name(&file, &array), error));
                }
                Err(error) => return Err(error),
            }
        }
        bar.finish_and_clear();
        if !output.json {
            damaged.iter().for_each(|(_, error)| output.error(error));
        }
        let text = || {
            let (name, arrays) = (self.file.display(), count(arrays, "array"));
            match damaged.len() {
                0 => format!(
                    "{name}: {arrays}, {}: every checksum matches\n",
                    bytes(total)
                ),
                n => format!("{name}: of {arrays}, {n} damaged\n"),
            }
        };
        output.result(text, || {
            let damaged = damaged.iter();
            json!({
                "file": self.file.to_string_lossy(),
                "arrays": arrays,
                "bytes": total,
                "damaged": damaged
                    .map(|(name, error)| json!({ "name": name, "error": of_error(error) }))
                    .collect::<Vec<_>>(),
            })
        });
        Ok(damaged.is_empty())
    }
}
