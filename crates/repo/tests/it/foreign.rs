//! Repositories that restic made.

use std::process::Command;

use kuramori_repo::{
    Error, Indexed, Repository,
    format::{
        blob::BlobId,
        node::{NodeKind, unix_mode},
        tree,
    },
    store::FileKind,
};

use crate::common::{Place, restic};

fn walk(repo: &Repository<Indexed>, id: &BlobId, prefix: &str, found: &mut Vec<String>) {
    for node in repo.load_tree(id).unwrap().nodes {
        let path = format!("{prefix}/{}", String::from_utf8_lossy(&node.name));
        found.push(format!("{} {path}", node.kind.word()));
        if let Some(subtree) = &node.subtree {
            walk(repo, subtree, &path, found);
        }
        let mut size = 0;
        for id in node.content.iter().flatten() {
            size += repo.load_blob(kuramori_repo::format::blob::BlobKind::Data, id).unwrap().len() as u64;
        }
        assert_eq!(size, node.size, "{path}");
    }
}

#[test]
fn reads_what_restic_0_14_wrote() {
    let place = Place::fixture();
    let repo = place.open();
    let snapshots = repo.snapshots().unwrap();
    assert_eq!(snapshots.len(), 2);
    let first = &snapshots[0].1;
    assert_eq!(first.hostname, "pacs");
    assert_eq!(first.paths, ["/srv/dump"]);
    assert_eq!(first.tags, ["nightly"]);
    assert_eq!(first.time, "2026-03-01T02:03:04Z".parse().unwrap());
    assert!(first.summary.is_none() && !first.is_incomplete());
    let tree = first.tree;
    let repo = repo.index().unwrap();
    let mut found = Vec::new();
    walk(&repo, &tree, "", &mut found);
    assert_eq!(
        found,
        [
            "dir /srv",
            "dir /srv/dump",
            "file /srv/dump/a",
            "file /srv/dump/b\u{FFFD}\u{FFFD}",
            "file /srv/dump/empty",
            "fifo /srv/dump/fifo",
            "symlink /srv/dump/l",
            "chardev /srv/dump/null",
            "file /srv/dump/q\"\\n<&>.txt",
            "dir /srv/dump/sub",
            "file /srv/dump/sub/text",
            "file /srv/dump/x",
            "file /srv/dump/y",
            "file /srv/dump/患者　画像",
        ]
    );
    let srv = repo.load_tree(&tree).unwrap().nodes[0].subtree.unwrap();
    let dump = repo.load_tree(&repo.load_tree(&srv).unwrap().nodes[0].subtree.unwrap()).unwrap();
    let node = |name: &[u8]| dump.nodes.iter().find(|node| node.name == name).unwrap().clone();
    assert_eq!(unix_mode(node(b"a").mode), 0o4755);
    assert_eq!(unix_mode(node(b"sub").mode), 0o1777);
    assert_eq!(node(b"l").link_target, b"tgt");
    assert_eq!(node(b"null").device, 0x103);
    assert_eq!(node(b"null").kind, NodeKind::CharDevice);
    assert_eq!(node(b"x").xattrs, [(b"user.k".to_vec(), b"wert".to_vec())]);
    assert_eq!((node(b"x").links, node(b"x").inode), (2, node(b"y").inode));
    assert_eq!((node(b"a").mtime.seconds, node(b"a").mtime.nanos), (1_577_934_245, 600));
}

#[test]
fn encodes_every_tree_as_restic_did() {
    let golden = fs_err::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tree.json")).unwrap();
    let decoded = tree::decode(&golden).unwrap();
    assert_eq!(decoded.nodes.len(), 11);
    assert_eq!(
        String::from_utf8(tree::encode(&decoded.nodes).unwrap()).unwrap(),
        String::from_utf8(golden).unwrap()
    );
}

#[test]
fn pack_headers_of_restic_agree_with_its_index() {
    let place = Place::fixture();
    let repo = place.open();
    for file in repo.list(FileKind::Index).unwrap() {
        for pack in repo.index_file(file).unwrap() {
            let mut indexed = pack.blobs.clone();
            indexed.sort_by_key(|blob| blob.offset);
            assert_eq!(repo.pack_header(pack.id).unwrap(), indexed);
        }
    }
}

#[test]
fn restic_accepts_an_empty_repository_of_ours() {
    let place = Place::new();
    let repo = place.create();
    restic(&place.repo(), &["check", "--read-data"]).unwrap();
    let config = restic(&place.repo(), &["cat", "config"]).unwrap();
    assert!(config.contains(repo.id()), "{config}");
    restic(&place.repo(), &["backup", concat!(env!("CARGO_MANIFEST_DIR"), "/src")]).unwrap();
    let repo = place.open();
    let (_, snapshot) = repo.find_snapshot("latest").unwrap();
    let repo = repo.index().unwrap();
    walk(&repo, &snapshot.tree, "", &mut Vec::new());
}

#[test]
fn version_1_is_named_and_refused() {
    let place = Place::new();
    let made = Command::new("restic")
        .args(["--no-cache", "init", "--repository-version", "1", "-r"])
        .arg(place.repo())
        .env("RESTIC_PASSWORD", crate::common::PASSWORD)
        .output()
        .unwrap();
    assert!(made.status.success());
    let error = Repository::open(place.store(), &crate::common::secret(), kuramori_repo::Context::system())
        .unwrap_err();
    assert!(matches!(error, Error::Version { version: 1 }));
}
