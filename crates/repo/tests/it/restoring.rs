//! Restores into places, and of trees, that somebody prepared.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use kuramori_model::tree::{Entry, EntryKind, Meta, Sink, TreePath};
use kuramori_repo::{backup::Options, local::Selection, restore::RestoreOptions};

use crate::{
    backup::{back_up, draft},
    common::Place,
    hooked::{files, restore},
};

#[test]
fn the_deepest_folders_come_back() {
    let place = Place::new();
    let source = place.dir.path().join("source");
    let mut path = source.clone();
    for _ in 0..1500 {
        path.push("d");
    }
    fs_err::create_dir_all(&path).unwrap();
    fs_err::write(path.join("bottom"), b"here").unwrap();
    let repo = place.create().index().unwrap();
    let id = back_up(&repo, std::slice::from_ref(&source), &Selection::default()).id;
    let target = place.dir.path().join("t");
    assert_eq!(restore(&repo, id, &RestoreOptions::to(&target)).shortfalls, []);
    assert_eq!(files(&target.join(source.strip_prefix("/").unwrap())), files(&source));
}

#[test]
fn nothing_is_written_through_links_that_stand_in_the_target() {
    let place = Place::new();
    let source = place.dir.path().join("source");
    fs_err::create_dir_all(source.join("inner")).unwrap();
    fs_err::write(source.join("inner/file"), b"restored").unwrap();
    fs_err::write(source.join("plain"), b"restored").unwrap();
    let repo = place.create().index().unwrap();
    let id = back_up(&repo, std::slice::from_ref(&source), &Selection::default()).id;
    let target = place.dir.path().join("target");
    let outside = place.dir.path().join("outside");
    fs_err::create_dir_all(&outside).unwrap();
    fs_err::write(outside.join("file"), b"precious").unwrap();
    let base = target.join(source.strip_prefix("/").unwrap());
    fs_err::create_dir_all(&base).unwrap();
    symlink(&outside, base.join("inner")).unwrap();
    symlink(outside.join("file"), base.join("plain")).unwrap();
    let options = RestoreOptions { overwrite: true, ..RestoreOptions::to(&target) };
    assert_eq!(restore(&repo, id, &options).shortfalls, []);
    assert_eq!(fs_err::read(outside.join("file")).unwrap(), b"precious");
    assert_eq!(files(&base), files(&source));
}

#[test]
fn an_access_list_of_the_target_opens_nothing_that_was_closed() {
    let place = Place::new();
    let source = place.dir.path().join("source");
    fs_err::create_dir_all(source.join("inner")).unwrap();
    fs_err::write(source.join("inner/secret"), b"x").unwrap();
    fs_err::set_permissions(source.join("inner/secret"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let repo = place.create().index().unwrap();
    let id = back_up(&repo, std::slice::from_ref(&source), &Selection::default()).id;
    let target = place.dir.path().join("target");
    fs_err::create_dir_all(&target).unwrap();
    // Version 2: owner, user 12345, group, mask, others; each a tag, permissions, a number.
    let mut list = 2_u32.to_le_bytes().to_vec();
    let anybody = u32::MAX;
    for (tag, rights, number) in
        [(1_u16, 7_u16, anybody), (2, 7, 12_345), (4, 5, anybody), (0x10, 7, anybody), (0x20, 0, anybody)]
    {
        list.extend(tag.to_le_bytes().into_iter().chain(rights.to_le_bytes()).chain(number.to_le_bytes()));
    }
    xattr::set(&target, "system.posix_acl_default", &list).unwrap();
    fs_err::write(target.join("lost+found"), b"shows that the list works").unwrap();
    assert!(xattr::get(target.join("lost+found"), "system.posix_acl_access").unwrap().is_some());
    fs_err::remove_file(target.join("lost+found")).unwrap();
    assert_eq!(restore(&repo, id, &RestoreOptions::to(&target)).shortfalls, []);
    let base = target.join(source.strip_prefix("/").unwrap());
    for path in ["inner/secret", "inner", ""].map(|path| base.join(path)) {
        for list in ["system.posix_acl_access", "system.posix_acl_default"] {
            assert_eq!(xattr::get(&path, list).unwrap(), None, "{}", path.display());
        }
    }
    assert_eq!(fs_err::metadata(base.join("inner/secret")).unwrap().mode() & 0o7777, 0o640);
}

#[test]
fn two_files_under_one_inode_number_stay_two() {
    let place = Place::new();
    let repo = place.create().index().unwrap();
    let mut backup = repo.backup(Options::default()).unwrap();
    let contents = [("a", "first"), ("b", "second"), ("c", "first")];
    for (name, content) in contents {
        let meta = Meta { inode: 77, links: 2, mode: 0o644, ..Meta::default() };
        let size = content.len() as u64;
        let entry = Entry { path: TreePath::new(name).unwrap(), kind: EntryKind::File { size }, meta };
        backup.put(entry, &mut content.as_bytes()).unwrap();
    }
    let id = backup.commit(draft()).unwrap().id;
    let target = place.dir.path().join("target");
    assert_eq!(restore(&repo, id, &RestoreOptions::to(&target)).shortfalls, []);
    for (name, content) in contents {
        assert_eq!(fs_err::read_to_string(target.join(name)).unwrap(), content);
    }
    let inode = |name| fs_err::metadata(target.join(name)).unwrap().ino();
    assert!(inode("a") == inode("c") && inode("a") != inode("b"));
}
