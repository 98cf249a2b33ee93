//! CURVES: images of smooth curves through three random points, after Hinton
//! and Salakhutdinov, "Reducing the dimensionality of data with neural
//! networks", Science 313 (2006). Six numbers determine an image, so a code of
//! six units can hold it.
//!
//! The paper describes the images but not how exactly they were drawn. This is
//! a regeneration from its description; losses on it are comparable with one
//! another, not with those on the original images.

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use rayon::prelude::*;

use crate::data::{PIXELS, SIDE};

/// Number of images.
pub const COUNT: usize = 10_000;

const SEED: u64 = 2006;
/// Straight pieces that a curve is drawn with.
const PIECES: usize = 32;
/// Half the width of the pen, in pixels.
const PEN: f32 = 0.75;
/// The three points keep this distance from the border. A parabola leaves the
/// bounding box of its three points by at most an eighth of its size, so the
/// whole curve stays inside the image.
const MARGIN: f32 = 4.5;

type Point = [f32; 2];

/// All images, one byte per pixel.
pub fn generate() -> Vec<u8> {
    let mut rng = Pcg64::seed_from_u64(SEED);
    let range = MARGIN..SIDE as f32 - MARGIN;
    let mut coordinate = || rng.random_range(range.clone());
    let curves: Vec<[Point; 3]> = (0..COUNT)
        .map(|_| std::array::from_fn(|_| [coordinate(), coordinate()]))
        .collect();
    let mut pixels = vec![0; COUNT * PIXELS];
    pixels
        .par_chunks_exact_mut(PIXELS)
        .zip(&curves)
        .for_each(|(image, points)| draw(points, image));
    pixels
}

/// The parabola through the points at times 0, 1/2 and 1.
fn curve(points: &[Point; 3], t: f32) -> Point {
    let [a, b, c] = *points;
    std::array::from_fn(|i| {
        (2.0 * t - 1.0) * (t - 1.0) * a[i] + 4.0 * t * (1.0 - t) * b[i] + t * (2.0 * t - 1.0) * c[i]
    })
}

fn draw(points: &[Point; 3], image: &mut [u8]) {
    let mut from = curve(points, 0.0);
    for piece in 1..=PIECES {
        let to = curve(points, piece as f32 / PIECES as f32);
        draw_line(from, to, image);
        from = to;
    }
}

/// Darkens the pixels near a line: fully under the pen, and fading to nothing
/// over one pixel at its edge.
fn draw_line(from: Point, to: Point, image: &mut [u8]) {
    let pixels_along = |axis: usize| {
        let low = from[axis].min(to[axis]) - PEN - 1.0;
        let high = from[axis].max(to[axis]) + PEN + 1.0;
        low.max(0.0) as usize..(high.max(0.0) as usize + 1).min(SIDE)
    };
    for row in pixels_along(1) {
        for column in pixels_along(0) {
            let centre = [column as f32 + 0.5, row as f32 + 0.5];
            let ink = (PEN + 0.5 - distance(centre, from, to)).clamp(0.0, 1.0);
            let pixel = &mut image[row * SIDE + column];
            *pixel = (*pixel).max((ink * 255.0).round() as u8);
        }
    }
}

/// From a point to the nearest one on a line from `a` to `b`.
fn distance(point: Point, a: Point, b: Point) -> f32 {
    let along = [b[0] - a[0], b[1] - a[1]];
    let to = [point[0] - a[0], point[1] - a[1]];
    let squared_norm = along[0] * along[0] + along[1] * along[1];
    let t = match squared_norm > 0.0 {
        true => ((to[0] * along[0] + to[1] * along[1]) / squared_norm).clamp(0.0, 1.0),
        false => 0.0,
    };
    (to[0] - t * along[0]).hypot(to[1] - t * along[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_goes_through_its_points() {
        let points = [[5.0, 6.0], [20.5, 9.0], [12.0, 22.0]];
        for (i, point) in points.iter().enumerate() {
            let at = curve(&points, i as f32 / 2.0);
            assert!(distance(at, *point, *point) < 1e-5);
        }
    }

    #[test]
    fn a_line_has_a_dark_core_and_soft_edges() {
        let mut image = vec![0; PIXELS];
        draw_line([8.0, 10.0], [20.0, 10.0], &mut image);
        // The line runs along the border of rows 9 and 10, half a pixel from
        // the centres of both, and 1.5 from those of rows 8 and 11.
        let column: Vec<u8> = (7..13).map(|row| image[row * SIDE + 14]).collect();
        assert_eq!(column, [0, 0, 191, 191, 0, 0]);
        assert!(image[10 * SIDE + 3] == 0 && image[10 * SIDE + 25] == 0);
    }

    #[test]
    fn images_are_reproducible_and_hold_ink_inside_the_border_only() {
        let images = generate();
        assert_eq!(images, generate());
        for image in images.chunks_exact(PIXELS) {
            assert!(image.iter().any(|&x| x > 180), "an image without a curve");
            let border = (0..SIDE).flat_map(|i| [i, (SIDE - 1) * SIDE + i, i * SIDE]);
            assert!(border.into_iter().all(|i| image[i] == 0));
        }
    }
}
