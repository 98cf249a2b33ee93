//! The result for people: the loss curves as an SVG file.

use std::path::Path;

use anyhow::{anyhow, Result};
use plotters::prelude::*;

use crate::report::{smooth, steps_to, target};
use crate::settings::Method;
use crate::train::Record;

const SIZE: (u32, u32) = (960, 600);
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(50, 50, 50);
const GRID: RGBColor = RGBColor(228, 228, 228);
/// Part of the steps whose losses may lie above the plot: they fall steeply
/// and would flatten all that comes later.
const LEFT_OUT: f64 = 0.08;

/// Colours that stay apart for colour-blind readers (Okabe and Ito).
fn colour(method: Method) -> RGBColor {
    match method {
        Method::Sgd => RGBColor(204, 121, 167),
        Method::Rmsprop => RGBColor(0, 158, 115),
        Method::Adamw => RGBColor(110, 110, 110),
        Method::Diagonal => RGBColor(230, 159, 0),
        Method::Tridiagonal => RGBColor(0, 114, 178),
        Method::Band4 => RGBColor(213, 94, 0),
    }
}

/// Draws the mean loss over an epoch against the steps, one curve per
/// optimizer, with AdamW's final loss and where each curve passes it.
pub fn draw(path: &Path, data: &str, records: &[Record], epoch: usize) -> Result<()> {
    let failed = |error| anyhow!("cannot draw {}: {error}", path.display());
    draw_svg(path, data, records, epoch).map_err(|error| failed(error.to_string()))
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw_svg(path: &Path, data: &str, records: &[Record], epoch: usize) -> Drawn {
    let curves: Vec<(&Record, Vec<(f64, f64)>)> =
        records.iter().map(|r| (r, curve(r, epoch))).collect();
    let steps = curves.iter().filter_map(|(_, c)| c.last()).map(|p| p.0);
    let steps = steps.fold(0.0, f64::max);
    let (low, high) = range(&curves, steps);

    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(
            format!("Deep autoencoder on {data}"),
            (FONT, 22).into_font().color(&INK),
        )
        .margin(16)
        .margin_right(28)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..steps, low..high)?;
    chart
        .configure_mesh()
        .x_desc("steps")
        .y_desc("loss, nats per image (mean over an epoch)")
        .axis_desc_style((FONT, 16).into_font().color(&INK))
        .label_style((FONT, 14).into_font().color(&INK))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .draw()?;

    for (record, curve) in &curves {
        let stroke = colour(record.method).stroke_width(2);
        chart
            .draw_series(LineSeries::new(clip(curve, high), stroke))?
            .label(record.method.title())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], stroke.stroke_width(3)));
    }
    if let Some(target) = target(records, epoch) {
        let style = colour(Method::Adamw).stroke_width(1);
        let line = [(0.0, target), (steps, target)];
        chart.draw_series(DashedLineSeries::new(line, 5, 4, style))?;
        for record in records.iter().filter(|r| r.method != Method::Adamw) {
            if let Some(step) = steps_to(record, target, epoch) {
                let share = 100.0 * step as f64 / record.losses.len() as f64;
                let font = (FONT, 15).into_font().color(&colour(record.method));
                let mark = EmptyElement::at((step as f64, target))
                    + Circle::new((0, 0), 5, colour(record.method).filled())
                    + Text::new(format!("{share:.0}%"), (7, -17), font);
                chart.draw_series([mark])?;
            }
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.9))
        .border_style(GRID)
        .label_font((FONT, 15).into_font().color(&INK))
        .legend_area_size(34)
        .margin(12)
        .draw()?;
    root.present()?;
    Ok(())
}

fn curve(record: &Record, epoch: usize) -> Vec<(f64, f64)> {
    smooth(&record.losses, epoch)
        .map(|(step, loss)| (step as f64, loss))
        .collect()
}

/// The losses to show: all but those above every curve's `LEFT_OUT` point.
fn range(curves: &[(&Record, Vec<(f64, f64)>)], steps: f64) -> (f64, f64) {
    let shown = curves
        .iter()
        .flat_map(|(_, curve)| curve)
        .filter(|p| p.0 >= LEFT_OUT * steps);
    let (mut low, mut high) = (f64::INFINITY, 0.0f64);
    for &(_, loss) in shown {
        low = low.min(loss);
        high = high.max(loss);
    }
    let room = 0.05 * (high - low).max(1e-3 * high);
    (low - room, high + room)
}

/// The part of a falling curve below `high`, from where it crosses that line.
fn clip(curve: &[(f64, f64)], high: f64) -> Vec<(f64, f64)> {
    let above = curve.iter().take_while(|p| p.1 > high).count();
    let mut clipped = curve[above..].to_vec();
    if let (Some(&(x0, y0)), Some(&(x1, y1))) = (
        above.checked_sub(1).and_then(|i| curve.get(i)),
        clipped.first(),
    ) {
        let share = (y0 - high) / (y0 - y1);
        clipped.insert(0, (x0 + share * (x1 - x0), high));
    }
    clipped
}
