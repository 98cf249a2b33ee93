//! The page about the benchmark: text written by hand, with tables that are
//! made from the results between marks `<!-- name -->` and `<!-- end -->`.

use anyhow::{Context, Result};

use super::ranges::{ranges, Range};
use super::results::{Cost, Timing};
use super::summary::{Row, Summary, ROWS};
use crate::data::Name;
use crate::settings::{Method, State};

/// Goals: the fraction of AdamW's steps in which a SONew reaches AdamW's loss.
const GOALS: [(Method, f64); 2] = [(Method::Tridiagonal, 0.40), (Method::Band4, 0.33)];
/// Goal: relative difference of final losses with bfloat16 and float32 state.
const BFLOAT16_GOAL: f64 = 0.02;
/// Goal: additional time of a whole step with tridiagonal SONew, relative to AdamW.
const COST_GOAL: f64 = 0.01;

/// Replaces every table of the page.
pub fn fill(page: &str, curves: &Summary, mnist: &Summary) -> Result<String> {
    let tables = [
        ("ranges", ranges_table()),
        ("best-curves", best_table(curves)),
        ("best-mnist", best_table(mnist)),
        ("machine", machine_line(mnist)),
        ("curves", main_table(curves)),
        ("mnist", main_table(mnist)),
        ("cost", cost_table(mnist.timing)),
        ("claims", claims_table(curves, mnist)),
    ];
    let mut page = page.to_owned();
    for (name, table) in tables {
        page = replace(&page, name, &table)?;
    }
    Ok(page)
}

/// Puts a text between the marks of this name.
fn replace(page: &str, name: &str, text: &str) -> Result<String> {
    let mark = format!("<!-- {name} -->\n");
    let (before, rest) = page
        .split_once(&mark)
        .with_context(|| format!("the page has no line {}", mark.trim_end()))?;
    let (_, after) = rest
        .split_once("<!-- end -->")
        .with_context(|| format!("the page has no <!-- end --> after {}", mark.trim_end()))?;
    Ok(format!("{before}{mark}{text}<!-- end -->{after}"))
}

/// A table; the first row is its head.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        text += &format!("| {} |\n", row.join(" | "));
        if i == 0 {
            text += &format!("|---{}|\n", "|---:".repeat(N - 1));
        }
    }
    text
}

fn head<const N: usize>(cells: [&str; N]) -> [String; N] {
    cells.map(str::to_owned)
}

fn ranges_table() -> String {
    let mut rows = vec![head([
        "optimizer",
        "learning rate",
        "1 - beta1",
        "1 - beta2",
        "eps",
        "its own",
    ])];
    let cell = |range: Option<Range>| match range {
        Some(range) => format!("{} to {}", number(range.low), number(range.high)),
        None => "-".to_owned(),
    };
    for (methods, title) in [
        (Method::Sgd, Method::Sgd.title()),
        (Method::Rmsprop, Method::Rmsprop.title()),
        (Method::Adamw, Method::Adamw.title()),
        (Method::Muon, Method::Muon.title()),
        (Method::Tridiagonal, "SONew"),
        (Method::PooledBand32, "SONew, pooled"),
    ] {
        let ranges = ranges(methods);
        rows.push([
            title.to_owned(),
            cell(Some(ranges.lr)),
            cell(ranges.far_beta1),
            cell(ranges.far_beta2),
            cell(ranges.eps),
            match ranges.own {
                Some((own, range)) => format!("{} {}", own.name(), cell(Some(range))),
                None => cell(None),
            },
        ]);
    }
    table(&rows)
}

fn best_table(summary: &Summary) -> String {
    let mut rows = vec![head([
        "optimizer",
        "learning rate",
        "beta1",
        "beta2",
        "eps",
        "its own",
        "final losses of the trials that went on",
    ])];
    let float32 = summary.rows.iter().filter(|r| r.state == State::Float32);
    for row in float32 {
        let has = ranges(row.method);
        let cell = |value: f64, range: Option<Range>| match range {
            Some(_) => number(value),
            None => "-".to_owned(),
        };
        let trials: Vec<String> = row.trials.iter().map(|&t| loss(t)).collect();
        rows.push([
            row.method.title().to_owned(),
            number(row.setting.lr),
            cell(row.setting.beta1, has.far_beta1),
            cell(row.setting.beta2, has.far_beta2),
            cell(row.setting.eps, has.eps),
            match has.own {
                Some((own, _)) => format!("{} {}", own.name(), number(own.of(&row.setting))),
                None => "-".to_owned(),
            },
            trials.join(", "),
        ]);
    }
    table(&rows)
}

fn machine_line(summary: &Summary) -> String {
    let timing = summary.timing;
    format!(
        "Times: {}, {}; medians over {} turns of each optimizer.\n",
        timing.machine, timing.date, timing.rounds
    )
}

fn main_table(summary: &Summary) -> String {
    let mut rows = vec![head([
        "optimizer",
        "final loss (least to most)",
        "steps to AdamW's",
        "optimizer per step",
        "whole step",
        "state bytes per parameter",
    ])];
    for row in &summary.rows {
        let cost = summary.timing.cost(row.method, row.state);
        let cost = |of: &dyn Fn(&Cost) -> String| cost.map_or_else(|| "-".to_owned(), of);
        let least = row.finals.iter().copied().fold(f64::INFINITY, f64::min);
        let most = row.finals.iter().copied().fold(0.0, f64::max);
        rows.push([
            title(row),
            format!(
                "{} ({} to {})",
                loss(row.final_loss()),
                loss(least),
                loss(most)
            ),
            steps_cell(summary, row),
            cost(&|c| format!("{:.2} ms", c.optimizer_ms)),
            cost(&|c| format!("{:.1} ms", c.whole_ms)),
            cost(&|c| format!("{:.1}", c.state_bytes_per_parameter)),
        ]);
    }
    table(&rows)
}

fn steps_cell(summary: &Summary, row: &Row) -> String {
    if row.method == Method::Adamw {
        return format!("{} (100%)", summary.steps);
    }
    match row.mean_steps() {
        Some(steps) => format!("{steps:.0} ({:.0}%)", 100.0 * share(summary, steps)),
        None => "not reached".to_owned(),
    }
}

/// What steps cost.
pub fn cost_table(timing: &Timing) -> String {
    let mut rows = vec![head([
        "optimizer",
        "optimizer per step",
        "whole step",
        "more than with AdamW, by the optimizers' times",
        "by the whole steps of a round",
    ])];
    for (method, state) in ROWS {
        if let Some(cost) = timing.cost(method, state) {
            rows.push([
                name(method, state),
                format!("{:.2} ms", cost.optimizer_ms),
                format!("{:.1} ms", cost.whole_ms),
                format!("{:+.1}%", 100.0 * extra(timing, method, state)),
                format!("{:+.1}%", 100.0 * (cost.whole_ratio - 1.0)),
            ]);
        }
    }
    table(&rows)
}

/// By how much a whole step is longer than AdamW's because of the optimizer.
fn extra(timing: &Timing, method: Method, state: State) -> f64 {
    let cost = |method, state| timing.cost(method, state).expect("timed");
    let adamw = cost(Method::Adamw, State::Float32);
    (cost(method, state).optimizer_ms - adamw.optimizer_ms) / adamw.whole_ms
}

fn claims_table(curves: &Summary, mnist: &Summary) -> String {
    let mut rows = vec![head(["claim", "data", "goal", "measured", "holds"])];
    for (data, summary) in [(Name::Curves, curves), (Name::Mnist, mnist)] {
        let mut add = |claim: String, goal: String, measured: String, holds: bool| {
            let holds = if holds { "yes" } else { "**no**" };
            rows.push([
                claim,
                data.title().to_owned(),
                goal,
                measured,
                holds.to_owned(),
            ]);
        };
        let row = |method| summary.row(method, State::Float32);
        for (method, goal) in GOALS {
            let reached = row(method).mean_steps().map(|s| share(summary, s));
            add(
                format!("{} reaches AdamW's final loss in", method.title()),
                format!("at most {:.0}% of its steps", 100.0 * goal),
                reached.map_or_else(|| "never".to_owned(), |r| format!("{:.1}%", 100.0 * r)),
                reached.is_some_and(|reached| reached <= goal),
            );
        }
        let tridiagonal = row(Method::Tridiagonal).final_loss();
        for (method, name) in [
            (Method::Band4, "band 4"),
            (Method::PooledBand32, "pooled band 32"),
        ] {
            let found = row(method).final_loss();
            add(
                format!("{name} ends below tridiagonal"),
                format!("below {}", loss(tridiagonal)),
                loss(found),
                found < tridiagonal,
            );
        }
        for method in [Method::Diagonal, Method::Tridiagonal, Method::Band4] {
            let bfloat16 = summary.row(method, State::Bfloat16).final_loss();
            let off = bfloat16 / row(method).final_loss() - 1.0;
            add(
                format!("{}: bfloat16 state ends near float32", method.title()),
                format!("within {:.0}%", 100.0 * BFLOAT16_GOAL),
                format!("{:+.1}%", 100.0 * off),
                off.abs() <= BFLOAT16_GOAL,
            );
        }
        if data == Name::Mnist {
            let extra = extra(summary.timing, Method::Tridiagonal, State::Float32);
            add(
                "a whole step with tridiagonal SONew costs more than with AdamW by".to_owned(),
                format!("at most {:.0}%", 100.0 * COST_GOAL),
                format!("{:.1}%", 100.0 * extra),
                extra <= COST_GOAL,
            );
        }
    }
    table(&rows)
}

fn share(summary: &Summary, steps: f64) -> f64 {
    steps / summary.steps as f64
}

fn title(row: &Row) -> String {
    name(row.method, row.state)
}

fn name(method: Method, state: State) -> String {
    match state {
        State::Float32 => method.title().to_owned(),
        State::Bfloat16 => format!("{}, bfloat16 state", method.title()),
    }
}

fn loss(value: f64) -> String {
    format!("{value:.2}")
}

/// The shortest text that is exact.
fn number(value: f64) -> String {
    match (1e-3..1e3).contains(&value) {
        true => format!("{value}"),
        false => format!("{value:e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let page = "a\n<!-- x -->\nold\n<!-- end -->\nb\n<!-- y -->\nkept\n<!-- end -->\n";
        let replaced = replace(page, "x", "new\n").unwrap();
        assert_eq!(replaced, page.replace("old", "new"));
        let refused = replace(page, "z", "").unwrap_err().to_string();
        assert_eq!(refused, "the page has no line <!-- z -->");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(number(0.0123), "0.0123");
        assert_eq!(number(3e-7), "3e-7");
    }
}
