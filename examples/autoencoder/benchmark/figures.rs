//! The loss curves of the page.

use std::path::Path;

use anyhow::Result;

use super::search::SEEDS;
use super::summary::{Row, Summary};
use crate::data::Name;
use crate::plot::{reached, Curve, Plot};
use crate::settings::{Method, State};

/// Draws the losses of a data set against steps and against seconds.
pub fn draw(folder: &Path, data: Name, summary: &Summary) -> Result<()> {
    let rows = || summary.rows.iter().filter(|r| r.state == State::Float32);
    let title = format!(
        "Deep autoencoder on {}, means of {} seeds",
        data.title(),
        SEEDS.len()
    );
    let steps = Plot {
        title: title.clone(),
        along: "steps",
        curves: rows()
            .map(|row| curve(row, 1.0, share(summary, row)))
            .collect(),
        target: Some(summary.target),
    };
    steps.draw(&folder.join(format!("{}-steps.svg", data.key())))?;
    let seconds = Plot {
        title,
        along: "seconds",
        curves: rows()
            .map(|row| {
                let step = seconds_per_step(summary, row.method);
                let passes = row
                    .mean_steps()
                    .map(|steps| format!("{:.1} s", steps * step));
                let timed = summary.timing.cost(row.method, State::Float32).is_some();
                Curve {
                    note: (!timed).then(|| "not timed: drawn with AdamW's time".to_owned()),
                    ..curve(row, step, passes)
                }
            })
            .collect(),
        target: Some(summary.target),
    };
    seconds.draw(&folder.join(format!("{}-seconds.svg", data.key())))
}

/// The share of AdamW's steps that an optimizer needs to get where AdamW ends.
fn share(summary: &Summary, row: &Row) -> Option<String> {
    let share = row.mean_steps()? / summary.steps as f64;
    Some(format!("{:.0}% of the steps", 100.0 * share))
}

/// A whole step. SGD and RMSProp, which were not timed, are given AdamW's.
fn seconds_per_step(summary: &Summary, method: Method) -> f64 {
    let cost = |method| summary.timing.cost(method, State::Float32);
    let cost = cost(method).or_else(|| cost(Method::Adamw));
    cost.expect("AdamW is timed").whole_ms / 1e3
}

/// A curve with steps of this width.
fn curve(row: &Row, width: f64, passes: Option<String>) -> Curve {
    let points = row.curve.iter();
    let mark = (row.method != Method::Adamw).then_some(passes).flatten();
    Curve {
        method: row.method,
        points: points
            .map(|&(step, loss)| (step as f64 * width, loss))
            .collect(),
        mark: mark
            .zip(row.mean_steps())
            .map(|(when, steps)| (steps * width, reached(&when))),
        note: None,
    }
}
