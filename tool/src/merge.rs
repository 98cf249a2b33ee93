//! Files that together hold tensors become one file.

use std::path::PathBuf;

use clap::Args;
use sonew::checkpoint::{bytes_to_merge, merge, Checkpoint};
use sonew::Error;

use crate::output::{progress, written, Output};

/// Write the state of several files, each of some tensors or of some of their rows, to one
/// checkpoint of whole tensors
///
/// The files must be of one step, have the same options, and have every row of their tensors.
/// An existing file is replaced when the new one is complete and on disk.
#[derive(Args)]
pub struct Merge {
    /// Checkpoints, or live files that are not in use
    #[arg(required = true, value_name = "FILE")]
    from: Vec<PathBuf>,
    /// The new checkpoint; it may be one of the files
    #[arg(long)]
    to: PathBuf,
}

impl Merge {
    pub fn run(&self, output: Output) -> Result<(), Error> {
        let opened = self.from.iter().map(Checkpoint::open);
        let files = opened.collect::<Result<Vec<_>, _>>()?;
        let bar = progress("merging", bytes_to_merge(&files)?);
        merge(&files, &self.to, &mut |bytes| bar.inc(bytes))?;
        bar.finish_and_clear();
        let (text, json) = written(&self.to)?;
        output.result(|| text, || json);
        Ok(())
    }
}
