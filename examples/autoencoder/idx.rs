//! The IDX format of the MNIST files: a big-endian header (magic number, count,
//! rows, columns) and one byte per pixel; plain or gzipped.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use flate2::read::MultiGzDecoder;

use crate::data::{PIXELS, SIDE};

/// The file names under which MNIST images come, best first.
const FILES: [&str; 4] = [
    "train-images-idx3-ubyte",
    "train-images.idx3-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-images.idx3-ubyte",
];
/// Unsigned bytes in three dimensions.
const MAGIC: u32 = 0x0803;
const HEADER: usize = 16;

/// Reads the training images of a folder, or the test images where there are
/// no others. Returns the file's path and the pixels.
pub fn read_images(folder: &Path) -> Result<(PathBuf, Vec<u8>)> {
    let path = find(folder)?;
    let what = || format!("cannot read MNIST images from {}", path.display());
    let mut bytes = fs::read(&path).with_context(what)?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut plain = Vec::new();
        MultiGzDecoder::new(bytes.as_slice())
            .read_to_end(&mut plain)
            .context("the gzip data is damaged")
            .with_context(what)?;
        bytes = plain;
    }
    let pixels = parse(&bytes).with_context(what)?;
    Ok((path, pixels))
}

fn find(folder: &Path) -> Result<PathBuf> {
    ensure!(folder.is_dir(), "{} is not a folder", folder.display());
    for name in FILES {
        for path in [folder.join(name), folder.join(format!("{name}.gz"))] {
            if path.is_file() {
                return Ok(path);
            }
        }
    }
    bail!(
        "{} has no MNIST images: expected {} or {}, plain or .gz",
        folder.display(),
        FILES[0],
        FILES[2]
    )
}

/// The pixels of an IDX file with 28x28 images.
fn parse(bytes: &[u8]) -> Result<Vec<u8>> {
    let (header, pixels) = bytes.split_at_checked(HEADER).with_context(|| {
        format!(
            "{} bytes are too few for the {HEADER} of the header",
            bytes.len()
        )
    })?;
    let number = |i: usize| u32::from_be_bytes(std::array::from_fn(|byte| header[4 * i + byte]));
    let [magic, count, rows, columns] = std::array::from_fn(number);
    ensure!(
        magic == MAGIC,
        "not an IDX file of images: it starts with {magic:#010x}, not {MAGIC:#010x}"
    );
    ensure!(
        rows as usize == SIDE && columns as usize == SIDE,
        "the images are {rows}x{columns}, not {SIDE}x{SIDE}"
    );
    ensure!(count > 0, "the file holds no images");
    let expected = u64::from(count) * PIXELS as u64;
    ensure!(
        pixels.len() as u64 == expected,
        "{count} images need {expected} bytes of pixels, the file has {}",
        pixels.len()
    );
    Ok(pixels.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{write::GzEncoder, Compression};
    use std::io::Write;

    fn file(magic: u32, count: u32, side: u32, pixels: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = [magic, count, side, side]
            .iter()
            .flat_map(|n| n.to_be_bytes())
            .collect();
        bytes.extend((0..pixels).map(|i| i as u8));
        bytes
    }

    fn good() -> Vec<u8> {
        file(MAGIC, 2, 28, 2 * PIXELS)
    }

    #[test]
    fn pixels_follow_the_header() {
        let pixels = parse(&good()).unwrap();
        assert_eq!(pixels.len(), 2 * PIXELS);
        assert_eq!(pixels[..3], [0, 1, 2]);
    }

    #[test]
    fn malformed_files_are_refused_with_the_reason() {
        let mut long = good();
        long.push(0);
        let cases = [
            (vec![], "0 bytes are too few"),
            (good()[..15].to_vec(), "15 bytes are too few"),
            (file(0x0801, 2, 28, 2 * PIXELS), "starts with 0x00000801"),
            (file(MAGIC, 2, 32, 2 * 32 * 32), "32x32, not 28x28"),
            (file(MAGIC, 0, 28, 0), "no images"),
            (
                file(MAGIC, 3, 28, 2 * PIXELS),
                "3 images need 2352 bytes of pixels, the file has 1568",
            ),
            (file(MAGIC, u32::MAX, 28, 5), "the file has 5"),
            (long, "the file has 1569"),
        ];
        for (bytes, reason) in cases {
            let error = parse(&bytes).unwrap_err().to_string();
            assert!(error.contains(reason), "{error:?} lacks {reason:?}");
        }
    }

    #[test]
    fn folders_are_searched_for_plain_and_gzipped_files() {
        let folder = tempfile::tempdir().unwrap();
        let missing = read_images(folder.path()).unwrap_err().to_string();
        assert!(missing.contains("train-images-idx3-ubyte"), "{missing}");
        let no_folder = read_images(&folder.path().join("none")).unwrap_err();
        assert!(no_folder.to_string().contains("is not a folder"));

        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&good()).unwrap();
        let gzip = gzip.finish().unwrap();
        let test_images = folder.path().join("t10k-images-idx3-ubyte.gz");
        fs::write(&test_images, &gzip).unwrap();
        let (path, pixels) = read_images(folder.path()).unwrap();
        assert_eq!((path, pixels.len()), (test_images.clone(), 2 * PIXELS));

        fs::write(&test_images, &gzip[..gzip.len() / 2]).unwrap();
        let damaged = format!("{:#}", read_images(folder.path()).unwrap_err());
        assert!(
            damaged.contains("gzip data is damaged") && damaged.contains("t10k-images"),
            "{damaged}"
        );

        let training_images = folder.path().join("train-images-idx3-ubyte");
        fs::write(&training_images, good()).unwrap();
        assert_eq!(read_images(folder.path()).unwrap().0, training_images);
    }
}
