//! The table of results.

use crate::settings::Method;
use crate::train::Record;

/// Mean loss over the last `window` steps, at each step that has so many before it.
/// If the window is an epoch, every image counts once.
pub fn smooth(losses: &[f32], window: usize) -> impl Iterator<Item = (usize, f64)> + '_ {
    losses.windows(window).enumerate().map(move |(i, losses)| {
        let sum: f64 = losses.iter().copied().map(f64::from).sum();
        (i + window, sum / window as f64)
    })
}

/// Mean loss over the last epoch.
pub fn final_loss(losses: &[f32], epoch: usize) -> f64 {
    let last = smooth(losses, epoch).last();
    last.expect("at least one epoch").1
}

/// The first step at which the mean loss over an epoch is down to `target`,
/// AdamW's final loss.
pub fn steps_to(losses: &[f32], target: f64, epoch: usize) -> Option<usize> {
    smooth(losses, epoch)
        .find(|&(_, loss)| loss <= target)
        .map(|(step, _)| step)
}

/// AdamW's final loss, if AdamW was run.
pub fn target(records: &[Record], epoch: usize) -> Option<f64> {
    let adamw = records.iter().find(|r| r.method == Method::Adamw)?;
    Some(final_loss(&adamw.losses, epoch))
}

/// An aligned table with one row per optimizer.
pub fn table(records: &[Record], epoch: usize) -> String {
    let target = target(records, epoch);
    let mut rows = vec![[
        "optimizer",
        "final loss",
        "steps to AdamW's",
        "optimizer",
        "per step",
        "in all",
    ]
    .map(str::to_owned)];
    for record in records {
        let steps = record.losses.len();
        rows.push([
            record.method.title().to_owned(),
            format!("{:.2}", final_loss(&record.losses, epoch)),
            steps_cell(record, target, epoch),
            format!("{:.2} s", record.optimizer_seconds),
            format!("{:.2} ms", 1e3 * record.optimizer_seconds / steps as f64),
            format!("{:.1} s", record.seconds),
        ]);
    }
    let legend = "\
        final loss         mean over the last epoch, in nats per image\n\
        steps to AdamW's   until the mean over an epoch is down to AdamW's final loss\n\
        optimizer          time in the optimizer, in all and per step\n\
        in all             the same with the network";
    format!("{}\n{legend}\n", align(&rows))
}

/// The number of steps until AdamW's final loss was reached.
fn steps_cell(record: &Record, target: Option<f64>, epoch: usize) -> String {
    let all = record.losses.len();
    let step = match target {
        None => return "-".to_owned(),
        Some(_) if record.method == Method::Adamw => Some(all),
        Some(target) => steps_to(&record.losses, target, epoch),
    };
    match step {
        None => "not reached".to_owned(),
        Some(step) => format!("{step} ({:.0}%)", 100.0 * step as f64 / all as f64),
    }
}

/// First column to the left, the others to the right, a rule under the first
/// row.
fn align<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|r| r[column].len()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        let mut line = format!("{:<w$}", row[0], w = widths[0]);
        for (cell, w) in row.iter().zip(widths).skip(1) {
            line += &format!("   {cell:>w$}");
        }
        text += &format!("{line}\n");
        if i == 0 {
            text += &format!("{}\n", "─".repeat(line.chars().count()));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(method: Method, losses: &[f32]) -> Record {
        Record {
            method,
            losses: losses.to_vec(),
            optimizer_seconds: 0.5,
            seconds: 2.0,
        }
    }

    #[test]
    fn steps_are_counted_from_one() {
        let falling = [9.0, 7.0, 5.0, 3.0];
        assert_eq!(final_loss(&falling, 2), 4.0);
        assert_eq!(steps_to(&falling, 6.0, 2), Some(3));
        assert_eq!(steps_to(&falling, 9.0, 1), Some(1));
        assert_eq!(steps_to(&falling, 3.9, 2), None);
    }

    #[test]
    fn table_compares_with_adamw_and_is_aligned() {
        let records = [
            record(Method::Adamw, &[9.0, 8.0, 7.0, 6.0]),
            record(Method::Band4, &[9.0, 6.0, 5.0, 4.0]),
            record(Method::Diagonal, &[9.0, 8.0, 8.0, 8.0]),
        ];
        let table = table(&records, 1);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[2].contains("4 (100%)"), "{table}");
        assert!(lines[3].contains("2 (50%)"), "{table}");
        assert!(lines[4].contains("not reached"), "{table}");
        let widths: Vec<usize> = lines[..5].iter().map(|l| l.chars().count()).collect();
        assert!(widths.iter().all(|&w| w == widths[0]), "{table}");
    }
}
