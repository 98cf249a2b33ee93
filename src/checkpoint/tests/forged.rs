//! Headers that are wrong although their checksum matches.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

use super::super::header::seal;
use super::*;

/// A file like that of `sample`, with another header.
fn open_edited(sample: &Sample, edit: impl FnOnce(&str) -> String) -> Result<Checkpoint<'static>> {
    let file = Written::new(sample);
    let mut bytes = seal(edit(file.json().trim_end()).as_bytes());
    bytes.extend(&file.bytes[file.data()..]);
    file.open_with(&bytes)
}

fn open_replaced(old: &str, new: &str) -> Result<Checkpoint<'static>> {
    open_edited(&Sample::small(), |json| {
        assert!(json.contains(old), "{old} is not in {json}");
        json.replacen(old, new, 1)
    })
}

/// The reason for which a file is no checkpoint.
fn reason(result: Result<Checkpoint>) -> String {
    match result {
        Err(Error::NotACheckpoint { reason, .. }) => reason,
        // A header that begins as this library writes it, but cannot be read.
        Err(Error::Checksum { part, .. }) if part == "the header" => "malformed".to_owned(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("opened"),
    }
}

#[test]
fn forging_as_such_is_not_what_is_refused() {
    open_replaced("\"7\"", "\"8\"").unwrap();
    open_edited(&Sample::small(), |json| format!("{json}   ")).unwrap();
}

#[test]
fn a_newer_format_is_named() {
    let newer = r#""sonew.format":"5","sonew.unheard_of":"x""#;
    assert!(matches!(
        open_replaced(r#""sonew.format":"4""#, newer),
        Err(Error::FormatVersion {
            version: 5,
            supported: 4,
            ..
        })
    ));
}

#[test]
fn unknown_metadata_is_ignored() {
    open_replaced(r#""sonew.step""#, r#""framework":"pt","sonew.step""#).unwrap();
}

#[test]
fn texts_that_no_program_has_kept_are_refused() {
    let with = |texts: &str| {
        let step = r#""sonew.step""#;
        open_replaced(step, &format!("{texts},{step}"))
    };
    let found = with(r#""sonew.text.a":"1\u00e4\n","sonew.text.b/c":"""#).unwrap();
    let texts: Vec<_> = found.header().texts.iter().collect();
    let expected = [("a", "1\u{e4}\n"), ("b/c", "")];
    assert!(texts
        .iter()
        .map(|(key, text)| (&key[..], &text[..]))
        .eq(expected));
    for (texts, expected) in [
        (
            r#""sonew.text.a":"1","sonew.text.a":"2""#,
            "two texts have the key \"a\"",
        ),
        (r#""sonew.text.":"1""#, "a text has the key \"\""),
        (r#""sonew.text.a\n":"1""#, "a text has the key \"a\\n\""),
        (r#""sonew.text.a":"\u0000""#, "the text \"a\" has a NUL"),
    ] {
        let reason = reason(with(texts));
        assert!(reason.contains(expected), "{texts}: {reason}");
    }
    let many: Vec<_> = (0..1001)
        .map(|i| format!(r#""sonew.text.{i}":"""#))
        .collect();
    with(&many[1..].join(",")).unwrap();
    assert_eq!(reason(with(&many.join(","))), "it has more than 1000 texts");
}

/// What stands in the file, what is put there, what the reason says.
type Row = (&'static str, &'static str, &'static str);

fn assert_refused(table: &[Row], escape: impl Fn(&str) -> String) {
    for (old, new, says) in table {
        let reason = reason(open_replaced(&escape(old), &escape(new)));
        assert!(reason.contains(says), "{new}: {reason}");
    }
}

#[test]
fn wrong_metadata_are_refused() {
    #[rustfmt::skip] // one row, one line
    let table = [
        (r#""sonew.format":"4""#, r#""sonew.format":"0""#, "format is 0"),
        (r#""sonew.format":"4""#, r#""sonew.format":"+1""#, "not a number"),
        (r#""sonew.format":"4""#, r#""sonew.format":1"#, "malformed"),
        (r#""sonew.format":"4","#, "", "lack sonew.format"),
        (r#""sonew.step":"7""#, r#""sonew.step":"-7""#, "not a number"),
        (r#""sonew.step":"7""#, r#""sonew.step":"07""#, "not a number"),
        (r#""sonew.step":"7""#, r#""sonew.step":"18446744073709551616""#, "not a number"),
        (r#""sonew.step":"7""#, r#""sonew.step":"7","sonew.step":"7""#, "duplicate key"),
        (r#""sonew.step":"7""#, r#""x":["7"]"#, "malformed"),
        (r#""sonew.options""#, r#""sonew.other""#, "lack sonew.options"),
        (r#""sonew.tensors""#, r#""sonew.other""#, "lack sonew.tensors"),
        (r#""sonew.checksums""#, r#""sonew.other""#, "lack sonew.checksums"),
    ];
    assert_refused(&table, str::to_owned);
}

#[test]
fn wrong_options_tensors_and_checksums_are_refused() {
    #[rustfmt::skip] // one row, one line
    let table = [
        (r#""band":2"#, r#""band":3"#, "array \"fc1.weight/band.3\" is missing"),
        (r#""band":2"#, r#""band":1"#, "\"fc1.weight/band.2\" belongs to no tensor"),
        (r#""band":2"#, r#""band":17"#, "options.band is 17"),
        (r#""band":2"#, r#""band":-1"#, "sonew.options is malformed"),
        (r#""band":2"#, r#""band":2,"band":2"#, "duplicate"),
        (r#""band":2"#, r#""band":2,"unheard_of":2"#, "unheard_of"),
        (r#""band":2"#, r#""band":2,"threads":2"#, "threads"),
        (r#""band":2,"#, "", "missing field `band`"),
        (r#""beta1":0.9"#, r#""beta1":1.0"#, "options.beta1 is 1"),
        (r#""beta1":0.9"#, r#""beta1":1e999"#, "sonew.options is malformed"),
        (r#""graft":"adam""#, r#""graft":"eve""#, "eve"),
        (r#""lr_scale":1.0"#, r#""lr_scale":-1.0"#, "lr_scale of tensor \"fc1.weight\" is -1"),
        (r#""weight_decay":0.0,"rounding""#, r#""weight_decay":-1.0,"rounding""#, "options.weight_decay is -1"),
        (r#""name":"fc1.weight""#, r#""name":"fc1.bias""#, "two tensors are named \"fc1.bias\""),
        (r#""name":"fc1.weight""#, r#""name":"""#, "tensor 0 is named"),
        (r#""name":"fc1.weight""#, r#""name":"fc2.weight""#, "\"fc1.weight/momentum\" belongs to no tensor"),
        (r#""dims":[2,3]"#, r#""dims":[2,0]"#, "its tensor [2, 0]"),
        (r#""dims":[2,3]"#, r#""dims":[3,2]"#, "\"fc1.weight/momentum\" has shape [2, 3]"),
        (r#""dims":[2,3]"#, r#""dims":[2,3,1,1,1,1,1,1,1]"#, "at most 8"),
        (r#""dims":[2,3]"#, r#""dims":[4294967296,4294967296]"#, "\"fc1.weight\": the size"),
        (r#""update":"adam""#, r#""update":"sonew""#, "\"fc1.bias/band.1\" is missing"),
        (r#""state":"F32""#, r#""state":"F64""#, "\"fc1.weight/momentum\" has type F32, not F64"),
        (r#""state":"F32""#, r#""state":"F16""#, "\"fc1.weight\": the state cannot be F16"),
        (r#""state":"F32""#, r#""state":"I8""#, "I8"),
        (r#""params":"F32""#, r#""params":"BF16""#, "\"fc1.weight/parameter\" has type F32, not BF16"),
        (r#""master":"none""#, r#""master":"set""#, "\"fc1.weight/master\" is missing"),
        (r#""master":"none""#, r#""master":"some""#, "some"),
        (r#""step_count":2"#, r#""step_count":2,"shard":{"first_row":7,"whole_rows":8}"#, "2 rows from row 7 on are not within the 8 rows"),
        (r#""step_count":2"#, r#""step_count":2,"shard":{"first_row":18446744073709551615,"whole_rows":8}"#, "are not within the 8 rows"),
        (r#""step_count":2"#, r#""step_count":2,"shard":{"first_row":0,"whole_rows":4611686018427387904}"#, "\"fc1.weight\": the size"),
        (r#""step_count":2"#, r#""step_count":2,"shard":{"first_row":-1,"whole_rows":8}"#, "sonew.tensors is malformed"),
        (r#""step_count":2"#, r#""step_count":2,"shard":{"first_row":1}"#, "missing field `whole_rows`"),
        (r#""step_count":2"#, r#""step_count":2,"shard":{"first_row":1,"whole_rows":8,"rows":2}"#, "unknown field `rows`"),
        (r#""step_count":2"#, r#""step_count":-2"#, "sonew.tensors is malformed"),
        (r#""step_count":2"#, r#""step_count":2.5"#, "sonew.tensors is malformed"),
        (r#""step_count":2"#, r#""step_count":18446744073709551616"#, "sonew.tensors is malformed"),
        (r#""rounding":"nearest""#, r#""rounding":"down""#, "down"),
        (r#""seed":0"#, r#""seed":-1"#, "sonew.options is malformed"),
        (r#"{"fc1.weight/momentum""#, r#"{"x":"00000000","fc1.weight/momentum""#, "\"x\" has a checksum"),
        (r#""fc1.bias/diagonal":""#, r#""fc1.bias/other":""#, "\"fc1.bias/other\" has a checksum but is no array"),
        (r#""fc1.bias/diagonal":""#, r#""fc1.bias/diagonal":"+"#, "the checksum of \"fc1.bias/diagonal\""),
        (r#""fc1.bias/diagonal":"#, r#""fc1.bias/momentum":"#, "duplicate key"),
    ];
    // They are JSON inside a JSON string.
    assert_refused(&table, |text| text.replace('"', r#"\""#));
}

#[test]
fn wrong_arrays_are_refused() {
    // The first array has 24 bytes and 40 of padding.
    #[rustfmt::skip] // one row, one line
    let table = [
        (r#","fc1.weight/diagonal":"#, r#","fc1.weight/momentum":"#, "duplicate key"),
        (r#","fc1.weight/diagonal":"#, r#","__metadata__":"#, "malformed"),
        (r#"[0,24]"#, r#"[0,25]"#, "\"fc1.weight/momentum\" is to have 24 bytes"),
        (r#"[0,24]"#, r#"[24,0]"#, "its offsets are 24 and 0"),
        (r#"[0,24]"#, r#"[0,18446744073709551615]"#, "is to have 24 bytes"),
        (r#"[0,24]"#, r#"[0,18446744073709551616]"#, "malformed"),
        (r#"[0,24]"#, r#"[-1,24]"#, "malformed"),
        (r#"[24,64]"#, r#"[25,65]"#, "a hole before array \"sonew.padding/0\""),
        (r#"[24,64]"#, r#"[23,63]"#, "an overlap before array \"sonew.padding/0\""),
        (r#"[64,88]"#, r#"[0,24]"#, "an overlap"),
        (r#""F32","shape":[2,3]"#, r#""I32","shape":[2,3]"#, "the size of array \"fc1.weight/momentum\" is unknown"),
        (r#""F32","shape":[2,3]"#, r#""U8","shape":[24]"#, "\"fc1.weight/momentum\" has type U8"),
        (r#""F32","shape":[2,3]"#, r#""F32","shape":[6]"#, "\"fc1.weight/momentum\" has shape [6]"),
        (r#""F32","shape":[2,3]"#, r#""F32","shape":[4294967296,4294967296]"#, "overflows"),
        (r#""F32","shape":[2,3]"#, r#""F32","shape":[2,3,1,1,1,1,1,1,1]"#, "malformed"),
        (r#""F32","shape":[2,3]"#, r#""F32","unheard_of":1,"shape":[2,3]"#, "malformed"),
        ("sonew.padding/0", "sonew.padding/00", "\"sonew.padding/00\" belongs to no tensor"),
        ("sonew.padding/0", "sonew.padding/", "\"sonew.padding/\" belongs to no tensor"),
        ("fc1.bias/parameter\":{", "fc1.bias/other\":{", "\"fc1.bias/other\" belongs to no tensor"),
    ];
    assert_refused(&table, str::to_owned);
}

#[test]
fn sizes_that_no_machine_has_are_refused() {
    const MAX: u64 = 100_000_000;
    let file = Written::new(&Sample::small());
    for length in [MAX + 1, 1 << 32, 1 << 63, u64::MAX - 7, u64::MAX] {
        let mut bytes = file.bytes.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        let reason = reason(file.open_with(&bytes));
        assert!(reason.contains(&length.to_string()), "{reason}");
    }
    // As long as the format allows, and longer than the file.
    let mut bytes = file.bytes.clone();
    bytes[..8].copy_from_slice(&MAX.to_le_bytes());
    assert!(matches!(
        file.open_with(&bytes),
        Err(Error::FileLength { expected, .. }) if expected == MAX + 8
    ));

    // A tensor of 2^60 bytes, in a header that agrees with itself.
    let header = Header {
        tensors: vec![saved(TensorSpec::new("big", &[7]))],
        options: Options {
            band: 0,
            ..Options::default()
        },
        step: 1,
        parameters: false,
        texts: Texts::default(),
    };
    let elements = 1u64 << 58;
    let result = open_edited(&Sample::of(header), |json| {
        let (start, _) = json.split_once(r#","big/momentum""#).unwrap();
        let start = start.replace(r#"\"dims\":[7]"#, &format!(r#"\"dims\":[{elements}]"#));
        let array = |name: &str, begin: u64| {
            let end = begin + 4 * elements;
            format!(
                r#","big/{name}":{{"dtype":"F32","shape":[{elements}],"data_offsets":[{begin},{end}]}}"#
            )
        };
        start + &array("momentum", 0) + &array("diagonal", 4 * elements) + "}"
    });
    assert!(matches!(
        result,
        Err(Error::FileLength { expected, .. }) if expected > 8 * elements
    ));
}

#[test]
fn an_unaligned_array_is_refused() {
    // One space more before the data moves all arrays by a byte, four move them by
    // an element.
    let sample = Sample::small();
    for spaces in 1..=4 {
        let file = Written::new(&sample);
        let mut bytes = file.bytes[..file.data()].to_vec();
        bytes.extend(vec![b' '; spaces]);
        let length = bytes.len() as u64 - 8;
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        bytes.extend(&file.bytes[file.data()..]);
        let opened = file.open_with(&bytes);
        if spaces == 4 {
            sample.assert_reads_back(&opened.unwrap());
        } else {
            let reason = reason(opened);
            assert!(
                reason.contains("\"fc1.weight/momentum\" does not start"),
                "{reason}"
            );
        }
    }
}

#[test]
fn deep_nesting_is_refused() {
    let deep = "[".repeat(1_000_000);
    for place in [r#""sonew.step":"#, r#""fc1.weight/momentum":"#] {
        let at = format!("{place}{deep}");
        assert!(reason(open_replaced(place, &at)).contains("malformed"));
    }
    let at = format!(r#""sonew.options":"{deep}"#);
    let reason = reason(open_replaced(r#""sonew.options":""#, &at));
    assert!(reason.contains("sonew.options is malformed"), "{reason}");
}

#[test]
fn random_edits_are_refused_or_harmless() {
    let mut rng = Pcg64::seed_from_u64(3);
    let sample = Sample::small();
    let file = Written::new(&sample);
    let json = file.json().trim_end().as_bytes();
    let characters = b"{}[]\",:\\0123456789-+.eEuFI\0\x7f\xff /";
    let mut opened = 0;
    for _ in 0..5000 {
        let mut edited = json.to_vec();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(55..edited.len());
            match rng.random_range(0..3) {
                0 => edited[at] = *characters.choose(&mut rng).unwrap(),
                1 => edited.insert(at, *characters.choose(&mut rng).unwrap()),
                _ => {
                    let end = edited.len().min(at + rng.random_range(1..30));
                    edited.drain(at..end);
                }
            }
        }
        let mut bytes = seal(&edited);
        bytes.extend(&file.bytes[file.data()..]);
        if let Ok(checkpoint) = file.open_with(&bytes) {
            opened += 1;
            for index in 0..checkpoint.header().tensors.len() {
                let _ = read(&checkpoint, index, "momentum");
            }
        }
    }
    // Some edits only change a number that may have another value.
    assert!(opened > 0);
}

/// Headers of megabytes that agree with themselves as far as possible: many small
/// arrays, many tensors without arrays, many strange metadata. What is kept of them
/// while they are read takes no more memory than the file.
#[cfg(target_os = "linux")]
#[test]
fn long_headers_take_no_more_memory_than_the_file() {
    // In a process without other tests.
    let run = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("checkpoint::tests::forged::long_headers_alone")
        .output()
        .unwrap();
    let [said, errors] = [run.stdout, run.stderr].map(|text| String::from_utf8(text).unwrap());
    println!("{said}");
    assert!(
        run.status.success() && said.contains("1 passed"),
        "{said}{errors}"
    );
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "the test above runs it, in a process of its own"]
fn long_headers_alone() {
    let length = std::env::var("SONEW_HEADER_BYTES");
    let length = length.map_or(8_000_000, |length| length.parse().unwrap());
    let many = |start: &str, one: &dyn Fn(usize) -> String, end: &str| {
        let mut text = String::with_capacity(length + 1000);
        text += start;
        let mut index = 0;
        while text.len() + end.len() < length {
            text += &one(index);
            index += 1;
        }
        text + end
    };
    let options = serde_json::to_string(&super::super::json::SavedOptions(Options {
        band: 0,
        ..Options::default()
    }));
    let options = options.unwrap().replace('"', "\\\"");
    let metadata = |tensors: &str, more: &str| {
        format!(
            r#"{{"__metadata__":{{"sonew.header_crc32":"00000000","sonew.format":"4","sonew.step":"1","sonew.options":"{options}","sonew.checksums":"{{}}",{more}"sonew.tensors":"[{tensors}"#
        )
    };
    let tensor = |name: &str| {
        format!(
            r#"{{\"name\":\"{name}\",\"dims\":[1],\"chains\":\"rows\",\"update\":\"adam\",\"lr_scale\":1.0,\"weight_decay\":0.0}}"#
        )
    };
    let start = metadata(&tensor("w"), "") + "]\"}";
    let padding = |i: usize| {
        format!(
            r#","sonew.padding/{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{}]}}"#,
            i + 1
        )
    };
    let backwards = |i: usize| {
        let begin = 100_000_000 - i;
        format!(
            r#","sonew.padding/{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{begin},{}]}}"#,
            begin + 1
        )
    };
    let unknown = |i: usize| format!(r#","{i}":{{"dtype":"U8","shape":[],"data_offsets":[0,0]}}"#);
    let texts = [
        many(&start, &padding, "}"),
        many(&start, &backwards, "}"),
        many(&start, &unknown, "}"),
        many(
            &metadata(&tensor("w"), ""),
            &|i| ",".to_owned() + &tensor(&i.to_string()),
            "]\"}}",
        ),
        many(
            &start.replace("\"}", "\""),
            &|i| format!(r#","{i}":"""#),
            "}}",
        ),
        many(
            &start.replace("]\"}", "]\""),
            &|i| format!(r#","sonew.{i}":"""#),
            "}}",
        ),
        many(
            &start.replace("]\"}", "]\""),
            &|i| format!(r#","sonew.text.{i}":"""#),
            "}}",
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile");
    for (index, text) in texts.iter().enumerate() {
        fs::write(&path, seal(text.as_bytes())).unwrap();
        // The peak begins again with what there is now.
        let reset = fs::write("/proc/self/clear_refs", "5").is_ok();
        let before = peak_memory();
        let started = std::time::Instant::now();
        let refused = Checkpoint::open(&path).unwrap_err().to_string();
        let took = started.elapsed();
        let grown = peak_memory().saturating_sub(before);
        let refused = &refused[..refused.len().min(300)];
        println!(
            "{index}: {grown} bytes more for {}, {took:?}: {refused}",
            text.len()
        );
        assert!(!reset || grown < text.len() + (1 << 20), "{index}: {grown}");
    }
}

/// The most memory that this process has had.
#[cfg(target_os = "linux")]
fn peak_memory() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    let number = line.split_whitespace().nth(1).unwrap();
    number.parse::<usize>().unwrap() * 1024
}
