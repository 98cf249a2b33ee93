//! A file becomes another one.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use sonew::checkpoint::{bytes_to_convert, convert, Checkpoint, Conversion};
use sonew::dtype::Dtype;
use sonew::Error;

use crate::output::{progress, written, Output};

/// Write a file's state to a new checkpoint, with state of another type, with parameters
/// or without
///
/// Without options, the new file has the same contents in the current format; of a live
/// file, those of its last step. An existing file is replaced when the new one is complete
/// and on disk.
#[derive(Args)]
pub struct Convert {
    /// A checkpoint, or a live file that is not in use
    from: PathBuf,
    /// The new checkpoint; it may be the same file
    to: PathBuf,
    /// The type of the state planes of every tensor, rounded as the options in the file
    /// say
    #[arg(long, value_name = "TYPE")]
    state: Option<State>,
    /// Whether the new file has parameters. If the old one has none, they are its master
    /// weights, rounded
    #[arg(long, value_name = "WHETHER")]
    parameters: Option<Whether>,
}

#[derive(Clone, Copy, ValueEnum)]
enum State {
    F32,
    F64,
    Bf16,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Whether {
    Yes,
    No,
}

impl Convert {
    pub fn run(&self, output: Output) -> Result<(), Error> {
        let conversion = Conversion {
            state: self.state.map(|state| match state {
                State::F32 => Dtype::F32,
                State::F64 => Dtype::F64,
                State::Bf16 => Dtype::Bf16,
            }),
            parameters: self.parameters.map(|whether| whether == Whether::Yes),
        };
        let file = Checkpoint::open(&self.from)?;
        let bar = progress("converting", bytes_to_convert(&file, &conversion)?);
        convert(&file, &self.to, &conversion, &mut |bytes| bar.inc(bytes))?;
        bar.finish_and_clear();
        let (text, json) = written(&self.to)?;
        output.result(|| text, || json);
        Ok(())
    }
}
