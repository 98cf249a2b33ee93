//! Writing a checkpoint.

use std::path::Path;

use super::files::NewFile;
use super::header::{self, Contents, LENGTH_BYTES, MAX_LENGTH};
use super::json::ArrayInfo;
use super::read;
use super::{array_name, Array, Header, ALIGNMENT, PADDING};
use crate::error::{Error, Result};

/// Writes a checkpoint that holds `arrays`, in their order: every plane of
/// every tensor, and either every parameter or none.
///
/// The file appears whole and durable, in the place of an older one of its
/// name; on an error the older one stays. The bytes are written to a file
/// beside it, named like it with `.sonew-tmp` added.
pub fn write(path: &Path, header: &Header, arrays: &[Array]) -> Result<()> {
    header.validate()?;
    check_lengths(header, arrays)?;
    let start = encode(path, header, arrays)?;

    let mut file = NewFile::create(path)?;
    file.write(&start)?;
    for array in arrays {
        file.write(array.bytes)?;
        file.write(&[0; ALIGNMENT][..gap(array.bytes.len())])?;
    }
    file.commit()
}

/// Bytes from the end of an array to the next multiple of the alignment.
fn gap(bytes: usize) -> usize {
    bytes.wrapping_neg() % ALIGNMENT
}

fn check_lengths(header: &Header, arrays: &[Array]) -> Result<()> {
    for array in arrays {
        let count = header.tensors.len();
        let tensor = header.tensors.get(array.tensor);
        let spec = &tensor
            .ok_or(Error::UnknownTensor {
                index: array.tensor,
                count,
            })?
            .spec;
        if array.bytes.len() != spec.len() * array.dtype.size() {
            return Err(Error::WrongLength {
                tensor: spec.name.clone(),
                argument: array.plane.to_owned(),
                length: array.bytes.len() / array.dtype.size(),
                expected: spec.len(),
            });
        }
    }
    Ok(())
}

fn encode(path: &Path, header: &Header, arrays: &[Array]) -> Result<Vec<u8>> {
    let internal = |message: String| Error::Internal { message };
    let bytes = header::encode(place(header, arrays)).map_err(|e| internal(e.to_string()))?;
    let length = (bytes.len() - LENGTH_BYTES) as u64;
    if length > MAX_LENGTH {
        return Err(Error::HeaderLength {
            path: path.to_owned(),
            length,
            limit: MAX_LENGTH,
        });
    }
    // An array too many or too few would only be noticed when the file is
    // needed.
    let read_back = read::check(path, &bytes).map_err(|e| internal(e.to_string()))?;
    let mut expected = header.clone();
    expected.options.threads = read_back.header.options.threads;
    expected.options.instruction_set = read_back.header.options.instruction_set;
    if read_back.header != expected {
        return Err(internal("a header reads back differently".to_owned()));
    }
    Ok(bytes)
}

/// Gives every array its place, with padding behind it.
fn place(header: &Header, arrays: &[Array]) -> Contents {
    let mut placed = Vec::with_capacity(2 * arrays.len());
    let mut checksums = Vec::with_capacity(arrays.len());
    let mut position = 0;
    let mut push = |name: String, dtype: &str, shape: Vec<usize>, bytes: usize| {
        let end = position + bytes as u64;
        let info = ArrayInfo {
            dtype: dtype.to_owned(),
            shape,
            data_offsets: [position, end],
        };
        placed.push((name, info));
        position = end;
    };
    for (index, array) in arrays.iter().enumerate() {
        let tensor = &header.tensors[array.tensor];
        let name = array_name(tensor, array.plane);
        checksums.push((name.clone(), crc32fast::hash(array.bytes)));
        let bytes = array.bytes.len();
        push(name, array.dtype.name(), tensor.spec.dims.clone(), bytes);
        let gap = gap(bytes);
        if gap > 0 {
            push(format!("{PADDING}{index}"), "U8", vec![gap], gap);
        }
    }
    Contents {
        header: header.clone(),
        arrays: placed,
        checksums,
    }
}
