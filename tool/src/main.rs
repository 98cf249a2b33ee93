//! `sonew`: shows, verifies, converts, merges and splits checkpoints and live files of
//! libsonew.

mod convert;
mod inspect;
mod merge;
mod output;
mod split;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sonew::Error;

use output::Output;

const EXIT_CODES: &str = "\
Exit codes:
  0  done, and what was checked is right
  1  the file is damaged, or no state file of libsonew
  2  the command line is wrong
  3  it could not be done: the file cannot be read or written, is in use or not
     synced, is from a newer version, or what was asked for is impossible";

/// Shows, verifies, converts, merges and splits checkpoints and live files of libsonew.
#[derive(Parser)]
#[command(name = "sonew", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print JSON, for programs; errors, too.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
    Convert(convert::Convert),
    Merge(merge::Merge),
    Split(split::Split),
}

fn main() -> ExitCode {
    let Arguments { command, json } = Arguments::parse();
    let output = Output { json };
    let done = match &command {
        Command::Inspect(inspect) => inspect.run(output).map(|()| true),
        Command::Verify(verify) => verify.run(output),
        Command::Convert(convert) => convert.run(output).map(|()| true),
        Command::Merge(merge) => merge.run(output).map(|()| true),
        Command::Split(split) => split.run(output).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(DAMAGED),
        Err(error) => {
            output.error(&error);
            ExitCode::from(match error {
                Error::NotACheckpoint { .. }
                | Error::FileLength { .. }
                | Error::Checksum { .. }
                | Error::Torn { .. } => DAMAGED,
                _ => NOT_DONE,
            })
        }
    }
}

const DAMAGED: u8 = 1;
const NOT_DONE: u8 = 3;
