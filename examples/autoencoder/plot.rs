//! Loss curves as an SVG file.

use std::path::Path;

use anyhow::{anyhow, Result};
use plotters::prelude::*;

use crate::report::{smooth, steps_to, target};
use crate::settings::Method;
use crate::train::Record;

const SIZE: (u32, u32) = (1220, 600);
/// The part of the width that is the legend's.
const LEGEND: u32 = 300;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(50, 50, 50);
const GRID: RGBColor = RGBColor(228, 228, 228);
/// The first part of the steps, whose losses may be above the plot: they fall so
/// steeply that later differences would be invisible.
const LEFT_OUT: f64 = 0.08;

/// A plot of loss curves, with AdamW's final loss as a line across.
pub struct Plot {
    pub title: String,
    /// The label of the horizontal axis.
    pub along: &'static str,
    pub curves: Vec<Curve>,
    /// AdamW's final loss.
    pub target: Option<f64>,
}

/// One optimizer's curve.
pub struct Curve {
    pub method: Method,
    /// From left to right, never empty.
    pub points: Vec<(f64, f64)>,
    /// Where it reaches the target, and what the legend says of that.
    pub mark: Option<(f64, String)>,
    /// What else the legend says.
    pub note: Option<String>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Colours that colour-blind readers can distinguish (Okabe and Ito, and of Tol's those whose
/// lightness differs).
fn colour(method: Method) -> RGBColor {
    match method {
        Method::Sgd => RGBColor(204, 121, 167),
        Method::Rmsprop => RGBColor(0, 158, 115),
        Method::Adamw => RGBColor(110, 110, 110),
        Method::Diagonal => RGBColor(230, 159, 0),
        Method::Tridiagonal => RGBColor(0, 114, 178),
        Method::Band4 => RGBColor(213, 94, 0),
        Method::Default => RGBColor(153, 153, 51),
        Method::Muon => RGBColor(0, 0, 0),
        Method::PooledBand32 => RGBColor(86, 180, 233),
        Method::PooledRank16 => RGBColor(51, 34, 136),
        Method::PooledAll => RGBColor(136, 34, 85),
    }
}

/// The mean loss over an epoch against the steps, one curve per optimizer.
pub fn against_steps(data: &str, records: &[Record], epoch: usize) -> Plot {
    let target = target(records, epoch);
    let curve = |record: &Record| Curve {
        method: record.method,
        points: smooth(&record.losses, epoch)
            .map(|(step, loss)| (step as f64, loss))
            .collect(),
        mark: target
            .filter(|_| record.method != Method::Adamw)
            .and_then(|target| steps_to(&record.losses, target, epoch))
            .map(|step| {
                let share = 100.0 * step as f64 / record.losses.len() as f64;
                (step as f64, reached(&format!("{share:.0}% of the steps")))
            }),
        note: None,
    };
    Plot {
        title: format!("Deep autoencoder on {data}"),
        along: "steps",
        curves: records.iter().map(curve).collect(),
        target,
    }
}

/// What the legend says of a curve that reaches AdamW's final loss.
pub fn reached(when: &str) -> String {
    format!("as low as AdamW after {when}")
}

impl Plot {
    /// Writes the plot to a file.
    pub fn draw(&self, path: &Path) -> Result<()> {
        let failed = |error| anyhow!("cannot draw {}: {error}", path.display());
        self.draw_svg(path)
            .map_err(|error| failed(error.to_string()))
    }

    fn draw_svg(&self, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let ends = self.curves.iter().filter_map(|c| c.points.last());
        let end = ends.map(|p| p.0).fold(0.0, f64::max);
        let (low, high) = self.range(end);

        let root = SVGBackend::new(path, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        // Beside the curves, where it hides none of them.
        let (left, right) = root.split_horizontally(SIZE.0 - LEGEND);
        let mut chart = ChartBuilder::on(&left)
            .caption(&self.title, (FONT, 22).into_font().color(&INK))
            .margin(16)
            .margin_right(20)
            .x_label_area_size(48)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..end, low..high)?;
        chart
            .configure_mesh()
            .x_desc(self.along)
            .y_desc("loss, nats per image (mean over an epoch)")
            .axis_desc_style((FONT, 16).into_font().color(&INK))
            .label_style((FONT, 14).into_font().color(&INK))
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.0}"))
            .axis_style(INK)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .draw()?;

        for curve in &self.curves {
            let stroke = colour(curve.method).stroke_width(2);
            for piece in pieces(&curve.points, low, high) {
                chart.draw_series(LineSeries::new(piece, stroke))?;
            }
        }
        if let Some(target) = self.target {
            let style = colour(Method::Adamw).stroke_width(1);
            let line = [(0.0, target), (end, target)];
            chart.draw_series(DashedLineSeries::new(line, 5, 4, style))?;
            for curve in &self.curves {
                if let Some((x, _)) = curve.mark {
                    let colour = colour(curve.method);
                    chart.draw_series([Circle::new((x, target), 5, colour.filled())])?;
                }
            }
        }
        self.legend(&right)?;
        root.present()?;
        Ok(())
    }

    /// A line for each curve, with what is to be said of it below.
    fn legend(&self, area: &Area<'_>) -> Result<(), Box<dyn std::error::Error>> {
        let font = |size| (FONT, size).into_font().color(&INK);
        let mut y = 68;
        for curve in &self.curves {
            let stroke = colour(curve.method).stroke_width(3);
            area.draw(&PathElement::new([(0, y), (24, y)], stroke))?;
            area.draw(&Text::new(curve.method.title(), (34, y - 9), font(15)))?;
            let mark = curve.mark.as_ref().map(|(_, text)| text);
            for note in mark.into_iter().chain(&curve.note) {
                y += 19;
                area.draw(&Text::new(note.clone(), (34, y - 9), font(13)))?;
            }
            y += 30;
        }
        if self.target.is_some() {
            for dash in 0..3 {
                let x = dash * 9;
                let style = colour(Method::Adamw).stroke_width(1);
                area.draw(&PathElement::new([(x, y), (x + 5, y)], style))?;
            }
            area.draw(&Text::new("AdamW's final loss", (34, y - 9), font(15)))?;
        }
        Ok(())
    }

    /// The losses to show: all but those above every curve's `LEFT_OUT` point.
    fn range(&self, end: f64) -> (f64, f64) {
        let points = self.curves.iter().flat_map(|curve| &curve.points);
        let (mut low, mut high) = (f64::INFINITY, 0.0f64);
        for &(_, loss) in points.filter(|p| p.0 >= LEFT_OUT * end) {
            low = low.min(loss);
            high = high.max(loss);
        }
        let room = 0.05 * (high - low).max(1e-3 * high);
        (low - room, high + room)
    }
}

/// The parts of a curve between two heights, each from where it enters to where it
/// leaves.
fn pieces(curve: &[(f64, f64)], low: f64, high: f64) -> Vec<Vec<(f64, f64)>> {
    let mut pieces: Vec<Vec<(f64, f64)>> = Vec::new();
    let mut last_end = None;
    for (i, pair) in curve.windows(2).enumerate() {
        let [(x0, y0), (x1, y1)] = [pair[0], pair[1]];
        // The shares of the way at which it passes the two heights.
        let at = |y: f64| (y - y0) / (y1 - y0);
        let (enters, leaves) = match y0 == y1 {
            true if (low..=high).contains(&y0) => (0.0, 1.0),
            true => continue,
            false => (at(low).min(at(high)), at(low).max(at(high))),
        };
        let (from, to) = (enters.max(0.0), leaves.min(1.0));
        if from >= to {
            continue;
        }
        let point = |share: f64| match share {
            0.0 => (x0, y0),
            1.0 => (x1, y1),
            _ => (x0 + share * (x1 - x0), y0 + share * (y1 - y0)),
        };
        // It goes on where the line before has ended inside.
        if from > 0.0 || last_end != Some(i) {
            pieces.push(vec![point(from)]);
        }
        if let Some(piece) = pieces.last_mut() {
            piece.push(point(to));
        }
        last_end = (to == 1.0).then_some(i + 1);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A curve that leaves the plot is cut there: it does not run along the border.
    #[test]
    fn a_curve_is_cut_where_it_leaves() {
        let curve = [
            (0.0, 9.0),
            (1.0, 3.0),
            (2.0, 3.0),
            (3.0, 9.0),
            (4.0, 9.0),
            (5.0, 3.0),
            (6.0, -3.0),
        ];
        let expected = vec![
            vec![(0.5, 6.0), (1.0, 3.0), (2.0, 3.0), (2.5, 6.0)],
            vec![(4.5, 6.0), (5.0, 3.0), (5.5, 0.0)],
        ];
        assert_eq!(pieces(&curve, 0.0, 6.0), expected);
        assert_eq!(pieces(&curve, -4.0, 10.0), [curve.to_vec()]);
        assert!(pieces(&curve, 20.0, 30.0).is_empty());
        // From one side to the other between two points.
        assert_eq!(
            pieces(&[(0.0, 0.0), (8.0, 8.0)], 2.0, 4.0),
            [[(2.0, 2.0), (4.0, 4.0)]]
        );
    }
}
