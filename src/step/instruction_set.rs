//! Which instruction set a plan uses.

use std::env;

use sonew_kernel::Isa;

use crate::error::{Error, Result};
use crate::options::InstructionSet;

/// The environment variable that is asked where the options leave it open.
const VARIABLE: &str = "SONEW_INSTRUCTION_SET";

/// The instruction set of the options, else of the environment, else the best.
pub(super) fn choose(option: InstructionSet) -> Result<Isa> {
    if option != InstructionSet::Auto {
        return named("options.instruction_set", option.name());
    }
    // A shell cannot easily unset a variable for one command: empty is unset.
    let name = env::var_os(VARIABLE).unwrap_or_default();
    match name.is_empty() || name == InstructionSet::Auto.name() {
        true => Ok(Isa::best()),
        false => named(VARIABLE, &name.to_string_lossy()),
    }
}

fn named(argument: &'static str, name: &str) -> Result<Isa> {
    let found = Isa::available().find(|isa| isa.name() == name);
    found.ok_or_else(|| {
        let available: Vec<_> = Isa::available().map(Isa::name).collect();
        Error::InstructionSet {
            argument,
            name: name.to_owned(),
            available: available.join(", "),
        }
    })
}
