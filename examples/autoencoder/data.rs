//! Images to train on, and the order in which they come.

use std::path::Path;

use anyhow::{ensure, Result};
use ndarray::Array2;
use rand::{seq::SliceRandom, SeedableRng};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use crate::{curves, idx};

/// Width and height of every image.
pub const SIDE: usize = 28;
/// Pixels of every image.
pub const PIXELS: usize = SIDE * SIDE;

/// Which of the benchmark's two data sets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Name {
    Curves,
    Mnist,
}

impl Name {
    /// The name for tables and plots.
    pub fn title(self) -> &'static str {
        match self {
            Name::Curves => "CURVES",
            Name::Mnist => "MNIST",
        }
    }

    /// The name in file names.
    pub fn key(self) -> &'static str {
        match self {
            Name::Curves => "curves",
            Name::Mnist => "mnist",
        }
    }
}

/// A data set in memory.
pub struct Images {
    pub name: Name,
    /// Where it comes from, for people.
    pub description: String,
    /// One byte per pixel, 0 is no ink and 255 full ink; image by image.
    pixels: Vec<u8>,
}

impl Images {
    /// The generated CURVES images.
    pub fn curves() -> Self {
        Images {
            name: Name::Curves,
            description: format!("CURVES, {} generated images", curves::COUNT),
            pixels: curves::generate(),
        }
    }

    /// The MNIST images of a folder.
    pub fn mnist(folder: &Path) -> Result<Self> {
        let (file, pixels) = idx::read_images(folder)?;
        let count = pixels.len() / PIXELS;
        Ok(Images {
            name: Name::Mnist,
            description: format!("MNIST, {count} images of {}", file.display()),
            pixels,
        })
    }

    /// The images of a folder with MNIST, or CURVES; at least a batch.
    pub fn of(mnist: Option<&Path>, batch: usize) -> Result<Self> {
        let images = match mnist {
            Some(folder) => Images::mnist(folder)?,
            None => Images::curves(),
        };
        ensure!(
            batch <= images.len(),
            "--batch {batch} is more than the {} images",
            images.len()
        );
        Ok(images)
    }

    /// The first images of CURVES.
    #[cfg(test)]
    pub fn few(count: usize) -> Self {
        let mut images = Images::curves();
        images.pixels.truncate(count * PIXELS);
        images
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.pixels.len() / PIXELS
    }

    /// A checksum of the pixels.
    pub fn checksum(&self) -> u32 {
        let mut crc = flate2::Crc::new();
        crc.update(&self.pixels);
        crc.sum()
    }

    /// Copies the chosen images into `batch` as intensities from 0 to 1.
    pub fn gather(&self, chosen: &[u32], batch: &mut Array2<f32>) {
        for (mut row, &image) in batch.rows_mut().into_iter().zip(chosen) {
            let start = image as usize * PIXELS;
            for (x, &byte) in row.iter_mut().zip(&self.pixels[start..start + PIXELS]) {
                *x = f32::from(byte) * (1.0 / 255.0);
            }
        }
    }
}

/// The order of the images in one epoch: a function of its arguments alone,
/// so that a resumed run sees what it would have seen.
pub fn order(images: usize, seed: u64, epoch: usize) -> Vec<u32> {
    let mut rng = Pcg64::seed_from_u64(seed ^ ((epoch as u64 + 1) << 32));
    let mut order: Vec<u32> = (0..images as u32).collect();
    order.shuffle(&mut rng);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_is_another_permutation() {
        let first = order(1000, 3, 0);
        assert_eq!(first, order(1000, 3, 0));
        assert_ne!(first, order(1000, 3, 1));
        assert_ne!(first, order(1000, 4, 0));
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..1000));
    }

    #[test]
    fn gather_scales_bytes_to_intensities() {
        let mut pixels = vec![0; 2 * PIXELS];
        pixels[PIXELS] = 255;
        pixels[PIXELS + 1] = 51;
        let images = Images {
            name: Name::Mnist,
            description: String::new(),
            pixels,
        };
        let mut batch = Array2::zeros((2, PIXELS));
        images.gather(&[1, 0], &mut batch);
        assert_eq!(batch[(0, 0)], 1.0);
        assert!((batch[(0, 1)] - 0.2).abs() < 1e-7);
        assert!(batch.row(1).iter().all(|&x| x == 0.0));
    }
}
