//! Files in all kinds of places, and other processes that use them at the same time:
//! links, devices, mounts, file systems that lack something, limits, forks. Failures
//! and delays come from a preloaded library, `preload.c`.
//!
//! What needs root or a tool that is missing is not tested, and this is said.

mod process;

use std::env;
use std::fs::{self, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{symlink, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use sonew::checkpoint;
use sonew::layout::TensorSpec;
use sonew::options::{Options, StepOptions};
use sonew::{Error, LoadMode, LoadOptions, Optimizer, Result};
use tempfile::TempDir;

use process::{as_process, outcome, preload, process, run, wait_for, with};

const LENGTH: usize = 5000;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

fn optimizer(steps: u64) -> Optimizer {
    let specs = [TensorSpec::new("w", &[LENGTH]).with_master()];
    let mut optimizer = Optimizer::new(Options::default(), &specs).unwrap();
    (0..steps).for_each(|_| step(&mut optimizer));
    optimizer
}

fn step(optimizer: &mut Optimizer) {
    let mut w = vec![0.5f32; LENGTH];
    let grad = vec![0.25f32; LENGTH];
    let options = StepOptions::default();
    optimizer
        .step(&options, &mut [&mut w], &[Some(&grad)])
        .unwrap();
}

fn load(path: &Path, mode: LoadMode) -> Result<Optimizer> {
    let mut optimizer = optimizer(0);
    let load = LoadOptions {
        mode,
        ..LoadOptions::default()
    };
    optimizer.load(path, &load, None)?;
    Ok(optimizer)
}

/// The step count of a file, whose checksums hold.
fn step_of(path: &Path) -> u64 {
    checkpoint::verify(path).unwrap();
    load(path, LoadMode::Read).unwrap().step_count()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> = entries.map(|e| name(e).into_string().unwrap()).collect();
    names.sort();
    names
}

fn is_io(result: &Result<()>, kind: ErrorKind) -> bool {
    matches!(result, Err(Error::Io { source, .. }) if source.kind() == kind)
}

fn not_tested(what: &str) {
    let _ = writeln!(std::io::stderr(), "NOT TESTED: {what}");
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|o| o.stdout == b"0\n")
}

/// Whether a mount namespace can be made.
fn can_mount() -> bool {
    let made = Command::new("unshare").args(["-m", "true"]).status();
    made.is_ok_and(|status| status.success())
}

#[test]
fn a_link_is_followed_and_stays() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("elsewhere")).unwrap();
    symlink("elsewhere/saved", path("to it")).unwrap();
    symlink(path("to it"), path("link")).unwrap();
    type Write = fn(&Path) -> Result<()>;
    let writes: [Write; 2] = [
        |path| optimizer(1).save(path, None),
        |path| optimizer(1).make_live(path),
    ];
    for write in writes {
        // It leads nowhere, and then to a file.
        for _ in 0..2 {
            write(&path("link")).unwrap();
            assert!(fs::symlink_metadata(path("link")).unwrap().is_symlink());
            assert!(fs::symlink_metadata(path("to it")).unwrap().is_symlink());
            assert_eq!(step_of(&path("elsewhere/saved")), 1);
            assert_eq!(names(&path("elsewhere")), ["saved"]);
        }
        fs::remove_file(path("elsewhere/saved")).unwrap();
    }
    symlink("round", path("round")).unwrap();
    assert!(is_io(
        &optimizer(1).save(path("round"), None),
        ErrorKind::InvalidInput
    ));
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("folder")).unwrap();
    let _socket = UnixListener::bind(path("socket")).unwrap();
    let made = |what: &mut Command| what.status().is_ok_and(|status| status.success());
    assert!(made(Command::new("mkfifo").arg(path("pipe"))));
    let mut kinds = vec!["folder", "socket", "pipe"];
    if made(
        Command::new("mknod")
            .arg(path("device"))
            .args(["c", "1", "3"]),
    ) {
        kinds.push("device");
    } else {
        not_tested("a device, which only root can make");
    }
    for name in kinds {
        symlink(path(name), path("link")).unwrap();
        for target in [name, "link"] {
            let target = path(target);
            let refused = optimizer(1).save(&target, None);
            assert!(is_io(&refused, ErrorKind::InvalidInput), "{refused:?}");
            assert!(refused
                .unwrap_err()
                .to_string()
                .contains("not a regular file"));
            let refused = optimizer(1).make_live(&target);
            assert!(is_io(&refused, ErrorKind::InvalidInput), "{refused:?}");
            assert!(!fs::metadata(&target).unwrap().is_file());
        }
        fs::remove_file(path("link")).unwrap();
        let kind = fs::symlink_metadata(path(name)).unwrap().file_type();
        assert!(kind.is_dir() || kind.is_socket() || kind.is_fifo() || kind.is_char_device());
    }
    assert!(names(folder.path())
        .iter()
        .all(|name| !name.contains("tmp")));
}

#[test]
fn the_mode_of_a_replaced_file_is_kept() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("saved");
    optimizer(1).save(&path, None).unwrap();
    for mode in [0o600, 0o640, 0o664, 0o444, 0o400] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        optimizer(2).save(&path, None).unwrap();
        let found = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(found & 0o7777, mode, "{mode:o}");
        assert_eq!(step_of(&path), 2);
    }
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    optimizer(3).make_live(&path).unwrap();
    let found = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(found & 0o7777, 0o600);
}

#[test]
fn a_file_that_is_mounted_by_itself_is_refused() {
    if !can_mount() {
        return not_tested("a file that is mounted by itself, which only root can make");
    }
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    optimizer(1).make_live(path("outside")).unwrap();
    fs::write(path("inside"), "").unwrap();
    for what in ["save", "make_live", "share"] {
        let mut command = Command::new("unshare");
        let script = r#"mount --bind "$0" "$1" && shift && exec "$@""#;
        command.args(["-m", "sh", "-c", script]);
        command.arg(path("outside")).arg(path("inside"));
        command.arg(env::current_exe().unwrap());
        as_process(&mut command, what, &path("inside"));
        let outcome = run(command);
        match what {
            // To work on it is no problem.
            "share" => assert_eq!(outcome, "Ok(())"),
            _ => assert!(outcome.contains("mount its folder"), "{outcome}"),
        }
        assert_eq!(step_of(&path("outside")), 1);
        assert_eq!(names(folder.path()), ["inside", "outside"]);
    }
}

#[test]
fn a_folder_that_may_not_be_read_can_be_saved_to() {
    if !is_root() {
        return not_tested("a folder of another user");
    }
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let inside = folder.path().join("inside");
    fs::create_dir(&inside).unwrap();
    fs::set_permissions(&inside, Permissions::from_mode(0o333)).unwrap();
    for what in ["save", "make_live", "save"] {
        let mut command = process(what, &inside.join("saved"));
        command.uid(65534).gid(65534);
        let Ok(child) = command.spawn() else {
            return not_tested("a folder that another user may not read");
        };
        assert_eq!(outcome(child), "Ok(())");
    }
    assert_eq!(names(&inside), ["saved"]);
    assert_eq!(step_of(&inside.join("saved")), 2);
}

#[test]
fn a_folder_that_cannot_be_synced_can_be_saved_to() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("saved");
    let error = |errno: i32| format!("fsync_folder={errno}");
    assert_eq!(
        run(with("save", &path, "SONEW_FAIL", &error(libc::EINVAL))),
        "Ok(())"
    );
    assert_eq!(step_of(&path), 2);
    // An error of the disk is one.
    let outcome = run(with("save", &path, "SONEW_FAIL", &error(libc::EIO)));
    assert!(outcome.contains("operation: \"sync\""), "{outcome}");
}

#[test]
fn without_locks_live_files_are_refused_and_leftovers_stay() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("saved");
    let temporary = folder.path().join("saved.sonew-tmp");
    let no_locks = format!("flock={0},fcntl={0}", libc::ENOLCK);
    let without = |what: &str| run(with(what, &path, "SONEW_FAIL", &no_locks));
    let outcome = without("make_live");
    assert!(outcome.contains("has no locks"), "{outcome}");
    assert!(names(folder.path()).is_empty());
    assert_eq!(without("save"), "Ok(())");
    assert_eq!(without("save"), "Ok(())");
    assert_eq!(without("read"), "Ok(())");
    // It may be that of a save under way.
    fs::write(&temporary, "half a file").unwrap();
    let outcome = without("save");
    assert!(outcome.contains("FileLocked"), "{outcome}");
    assert_eq!(step_of(&path), 2);
    assert_eq!(fs::read(&temporary).unwrap(), b"half a file");
    // With locks it is known to be a leftover.
    assert_eq!(run(process("save", &path)), "Ok(())");
    assert_eq!(names(folder.path()), ["saved"]);
}

#[test]
fn a_background_save_stays_in_the_folder_where_it_began() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["here", "there"] {
        fs::create_dir(path(name)).unwrap();
    }
    let mut command = with("save_elsewhere", folder.path(), "SONEW_DELAY", "fcntl=200");
    assert_eq!(outcome(command.spawn().unwrap()), "Ok(())");
    assert_eq!(names(&path("here")), ["saved"]);
    assert!(names(&path("there")).is_empty());
}

#[test]
fn a_limit_of_file_sizes_is_a_status() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("saved");
    optimizer(1).save(&path, None).unwrap();
    for what in ["save", "make_live"] {
        let mut command = Command::new("sh");
        command.args(["-c", r#"ulimit -f 16 && exec "$0" "$@""#]);
        command.arg(env::current_exe().unwrap());
        as_process(&mut command, what, &path);
        let outcome = run(command);
        assert!(
            outcome.contains(&format!("code: {}", libc::EFBIG)),
            "{outcome}"
        );
        assert_eq!(names(folder.path()), ["saved"]);
        assert_eq!(step_of(&path), 1);
    }
}

#[test]
fn allocating_that_is_interrupted_or_not_there_is_no_failure() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("live");
    for errno in [libc::EINTR, libc::EOPNOTSUPP] {
        let error = format!("fallocate={errno}");
        assert_eq!(
            run(with("make_live", &path, "SONEW_FAIL", &error)),
            "Ok(())"
        );
        assert_eq!(run(with("share", &path, "SONEW_FAIL", &error)), "Ok(())");
        assert_eq!(step_of(&path), 2);
    }
}

/// A sparse file on a full disk, where space cannot be allocated beforehand: a
/// status, not a signal when a hole is stored to.
#[test]
fn holes_on_a_full_disk_are_a_status() {
    if !can_mount() {
        return not_tested("a full disk, which only root can make");
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("live");
    optimizer(0).make_live(&path).unwrap();
    let script = r#"
        mount -t tmpfs -o size=400k none "$0" && cp --sparse=always "$1" "$0/live" &&
        { head -c 1M /dev/zero > "$0/rest" 2> "$0/../said"; shift; exec "$@"; }"#;
    let inside = folder.path().join("inside");
    fs::create_dir(&inside).unwrap();
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script]);
    command
        .arg(&inside)
        .arg(&path)
        .arg(env::current_exe().unwrap());
    as_process(&mut command, "share", &inside.join("live"));
    command.env("LD_PRELOAD", preload());
    command.env("SONEW_FAIL", format!("fallocate={}", libc::EOPNOTSUPP));
    let outcome = run(command);
    assert!(
        outcome.contains(&format!("code: {}", libc::ENOSPC)),
        "{outcome}"
    );
}

/// Runs end and go on in a file system of their own, which a script mounts on a folder.
fn goes_on_in(what: &str, mount: &str) {
    let folder = TempDir::new().unwrap();
    let run_in = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script]).arg(folder.path());
        command
    };
    let tried = run_in(mount).output();
    if !tried.as_ref().is_ok_and(|tried| tried.status.success()) {
        let why = match tried {
            Ok(tried) => String::from_utf8_lossy(&tried.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        return not_tested(&format!(
            "state files on {what}: cannot mount it here: {why}"
        ));
    }
    let script = format!(r#"{{ {mount}; }} && shift && exec "$@""#);
    let mut command = run_in(&script);
    command.arg("").arg(env::current_exe().unwrap());
    as_process(&mut command, "go on", &folder.path().join("mounted"));
    // The mounts end with the process and its namespace.
    assert_eq!(run(command), "Ok(())", "{what}");
    assert_eq!(
        fs::read_dir(folder.path().join("mounted")).unwrap().count(),
        0
    );
}

#[test]
fn training_goes_on_on_ext4() {
    // All that the file system has is in a file, by a loop device.
    let mount = r#"mkdir -p "$0/mounted" && rm -f "$0/disk" && truncate -s 32M "$0/disk" &&
        mkfs.ext4 -q -F "$0/disk" && mount -o loop "$0/disk" "$0/mounted" &&
        rmdir "$0/mounted/lost+found""#;
    goes_on_in("ext4", mount);
}

#[test]
fn training_goes_on_on_tmpfs() {
    let mount = r#"mkdir -p "$0/mounted" && mount -t tmpfs none "$0/mounted""#;
    goes_on_in("tmpfs", mount);
}

/// As in a container.
#[test]
fn training_goes_on_on_overlayfs() {
    let mount = r#"mkdir -p "$0/mounted" "$0/layers" && mount -t tmpfs none "$0/layers" &&
        mkdir "$0/layers/lower" "$0/layers/upper" "$0/layers/work" &&
        mount -t overlay overlay "$0/mounted" \
            -o "lowerdir=$0/layers/lower,upperdir=$0/layers/upper,workdir=$0/layers/work""#;
    goes_on_in("overlayfs", mount);
}

/// A save writes for a while. Somebody begins to work on the file that it is to
/// replace.
#[test]
fn a_live_file_that_comes_into_use_during_a_save_is_not_replaced() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("live");
    for what in ["save", "make_live"] {
        optimizer(1).make_live(&path).unwrap();
        let reached = folder.path().join("reached");
        let mut command = with(what, &path, "SONEW_DELAY", "fsync=1000");
        let saver = command.env("SONEW_REACHED", &reached).spawn().unwrap();
        wait_for(|| reached.exists());
        let mut live = load(&path, LoadMode::MapShared).unwrap();
        step(&mut live);
        let outcome = outcome(saver);
        assert!(outcome.contains("FileLocked"), "{outcome}");
        step(&mut live);
        live.sync().unwrap();
        drop(live);
        assert_eq!(step_of(&path), 3);
        fs::remove_file(reached).unwrap();
        assert_eq!(names(folder.path()), ["live"]);
    }
}

/// A save has found a leftover and is about to remove it. Another save must not
/// take the name meanwhile, which the first would then remove.
#[test]
fn a_leftover_is_removed_under_its_lock() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("saved");
    let reached = folder.path().join("reached");
    optimizer(1).save(&path, None).unwrap();
    fs::write(folder.path().join("saved.sonew-tmp"), "half a file").unwrap();
    let mut command = with("save", &path, "SONEW_DELAY", "unlink=500");
    let slow = command.env("SONEW_REACHED", &reached).spawn().unwrap();
    wait_for(|| reached.exists());
    let mut refused = 0;
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(200) {
        match optimizer(1).save(&path, None) {
            Err(Error::FileLocked { .. }) => refused += 1,
            other => panic!("{other:?}"),
        }
        // Readers and their end do not matter.
        assert_eq!(step_of(&path), 1);
    }
    assert!(refused > 0);
    assert_eq!(outcome(slow), "Ok(())");
    assert_eq!(step_of(&path), 2);
    assert_eq!(names(folder.path()), ["reached", "saved"]);
}

/// While a save has created its file and not locked it yet, readers and other saves
/// come.
#[test]
fn readers_do_not_disturb_a_slow_save() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("saved");
    optimizer(1).save(&path, None).unwrap();
    for delay in ["fcntl=300", "fsync=300", "rename=300"] {
        let reached = folder.path().join("reached");
        let mut command = with("save", &path, "SONEW_DELAY", delay);
        let slow = command.env("SONEW_REACHED", &reached).spawn().unwrap();
        wait_for(|| reached.exists());
        for _ in 0..20 {
            step_of(&path);
            load(&path, LoadMode::MapPrivate).unwrap();
        }
        assert_eq!(outcome(slow), "Ok(())");
        assert_eq!(step_of(&path), 2);
        fs::remove_file(reached).unwrap();
        assert_eq!(names(folder.path()), ["saved"]);
    }
}

#[test]
fn a_saver_that_was_killed_blocks_nobody_though_its_child_lives() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("saved");
    let reached = folder.path().join("reached");
    let forked = folder.path().join("saved.forked");
    optimizer(1).save(&path, None).unwrap();
    let mut command = with("save_and_fork", &path, "SONEW_DELAY", "fsync=60000");
    let mut saver = command.env("SONEW_REACHED", &reached).spawn().unwrap();
    wait_for(|| forked.exists());
    let locked = optimizer(3).save(&path, None);
    assert!(
        matches!(locked, Err(Error::FileLocked { .. })),
        "{locked:?}"
    );
    saver.kill().unwrap();
    saver.wait().unwrap();
    optimizer(3).save(&path, None).unwrap();
    assert_eq!(step_of(&path), 3);
    assert_eq!(names(folder.path()), ["reached", "saved", "saved.forked"]);
}

/// Containers may have another boot id at each start.
#[test]
fn another_boot_id_is_no_power_failure() {
    if !can_mount() {
        return not_tested("another boot id, which only root can mount");
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("live");
    let in_container = |what: &str, id: &str| {
        let boot_id = folder.path().join("boot_id");
        fs::write(&boot_id, id).unwrap();
        let mut command = Command::new("unshare");
        let script = match id {
            // No /proc at all.
            "" => r#"umount -l /proc; shift; exec "$@""#,
            _ => r#"mount --bind "$1" /proc/sys/kernel/random/boot_id; shift; exec "$@""#,
        };
        command.args(["-m", "sh", "-c", script, "sh"]).arg(boot_id);
        command.arg(env::current_exe().unwrap());
        as_process(&mut command, what, &path);
        command
    };
    let ids = ["11111111-1111-1111-1111-111111111111\n", "", "22222222\n"];
    for (first, second) in [(0, 2), (0, 1), (1, 2), (1, 1)] {
        let ready = path.with_extension("ready");
        let mut worker = in_container("work", ids[first]).spawn().unwrap();
        wait_for(|| ready.exists());
        worker.kill().unwrap();
        worker.wait().unwrap();
        fs::remove_file(ready).unwrap();
        for what in ["read", "share"] {
            assert_eq!(
                run(in_container(what, ids[second])),
                "Ok(())",
                "{first} {second}"
            );
        }
        // And it was the last step, not the last sync.
        assert_eq!(step_of(&path), 3);
    }
}
