//! What the files of a set may have in common, and how tensors are divided among them.

use std::fs;
use std::path::PathBuf;

use sonew::checkpoint::{merge, split, Checkpoint, SplitBy};
use sonew::dtype::{Dtype, Elements};
use sonew::layout::TensorSpec;
use sonew::options::Options;
use sonew::{Error, LoadOptions, Optimizer};

use crate::folder::{held, options, specs, Folder};

/// The same rows in several files, on both sides of whatever cut.
#[test]
fn rows_that_several_files_have_must_be_the_same() {
    let folder = Folder::new();
    folder.save("whole", (0, 8), 3);
    for (name, rows) in [("a", (0, 5)), ("b", (3, 5)), ("c", (4, 1)), ("d", (0, 8))] {
        folder.save(name, rows, 3);
    }
    let whole = fs::read(folder.path("whole")).unwrap();
    for names in [
        &["a", "b"][..],
        &["c", "b", "a"],
        &["a", "d", "c"],
        &["b", "a", "b"],
    ] {
        folder.merged(names).unwrap();
        assert!(
            fs::read(folder.path("merged")).unwrap() == whole,
            "{names:?}"
        );
        assert!(folder.saved_again((0, 8), names) == whole, "{names:?}");
    }
    let own = fs::read(folder.path("b")).unwrap();
    assert!(folder.saved_again((3, 5), &["a", "b"]) == own);
    fs::remove_file(folder.path("merged")).unwrap();

    // Of two steps with other gradients, but as many.
    folder.save_changed("other", (3, 5), 3, &options(), |optimizer| {
        let planes = |tensor| -> Vec<Elements<'_>> {
            let count = optimizer.planes(tensor).unwrap().len();
            (0..count)
                .map(|p| optimizer.plane(tensor, p).unwrap())
                .collect()
        };
        let mut momentum: Vec<f32> = planes(0)[0].as_slice().unwrap().to_vec();
        let mut copy = Optimizer::new(options(), &specs(3, 5)).unwrap();
        momentum[4] += 1.0;
        let w = [Elements::new(&momentum), planes(0)[1], planes(0)[2]];
        copy.set_state(3, &[w.to_vec(), planes(1)]).unwrap();
        for tensor in 0..2 {
            let settings = optimizer.settings(tensor).unwrap();
            copy.change_settings(tensor, |s| *s = settings).unwrap();
        }
        *optimizer = copy;
    });
    let error = folder.refused(&["a", "other"]);
    let [a, other] = ["a", "other"].map(|name| folder.path(name));
    assert_eq!(
        error.to_string(),
        format!("tensor \"w\": row 4 of momentum is not the same in {a:?} and in {other:?}")
    );
    assert!(matches!(error, Error::RowsDiffer { row: 4, plane, .. } if plane == "momentum"));
}

#[test]
fn whole_tensors_in_several_files() {
    let folder = Folder::new();
    let one = |name: &str, rows: usize| TensorSpec::new(name, &[rows, 2]);
    let all = [
        one("a", 9),
        one("b", 1),
        one("c", 4),
        one("d", 2),
        one("e", 3),
    ];
    let optimizer = Optimizer::new(options(), &all).unwrap();
    optimizer.save(folder.path("all"), None).unwrap();
    let open = || Checkpoint::open(folder.path("all")).unwrap();
    let to = ["x", "y", "z"].map(|name| folder.path(name));
    split(open(), SplitBy::Tensors, &to, &mut |_| ()).unwrap();
    let names = |path: &PathBuf| -> Vec<String> {
        let file = Checkpoint::open(path).unwrap();
        let tensors = file.header().tensors.iter();
        tensors.map(|t| t.spec.name.clone()).collect()
    };
    // The largest has 9 rows, which is the least possible.
    let found = to.each_ref().map(names);
    assert_eq!(found[0], ["a"]);
    assert_eq!(found.concat(), ["a", "b", "c", "d", "e"]);
    let opened: Vec<_> = to.iter().map(|p| Checkpoint::open(p).unwrap()).collect();
    merge(&opened, folder.path("merged"), &mut |_| ()).unwrap();
    let [all_bytes, merged] = ["all", "merged"].map(|name| fs::read(folder.path(name)).unwrap());
    assert!(all_bytes == merged);

    // An optimizer takes its tensors from where they are. Others are not its business.
    let load = LoadOptions {
        paths: to[1..].to_vec(),
        ..LoadOptions::default()
    };
    let mut own = Optimizer::new(options(), &[one("e", 3), one("a", 9)]).unwrap();
    own.load(&to[0], &load, None).unwrap();
    let mut more = Optimizer::new(options(), &[one("e", 3), one("f", 9)]).unwrap();
    refused!(
        more.load(&to[0], &load, None),
        Error::TensorMissing { tensor, present: "optimizer", missing: "files" } if tensor == "f"
    );
    let common = LoadOptions {
        common_tensors_only: true,
        ..load.clone()
    };
    more.load(&to[0], &common, None).unwrap();
    let renamed = LoadOptions {
        rename: vec![("a".to_owned(), "f".to_owned())],
        ..load
    };
    more.load(&to[0], &renamed, None).unwrap();

    for count in [0, 6] {
        let to: Vec<_> = (0..count).map(|i| folder.path(&format!("n{i}"))).collect();
        refused!(
            split(open(), SplitBy::Tensors, &to, &mut |_| ()),
            Error::OutOfRange { value, .. } if value == f64::from(count)
        );
    }
    let none: [PathBuf; 0] = [];
    refused!(
        split(open(), SplitBy::Rows, &none, &mut |_| ()),
        Error::OutOfRange { .. }
    );
    // Two files of one name: nothing is written.
    let before = fs::read(&to[0]).unwrap();
    refused!(
        split(open(), SplitBy::Rows, &[&to[0], &to[0]], &mut |_| ()),
        Error::FileLocked { .. }
    );
    assert!(fs::read(&to[0]).unwrap() == before);
}

/// A rounding at random has the bits of the element's place in its own optimizer.
#[test]
fn pieces_are_converted_on_request() {
    let folder = Folder::new();
    folder.save("a", (0, 5), 3);
    folder.save("b", (4, 4), 3);
    folder.save("whole", (0, 8), 3);
    for rounding in [
        sonew::options::Rounding::Nearest,
        sonew::options::Rounding::Stochastic,
    ] {
        let options = Options {
            rounding,
            ..options()
        };
        let mut specs = specs(0, 8);
        specs.iter_mut().for_each(|spec| spec.state = Dtype::Bf16);
        let mut all = Vec::new();
        for names in [&["whole"][..], &["b", "a"]] {
            let mut optimizer = Optimizer::new(options.clone(), &specs).unwrap();
            let mut params = vec![vec![1.0; 24], vec![1.0; 5]];
            let converting = |load: &mut LoadOptions| {
                load.convert_state = true;
                load.override_options = true;
            };
            folder
                .load_into(&mut optimizer, &mut params, names, converting)
                .unwrap();
            all.push((held(&optimizer), params));
        }
        assert!(all[0] == all[1], "{rounding:?}");
    }
}
