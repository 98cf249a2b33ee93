//! Loss curves as an SVG file.

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
    /// Where it reaches the target, and the label there.
    pub mark: Option<(f64, String)>,
}

/// Colours that colour-blind readers can distinguish (Okabe and Ito).
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
                (step as f64, format!("{share:.0}%"))
            }),
    };
    Plot {
        title: format!("Deep autoencoder on {data}"),
        along: "steps",
        curves: records.iter().map(curve).collect(),
        target,
    }
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
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, (FONT, 22).into_font().color(&INK))
            .margin(16)
            .margin_right(28)
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
            chart
                .draw_series(LineSeries::new(clip(&curve.points, high), stroke))?
                .label(curve.method.title())
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 24, y)], stroke.stroke_width(3))
                });
        }
        if let Some(target) = self.target {
            let style = colour(Method::Adamw).stroke_width(1);
            let line = [(0.0, target), (end, target)];
            chart.draw_series(DashedLineSeries::new(line, 5, 4, style))?;
            for curve in &self.curves {
                if let Some((x, text)) = &curve.mark {
                    let colour = colour(curve.method);
                    let font = (FONT, 15).into_font().color(&colour);
                    let mark = EmptyElement::at((*x, target))
                        + Circle::new((0, 0), 5, colour.filled())
                        + Text::new(text.clone(), (7, -17), font);
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
