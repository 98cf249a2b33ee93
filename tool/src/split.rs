//! A file becomes several.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;
use sonew::checkpoint::{split, Checkpoint, SplitBy};
use sonew::Error;

use crate::output::{progress, written, Output};

/// Write the state of a file to several checkpoints, each of some of its tensors or of some
/// of their rows
///
/// Existing files are replaced when all new ones are complete and on disk.
#[derive(Args)]
pub struct Split {
    /// A checkpoint, or a live file that is not in use
    from: PathBuf,
    /// What the new files have
    #[arg(long, value_name = "WHAT")]
    by: By,
    /// How many files there will be
    #[arg(long, value_name = "COUNT")]
    into: usize,
    /// How their names begin. They end in -00001-of-00003.safetensors, and so on
    #[arg(long, value_name = "PREFIX")]
    to: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum By {
    /// Of every tensor the same number of rows, or one more
    Rows,
    /// Whole tensors that follow each other, so that the largest file is small
    Tensors,
}

impl Split {
    pub fn run(&self, output: Output) -> Result<(), Error> {
        let file = Checkpoint::open(&self.from)?;
        let by = match self.by {
            By::Rows => SplitBy::Rows,
            By::Tensors => SplitBy::Tensors,
        };
        let names = (1..=self.into).map(|number| {
            let mut name = OsString::from(&self.to);
            name.push(format!("-{number:05}-of-{:05}.safetensors", self.into));
            PathBuf::from(name)
        });
        let names: Vec<PathBuf> = names.collect();
        let bytes: u64 = file.arrays().map(|array| array.bytes).sum();
        let bar = progress("splitting", 2 * bytes);
        split(file, by, &names, &mut |bytes| bar.inc(bytes))?;
        bar.finish_and_clear();
        let written = names.iter().map(|name| written(name));
        let (texts, files): (Vec<_>, Vec<_>) =
            written.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        output.result(|| texts.concat(), || json!({ "files": files }));
        Ok(())
    }
}
