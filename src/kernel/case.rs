//! What the loop over a block is compiled for.

use super::block::{Output, Task};
use super::sink;
use super::source::Reference;
use super::vector::Vector;

/// What a loop would ask of its task for every vector of coordinates, answered
/// when it is compiled: `None` is to be asked.
pub(crate) trait Case {
    /// State takes in a gradient, and no rounding is left to chance. Or it is
    /// only read.
    const TAKES: Option<bool>;
    /// The length of Adam's direction is wanted. Or of none.
    const REFERS: Option<bool>;
    /// Directions are applied, and plainly: to parameters of the arithmetic's
    /// type. Or they are measured.
    const APPLIES: Option<bool>;

    /// Whether a task is of this case.
    fn holds<V: Vector>(task: &Task<'_>) -> bool {
        let answers = |known: Option<bool>, yes: bool, no: bool| match known {
            None => true,
            Some(true) => yes,
            Some(false) => no,
        };
        let take_in = task.take_in.as_ref();
        let takes = take_in.is_some() && task.state.noise.is_empty();
        let adam = take_in.is_some_and(|by| matches!(by.reference, Some(Reference::Adam { .. })));
        let none = take_in.is_none_or(|by| by.reference.is_none() && by.rms.is_none());
        let applies = match &task.output {
            Output::Apply(target, apply) => sink::is_plain::<V>(target, *apply),
            _ => false,
        };
        let measures = matches!(task.output, Output::Measure(_));
        answers(Self::TAKES, takes, take_in.is_none())
            && answers(Self::REFERS, adam, none)
            && answers(Self::APPLIES, applies, measures)
    }
}

/// The cases with loops of their own.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Straight,
    Measured,
    Again,
}

impl Kind {
    /// That of a task, if it has one.
    pub(super) fn of<V: Vector>(task: &Task<'_>) -> Option<Kind> {
        if Straight::holds::<V>(task) {
            Some(Kind::Straight)
        } else if Measured::holds::<V>(task) {
            Some(Kind::Measured)
        } else if Again::holds::<V>(task) {
            Some(Kind::Again)
        } else {
            None
        }
    }
}

/// Whatever the task is.
pub(crate) struct Any;
/// A step without grafting, in one pass.
pub(crate) struct Straight;
/// A step's first pass, where the length is grafted from Adam.
pub(crate) struct Measured;
/// A step's second pass, where directions were not kept.
pub(crate) struct Again;

impl Case for Any {
    const TAKES: Option<bool> = None;
    const REFERS: Option<bool> = None;
    const APPLIES: Option<bool> = None;
}

impl Case for Straight {
    const TAKES: Option<bool> = Some(true);
    const REFERS: Option<bool> = Some(false);
    const APPLIES: Option<bool> = Some(true);
}

impl Case for Measured {
    const TAKES: Option<bool> = Some(true);
    const REFERS: Option<bool> = Some(true);
    const APPLIES: Option<bool> = Some(false);
}

impl Case for Again {
    const TAKES: Option<bool> = Some(false);
    const REFERS: Option<bool> = Some(false);
    const APPLIES: Option<bool> = Some(true);
}
