//! Tests of the state file. Files are real, in a temporary folder; their
//! other readers and writers are the `safetensors` crate.

mod damaged;
mod forged;
mod live;
mod power;
mod round_trip;
mod saving;

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::arrays::Wanted;
use super::*;
use crate::error::Error;
use crate::layout::{Chains, Scalars, Update};

/// A header, and an array of numbers for each that the file must have.
#[derive(Clone)]
struct Sample {
    header: Header,
    arrays: Vec<(usize, String, Vec<f32>)>,
}

impl Sample {
    /// Numbers for every array that `header` asks for.
    fn of(header: Header) -> Sample {
        let mut next = 0.0;
        let mut arrays = Vec::new();
        for (index, tensor) in header.tensors.iter().enumerate() {
            for plane in header.arrays(tensor) {
                let values = (0..plane.dims.iter().product()).map(|_| {
                    next += 0.37;
                    next
                });
                arrays.push((index, plane.name, values.collect()));
            }
        }
        Sample { header, arrays }
    }

    /// A matrix with a band of 2 and a vector with plain Adam.
    fn small() -> Sample {
        let weight = TensorSpec::new("fc1.weight", &[2, 3]).with_chains(Chains::Strided);
        let bias = TensorSpec::new("fc1.bias", &[5]).with_update(Update::Adam);
        let options = Options {
            band: 2,
            ..Options::default()
        };
        Sample::of(Header {
            options,
            tensors: vec![saved(weight), saved(bias)],
            step: 7,
            parameters: true,
            texts: Texts::default(),
        })
    }

    fn arrays(&self) -> impl Iterator<Item = Array<'_>> {
        self.arrays.iter().map(|(tensor, plane, values)| Array {
            tensor: *tensor,
            plane,
            dtype: Dtype::F32,
            bytes: bytemuck::cast_slice(values),
        })
    }

    fn write(&self, path: &Path) -> Result<()> {
        write(path, &self.header, &self.arrays().collect::<Vec<_>>())
    }

    /// Reads every array; the numbers must be those that were written.
    fn assert_reads_back(&self, checkpoint: &Checkpoint) {
        for (tensor, plane, values) in &self.arrays {
            let read = read(checkpoint, *tensor, plane).unwrap();
            assert_eq!(&read, values, "{tensor} {plane}");
        }
    }
}

fn saved(spec: TensorSpec) -> SavedTensor {
    SavedTensor {
        spec,
        lr_scale: 1.0,
        weight_decay: 0.0,
        master_set: false,
        master_reset: false,
        step_count: 2,
        scalars: Scalars::default(),
    }
}

fn read(checkpoint: &Checkpoint, tensor: usize, plane: &str) -> Result<Vec<f32>> {
    let header = checkpoint.header();
    let arrays = header.arrays(&header.tensors[tensor]);
    let array = arrays.iter().find(|array| array.name == plane);
    let len = array.map_or(0, |array| array.dims.iter().product());
    let mut values = vec![0f32; len];
    read_bytes(
        checkpoint,
        tensor,
        plane,
        bytemuck::cast_slice_mut(&mut values),
    )?;
    Ok(values)
}

fn read_bytes(checkpoint: &Checkpoint, tensor: usize, plane: &str, dst: &mut [u8]) -> Result<()> {
    let wanted = Wanted {
        tensor,
        plane,
        dtype: checkpoint.dtype(tensor, plane)?,
        rounding: None,
        dst,
    };
    checkpoint.read(vec![wanted], 1)
}

/// A folder, the path of a file in it, and that file's bytes.
struct Written {
    _folder: TempDir,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Written {
    fn new(sample: &Sample) -> Written {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.safetensors");
        sample.write(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        Written {
            _folder: folder,
            path,
            bytes,
        }
    }

    /// Where the data begin.
    fn data(&self) -> usize {
        let length = u64::from_le_bytes(self.bytes[..8].try_into().unwrap());
        8 + length as usize
    }

    fn json(&self) -> &str {
        std::str::from_utf8(&self.bytes[8..self.data()]).unwrap()
    }

    /// Opens the file after other bytes have been put into it.
    fn open_with(&self, bytes: &[u8]) -> Result<Checkpoint<'static>> {
        // A new file: some file systems sync one that is cut and rewritten.
        fs::remove_file(&self.path).unwrap();
        fs::write(&self.path, bytes).unwrap();
        Checkpoint::open(&self.path)
    }
}
