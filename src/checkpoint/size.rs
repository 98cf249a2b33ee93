//! Whether a file of these tensors can have a header, asked before there is state.

use super::header::{self, Contents, LENGTH_BYTES, MAX_LENGTH};
use super::write::{lay_out, FileLayout};
use super::{Array, Header, SavedTensor, Texts, PARAMETER};
use crate::error::{Error, Result};
use crate::layout::{planes, Scalars, TensorSpec};
use crate::options::Options;

/// Refuses tensors whose header would be longer than readers of safetensors accept,
/// with their parameters in the file: they could be optimized, but never saved.
pub(crate) fn check_size(options: &Options, tensors: &[TensorSpec]) -> Result<()> {
    let bound = |spec: &TensorSpec| most(options, spec);
    if tensors.iter().map(bound).sum::<u64>() <= MAX_LENGTH {
        return Ok(());
    }
    match header_length(options, tensors)? <= MAX_LENGTH {
        true => Ok(()),
        false => Err(Error::TooManyTensors {
            tensors: tensors.len(),
            limit: MAX_LENGTH,
        }),
    }
}

/// The bytes of the header, or some number above the limit. Makes the header of one
/// tensor at a time, because that of all may need more memory than there is.
fn header_length(options: &Options, tensors: &[TensorSpec]) -> Result<u64> {
    let empty = length(&contents(options, &[], FileLayout::default()))?;
    let (mut all, mut layout) = (empty, FileLayout::default());
    for spec in tensors {
        let gaps = layout.gaps();
        let one = contents(options, std::slice::from_ref(spec), layout);
        all += length(&one)? - empty + SEPARATORS;
        if all > MAX_LENGTH {
            break;
        }
        layout = FileLayout::after(&one, gaps);
    }
    Ok(all)
}

/// Commas between what two tensors have in the list of tensors and in that of checksums.
const SEPARATORS: u64 = 2;

/// More than the bytes that a tensor can take in a header. Its name stands in it once
/// for the tensor and three times for each array, perhaps escaped.
fn most(options: &Options, spec: &TensorSpec) -> u64 {
    let arrays = planes(options, spec).len() + 1;
    (2048 + 4 * spec.name.len() + arrays * (512 + 8 * spec.name.len())) as u64
}

/// The header of a file of these tensors, as they are at first.
fn contents(options: &Options, tensors: &[TensorSpec], layout: FileLayout) -> Contents {
    let saved = |spec: &TensorSpec| SavedTensor {
        spec: spec.clone(),
        lr_scale: 1.0,
        weight_decay: spec.options_or(options).weight_decay,
        master_set: spec.master,
        master_reset: false,
        // It will have more digits than at first.
        step_count: u64::MAX,
        scalars: Scalars {
            norm_ratio: f64::MIN_POSITIVE,
            bias_corrections: [f64::MIN_POSITIVE; 2],
            largest: f64::MIN_POSITIVE,
        },
    };
    let header = Header {
        options: options.clone(),
        tensors: tensors.iter().map(saved).collect(),
        step: 0,
        parameters: true,
        texts: Texts::default(),
    };
    let mut named = Vec::new();
    for (tensor, spec) in tensors.iter().enumerate() {
        let state = planes(options, spec).into_iter();
        named.extend(state.map(|plane| (tensor, plane.name, plane.dtype)));
        named.push((tensor, PARAMETER.to_owned(), spec.params));
    }
    let arrays: Vec<Array<'_>> = named
        .iter()
        .map(|(tensor, plane, dtype)| Array {
            tensor: *tensor,
            plane,
            dtype: *dtype,
            bytes: &[],
        })
        .collect();
    lay_out(&header, &arrays, false, layout)
}

/// The bytes of a header's JSON.
fn length(contents: &Contents) -> Result<u64> {
    let bytes = header::encode(contents).map_err(|error| Error::Internal {
        message: error.to_string(),
    })?;
    Ok((bytes.trim_ascii_end().len() - LENGTH_BYTES) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;

    fn tensors(count: usize, name: usize) -> Vec<TensorSpec> {
        let spec = |i: usize| {
            let name = format!("{}\"{i}", "n".repeat(name));
            let spec = TensorSpec::new(&name, &[3 + i % 20, 1 + i % 7]);
            match i % 3 {
                0 => spec,
                1 => spec.with_dtypes(Dtype::Bf16, Dtype::Bf16, Dtype::F32),
                _ => spec.with_update(crate::layout::Update::Adam),
            }
        };
        (0..count).map(spec).collect()
    }

    /// The sum over tensors is the header of all of them.
    #[test]
    fn the_length_is_that_of_the_header() {
        let options = Options::default();
        for (count, name) in [(1, 0), (2, 10), (40, 3), (300, 90)] {
            let tensors = tensors(count, name);
            let whole = length(&contents(&options, &tensors, FileLayout::default())).unwrap();
            let summed = header_length(&options, &tensors).unwrap();
            // It has one comma less in each list than there are tensors.
            assert!(
                (whole..=whole + SEPARATORS).contains(&summed),
                "{whole} {summed}"
            );
            let bound: u64 = tensors.iter().map(|t| most(&options, t)).sum();
            assert!(bound > summed, "{bound} {summed}");
        }
    }

    #[test]
    fn what_could_not_be_saved_is_refused_before_it_is_there() {
        let options = Options::default();
        check_size(&options, &tensors(2000, 4096)).unwrap();
        assert!(matches!(
            check_size(&options, &tensors(4000, 4096)),
            Err(Error::TooManyTensors { tensors: 4000, .. })
        ));
        assert!(matches!(
            crate::Optimizer::new(options, &tensors(4000, 4096)),
            Err(Error::TooManyTensors { .. })
        ));
    }
}
