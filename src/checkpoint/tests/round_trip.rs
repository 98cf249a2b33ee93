//! Written data can be read back, by this library and by other readers.

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use safetensors::SafeTensors;

use super::*;
use crate::options::{Damping, Graft, InstructionSet, Pooling, Rounding, Statistics};

#[test]
fn header_and_arrays_come_back() {
    let sample = Sample::small();
    let file = Written::new(&sample);
    let checkpoint = Checkpoint::open(&file.path).unwrap();
    assert_eq!(checkpoint.header(), &sample.header);
    sample.assert_reads_back(&checkpoint);
}

#[test]
fn every_option_comes_back_except_those_of_the_machine() {
    let mut sample = Sample::small();
    sample.header.options = Options {
        band: 3,
        beta1: 0.95,
        beta2: 0.999,
        eps: 0.0,
        gamma: 0.25,
        statistics: Statistics::WeightedSum,
        damping: Damping::Relative,
        bias_correction: false,
        graft: Graft::NormalizedRmsprop,
        graft_eps: 1e-9,
        pooling: Pooling::Rank,
        rank: 5,
        shrink: 0.125,
        lagged_norms: Some(true),
        nesterov: true,
        graft_bias_correction: false,
        weight_decay: 0.125,
        rounding: Rounding::Stochastic,
        seed: u64::MAX,
        threads: 3,
        instruction_set: InstructionSet::Portable,
    };
    sample.header.step = u64::MAX;
    sample.header.parameters = false;
    let sample = Sample::of(sample.header);
    let file = Written::new(&sample);
    let checkpoint = Checkpoint::open(&file.path).unwrap();
    sample.assert_reads_back(&checkpoint);

    let mut expected = sample.header.clone();
    expected.options.threads = 0;
    expected.options.instruction_set = InstructionSet::Auto;
    assert_eq!(checkpoint.header(), &expected);
}

#[test]
fn floats_come_back_to_the_last_bit() {
    let mut rng = Pcg64::seed_from_u64(1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    let mut sample = Sample::small();
    let known = [
        0.1 + 0.2,
        1.0 / 3.0,
        5e-324,
        f64::MIN_POSITIVE,
        f64::from(f32::MAX),
        -0.0,
    ];
    // No optimizer has a number that float32 cannot hold.
    let random = std::iter::repeat_with(|| f64::from_bits(rng.random::<u64>() >> 1));
    for value in known
        .into_iter()
        .chain(random.filter(|&v| (v as f32).is_finite()).take(300))
    {
        sample.header.options.eps = value;
        sample.header.tensors[0].lr_scale = value;
        sample.header.tensors[1].weight_decay = value;
        sample.write(&path).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let header = checkpoint.header();
        let read = [
            header.options.eps,
            header.tensors[0].lr_scale,
            header.tensors[1].weight_decay,
        ];
        assert_eq!(read.map(f64::to_bits), [value.to_bits(); 3], "{value:e}");
    }
}

#[test]
fn every_element_type_comes_back() {
    let types = [Dtype::F32, Dtype::F64, Dtype::Bf16, Dtype::F16];
    let mut tensors = Vec::new();
    for (i, params) in types.into_iter().enumerate() {
        for state in [Dtype::F32, Dtype::F64, Dtype::Bf16] {
            let spec = TensorSpec::new(format!("{params} {state}"), &[3, 5]);
            let mut saved = saved(spec.with_dtypes(params, types[(i + 1) % 4], state));
            saved.spec.master = params != Dtype::F64;
            saved.master_set = params == Dtype::F16;
            tensors.push(saved);
        }
    }
    let header = Header {
        tensors,
        ..Sample::small().header
    };
    let bytes: Vec<u8> = (0..15 * 8).collect();
    let mut arrays = Vec::new();
    let planes: Vec<_> = header.tensors.iter().map(|t| header.arrays(t)).collect();
    for (tensor, planes) in planes.iter().enumerate() {
        for plane in planes {
            arrays.push(Array {
                tensor,
                plane: &plane.name,
                dtype: plane.dtype,
                bytes: &bytes[..15 * plane.dtype.size()],
            });
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    write(&path, &header, &arrays).unwrap();

    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.header(), &header);
    let file = fs::read(&path).unwrap();
    let others = SafeTensors::deserialize(&file).unwrap();
    for array in &arrays {
        let mut read = vec![0; array.bytes.len()];
        read_bytes(&checkpoint, array.tensor, array.plane, &mut read).unwrap();
        assert_eq!(read, array.bytes);
        let name = format!("{}/{}", header.tensors[array.tensor].spec.name, array.plane);
        let other = others.tensor(&name).unwrap();
        let dtype = match array.dtype {
            Dtype::F32 => safetensors::Dtype::F32,
            Dtype::F64 => safetensors::Dtype::F64,
            Dtype::Bf16 => safetensors::Dtype::BF16,
            Dtype::F16 => safetensors::Dtype::F16,
        };
        assert_eq!(
            (other.dtype(), other.data()),
            (dtype, array.bytes),
            "{name}"
        );
    }
    let parameter = others.tensor("BF16 F64/parameter").unwrap();
    let momentum = others.tensor("BF16 F64/momentum").unwrap();
    assert_eq!(parameter.dtype(), safetensors::Dtype::BF16);
    assert_eq!(momentum.dtype(), safetensors::Dtype::F64);
}

#[test]
fn any_bits_of_an_array_come_back() {
    let mut sample = Sample::small();
    sample.arrays[0].2 = [0x7fc0_1234, 0xff80_0000, 1, 0x8000_0000, 0x7fa0_0001, 0]
        .map(f32::from_bits)
        .to_vec();
    let file = Written::new(&sample);
    let checkpoint = Checkpoint::open(&file.path).unwrap();
    let values = read(&checkpoint, 0, "momentum").unwrap();
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&values), bits(&sample.arrays[0].2));
}

#[test]
fn an_array_of_several_chunks_comes_back() {
    let mut header = Sample::small().header;
    header.tensors[1].spec.dims = vec![700_001];
    let sample = Sample::of(header);
    let file = Written::new(&sample);
    sample.assert_reads_back(&Checkpoint::open(&file.path).unwrap());
}

#[test]
fn the_safetensors_crate_reads_it() {
    let sample = Sample::small();
    let file = Written::new(&sample);
    let tensors = SafeTensors::deserialize(&file.bytes).unwrap();
    for (index, plane, values) in &sample.arrays {
        let spec = &sample.header.tensors[*index].spec;
        let view = tensors.tensor(&format!("{}/{plane}", spec.name)).unwrap();
        assert_eq!(view.dtype(), safetensors::Dtype::F32);
        assert_eq!(view.shape(), spec.dims);
        assert_eq!(view.data(), bytemuck::cast_slice::<f32, u8>(values));
    }

    let (_, metadata) = SafeTensors::read_metadata(&file.bytes).unwrap();
    let strings = metadata.metadata().as_ref().unwrap();
    assert_eq!(strings["sonew.format"], "4");
    assert_eq!(strings["sonew.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(strings["sonew.step"], "7");
    let options: serde_json::Value = serde_json::from_str(&strings["sonew.options"]).unwrap();
    assert_eq!(options["band"], 2);
    assert_eq!(options["statistics"], "moving_average");
    assert_eq!(options.get("threads"), None);
    let saved: serde_json::Value = serde_json::from_str(&strings["sonew.tensors"]).unwrap();
    let weight = serde_json::json!({
        "name": "fc1.weight", "dims": [2, 3], "chains": "strided", "update": "sonew",
        "lr_scale": 1.0, "weight_decay": 0.0,
        "params": "F32", "grads": "F32", "state": "F32", "master": "none",
        "step_count": 2,
    });
    assert_eq!(saved[0], weight);
}

#[test]
fn every_array_starts_at_a_multiple_of_64_bytes() {
    let mut header = Sample::small().header;
    // Lengths around one and two multiples.
    header.tensors = [1, 15, 16, 17, 31, 32, 33]
        .map(|n| saved(TensorSpec::new(format!("t{n}"), &[n])))
        .into();
    let file = Written::new(&Sample::of(header));
    let (length, metadata) = SafeTensors::read_metadata(&file.bytes).unwrap();
    let mut checked = 0;
    for (name, info) in metadata.tensors() {
        if !name.starts_with("sonew.padding/") {
            assert_eq!((8 + length + info.data_offsets.0) % 64, 0, "{name}");
            checked += 1;
        }
    }
    assert_eq!(checked, 7 * 5);
}

/// CRC-32 bit by bit, from its polynomial.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
        }
    }
    !crc
}

#[test]
fn checksums_are_those_of_the_format_description() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    let sample = Sample::small();
    let file = Written::new(&sample);

    let header: serde_json::Value = serde_json::from_str(file.json()).unwrap();
    let mut sum = 0u32;
    for (name, entry) in header.as_object().unwrap() {
        if name == "__metadata__" {
            continue;
        }
        let shape = entry["shape"].as_array().unwrap().iter();
        let shape: Vec<String> = shape.map(ToString::to_string).collect();
        let dtype = entry["dtype"].as_str().unwrap();
        let text = format!("{name}:{dtype}:{}", shape.join(","));
        sum = sum.wrapping_add(crc32(text.as_bytes()));
    }
    for (key, value) in header["__metadata__"].as_object().unwrap() {
        let text = format!("{key}={}", value.as_str().unwrap());
        if key.starts_with("sonew.") && key != "sonew.header_crc32" {
            sum = sum.wrapping_add(crc32(text.as_bytes()));
        }
    }
    let digits = header["__metadata__"]["sonew.header_crc32"].as_str();
    assert_eq!(digits, Some(&*format!("{sum:08x}")));

    let (_, metadata) = SafeTensors::read_metadata(&file.bytes).unwrap();
    let strings = metadata.metadata().as_ref().unwrap();
    let checksums: serde_json::Value = serde_json::from_str(&strings["sonew.checksums"]).unwrap();
    assert_eq!(checksums.as_object().unwrap().len(), sample.arrays.len());
    for (index, plane, values) in &sample.arrays {
        let name = format!("{}/{plane}", sample.header.tensors[*index].spec.name);
        let crc = crc32(bytemuck::cast_slice(values));
        assert_eq!(checksums[&name], format!("{crc:08x}"), "{name}");
    }
}

#[test]
fn no_tensor_name_collides_with_another_array() {
    let names = [
        "a",
        "a/momentum",
        "a/momentum/momentum",
        "a/parameter",
        "momentum",
        "/",
        "/momentum",
        "sonew.padding",
        "sonew.padding/0",
        "sonew.padding/1",
        "__metadata__",
        r#"{"__metadata__":{"sonew.header_crc32":"00000000"#,
        "\"\\\u{2028}\u{1f600} ",
    ];
    let header = Header {
        tensors: names.map(|n| saved(TensorSpec::new(n, &[3]))).into(),
        ..Sample::small().header
    };
    let sample = Sample::of(header);
    let file = Written::new(&sample);
    let checkpoint = Checkpoint::open(&file.path).unwrap();
    assert_eq!(checkpoint.header(), &sample.header);
    sample.assert_reads_back(&checkpoint);
    let tensors = SafeTensors::deserialize(&file.bytes).unwrap();
    // Each array of 12 bytes is followed by one of padding.
    assert_eq!(tensors.len(), 2 * sample.arrays.len());
}

#[test]
fn a_scalar_comes_back() {
    let mut header = Sample::small().header;
    header.tensors = vec![saved(TensorSpec::new("temperature", &[]))];
    let sample = Sample::of(header);
    let file = Written::new(&sample);
    sample.assert_reads_back(&Checkpoint::open(&file.path).unwrap());
    SafeTensors::deserialize(&file.bytes).unwrap();
}

#[test]
fn reading_what_is_not_there_is_refused() {
    let file = Written::new(&Sample::small());
    let checkpoint = Checkpoint::open(&file.path).unwrap();
    let mut dst = [0; 24];
    assert!(matches!(
        read_bytes(&checkpoint, 2, "momentum", &mut dst),
        Err(Error::UnknownTensor { index: 2, count: 2 })
    ));
    assert!(matches!(
        read_bytes(&checkpoint, 0, "band.3", &mut dst),
        Err(Error::PlaneMissing { tensor, plane, .. }) if tensor == "fc1.weight" && plane == "band.3"
    ));
    assert!(matches!(
        read_bytes(&checkpoint, 1, "momentum", &mut dst),
        Err(Error::WrongLength {
            length: 6,
            expected: 5,
            ..
        })
    ));
}

/// Other programs may read a file and save it again: with their keys in another
/// order, arrays in another order, and other offsets.
#[test]
fn a_file_that_another_program_has_saved_again_is_read() {
    let mut header = Sample::small().header;
    header.tensors[1].spec.state = Dtype::F32;
    let sample = Sample::of(header);
    let file = Written::new(&sample);
    let tensors = SafeTensors::deserialize(&file.bytes).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&file.bytes).unwrap();
    // A hash map, in an order of its own.
    let strings = metadata.metadata().clone();
    for times in 0..10 {
        let mut strings = strings.clone().unwrap();
        strings.insert("framework".to_owned(), format!("np {times}"));
        let bytes = safetensors::serialize(tensors.iter(), Some(strings)).unwrap();
        let checkpoint = file.open_with(&bytes).unwrap();
        assert_eq!(checkpoint.header(), &sample.header);
        sample.assert_reads_back(&checkpoint);
        checkpoint.verify().unwrap();
        assert_eq!(checkpoint.map_private().unwrap().len(), 2);
    }
}
