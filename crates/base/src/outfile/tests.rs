use super::*;
use std::os::unix::fs::symlink;

const NONE: [&Path; 0] = [];

fn judge(path: &Path, existing: Existing) -> Result<Outfile, Error> {
    Outfile::judge(path, existing, NONE)
}

#[test]
fn an_existing_file_is_replaced_only_where_that_was_decided() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::write(&path, "mine").unwrap();
    let ours: fn(&[u8]) -> bool = |head| head.starts_with(b"ours");
    for existing in [Existing::Keep, Existing::ReplaceIf(ours)] {
        let error = judge(&path, existing).unwrap_err();
        assert!(matches!(error, Error::Exists { .. }), "{error}");
    }
    judge(&path, Existing::Replace)
        .unwrap()
        .write(b"ours 1")
        .unwrap();
    judge(&path, Existing::ReplaceIf(ours))
        .unwrap()
        .write(b"ours 2")
        .unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"ours 2");
    fs::write(&path, "").unwrap();
    judge(&path, Existing::Keep).unwrap().write(b"new").unwrap();
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "no temporary file is left"
    );
}

#[test]
fn an_input_is_refused_under_every_name() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    fs::write(&input, "mine").unwrap();
    let (hard, soft) = (dir.path().join("hard"), dir.path().join("soft"));
    fs::hard_link(&input, &hard).unwrap();
    symlink("in", &soft).unwrap();
    for path in [&input, &hard, &soft] {
        let error = Outfile::judge(path, Existing::Replace, [&input]).unwrap_err();
        assert!(matches!(error, Error::IsInput { .. }), "{error}");
    }
}

#[test]
fn links_stay_and_what_they_point_to_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (link, second) = (dir.path().join("link"), dir.path().join("second"));
    symlink("second", &link).unwrap();
    symlink("file", &second).unwrap();
    for text in ["made through a dangling link", "replaced through it"] {
        judge(&link, Existing::Replace)
            .unwrap()
            .write(text.as_bytes())
            .unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("file")).unwrap(), text);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::symlink_metadata(&second).unwrap().is_symlink());
        assert_eq!(
            judge(&link, Existing::Replace).unwrap().folder(),
            dir.path()
        );
    }
    symlink("round", dir.path().join("round")).unwrap();
    assert!(judge(&dir.path().join("round"), Existing::Replace).is_err());
}

#[test]
fn what_came_in_between_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let new = judge(&path, Existing::Replace).unwrap();
    fs::write(&path, "another's").unwrap();
    assert!(matches!(new.write(b"ours"), Err(Error::Exists { .. })));
    let old = judge(&path, Existing::Replace).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "a third's").unwrap();
    assert!(matches!(old.write(b"ours"), Err(Error::Changed { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), "a third's");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn folders_are_refused_and_devices_written_to() {
    let dir = tempfile::tempdir().unwrap();
    assert!(judge(dir.path(), Existing::Replace).is_err());
    let into = dir.path().join("absent").join("a");
    let error = judge(&into, Existing::Replace)
        .unwrap()
        .write(b"x")
        .unwrap_err();
    assert!(matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound));
    let null = judge(Path::new("/dev/null"), Existing::Keep).unwrap();
    null.try_begin().unwrap();
    null.write(b"x").unwrap();
    assert!(matches!(null.begin(), Err(Error::NotAFile { .. })));
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn the_modes_of_a_replaced_file_stay() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    judge(&path, Existing::Replace)
        .unwrap()
        .write(b"new")
        .unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o640
    );
}
