//! Reading: whole files, parts, sizes, lists.

use std::collections::HashMap;

use kuramori_serve::{Mode, Outcome, Repositories, Verb};

use crate::hall::{Hall, append, id, limits, noise, reader};

const V2: &str = "application/vnd.x.restic.rest.v2";

#[derive(serde::Deserialize)]
struct Item {
    name: String,
    size: u64,
}

#[test]
fn a_part_is_exactly_the_part() {
    let hall = Hall::open();
    hall.create("pacs", "pacs");
    let bytes = noise(1, 700_001);
    let path = format!("pacs/data/{}", id(&bytes));
    assert_eq!(hall.status("GET", "vault", &path), 404);
    assert_eq!(hall.status("HEAD", "vault", &path), 404);
    assert_eq!(hall.put("pacs", &path, bytes.clone()), 200);

    let head = hall.ask("HEAD", "vault", &path).send().unwrap();
    assert_eq!(head.headers()["content-length"], "700001");
    assert_eq!(hall.ask("GET", "vault", &path).send().unwrap().bytes().unwrap(), bytes);
    for (range, start, end) in [
        ("0-0", 0, 1),
        ("5-262147", 5, 262_148),
        ("262144-524287", 262_144, 524_288),
        ("700000-700000", 700_000, 700_001),
        ("699000-", 699_000, 700_001),
        ("-10", 699_991, 700_001),
        ("600000-9999999", 600_000, 700_001),
    ] {
        let answer =
            hall.ask("GET", "vault", &path).header("Range", format!("bytes={range}")).send().unwrap();
        assert_eq!(answer.status(), 206, "{range}");
        assert_eq!(answer.headers()["content-range"], format!("bytes {start}-{}/700001", end - 1), "{range}");
        assert_eq!(answer.headers()["content-length"], (end - start).to_string(), "{range}");
        assert_eq!(answer.bytes().unwrap(), bytes[start..end], "{range}");
    }
    let outside = hall.ask("GET", "vault", &path).header("Range", "bytes=700001-").send().unwrap();
    assert_eq!(
        (outside.status().as_u16(), &outside.headers()["content-range"]),
        (416, &"bytes */700001".parse().unwrap())
    );
    let read = hall.book.wait("download", |event| event.verb == Verb::Get && event.bytes == 700_001);
    assert_eq!(read.outcome, Outcome::Done);
}

#[test]
fn lists_name_every_file_and_nothing_else() {
    let hall = Hall::open();
    assert_eq!(hall.status("GET", "pacs", "pacs/data/"), 404);
    hall.create("pacs", "pacs");
    let empty = hall.ask("GET", "pacs", "pacs/data/").header("Accept", V2).send().unwrap();
    assert_eq!(empty.headers()["content-type"], V2);
    assert_eq!(empty.text().unwrap(), "[]");

    // As many as `KURAMORI_LONG` allows; named by counting, the server does not read them.
    let count: u32 = if std::env::var_os("KURAMORI_LONG").is_some() { 200_000 } else { 20_000 };
    let mut expected = HashMap::new();
    for number in 0..count {
        let name = id(&number.to_le_bytes());
        let content = &b"12345"[..(number % 5) as usize];
        fs_err::write(hall.root.join("pacs/data").join(&name[..2]).join(&name), content).unwrap();
        expected.insert(name, u64::from(number % 5));
    }
    fs_err::write(hall.root.join("pacs/data/aa/README"), "x").unwrap();
    fs_err::create_dir(hall.root.join("pacs/data/aa").join(id(b"folder"))).unwrap();
    fs_err::write(hall.root.join("pacs/data").join(id(b"too high")), "x").unwrap();
    fs_err::write(hall.root.join("pacs/snapshots").join(id(b"s")), "x").unwrap();

    let answer = hall.ask("GET", "vault", "pacs/data/").header("Accept", V2).send().unwrap();
    assert!(answer.headers().get("content-length").is_none(), "it is not held whole");
    let items: Vec<Item> = serde_json::from_slice(&answer.bytes().unwrap()).unwrap();
    assert_eq!(items.len(), expected.len());
    assert!(items.iter().all(|item| expected.get(&item.name) == Some(&item.size)));

    let answer = hall.ask("GET", "vault", "pacs/data/").send().unwrap();
    assert_eq!(answer.headers()["content-type"], "application/vnd.x.restic.rest.v1");
    let names: Vec<String> = serde_json::from_slice(&answer.bytes().unwrap()).unwrap();
    assert_eq!(names.len(), expected.len());
    let snapshots: Vec<Item> = serde_json::from_reader(
        hall.ask("GET", "vault", "pacs/snapshots/").header("Accept", V2).send().unwrap(),
    )
    .unwrap();
    assert_eq!(snapshots.len(), 1);
}

#[test]
fn a_reader_sees_its_repositories_and_only_those() {
    let some = Repositories::Listed(vec!["pacs".parse().unwrap()]);
    let hall = Hall::with(
        Mode::Store,
        limits(),
        [
            append("pacs", None),
            append("billing", None),
            reader("vault", Repositories::All),
            reader("site-b", some),
        ],
    );
    hall.create("pacs", "pacs");
    hall.create("billing", "billing");
    fs_err::create_dir(hall.root.join("lost+found")).unwrap();
    let names = |login: &str| hall.ask("GET", login, "").send().unwrap().text().unwrap();
    assert_eq!(names("vault"), r#"["billing","pacs"]"#);
    assert_eq!(names("site-b"), r#"["pacs"]"#);
    assert_eq!(hall.status("GET", "pacs", ""), 403);
    assert_eq!(hall.status("GET", "site-b", "billing/data/"), 403);
    for (method, path) in
        [("POST", "pacs/?create=true"), ("POST", "pacs/config"), ("DELETE", "pacs/"), ("DELETE", "")]
    {
        assert_eq!(hall.status(method, "vault", path), 403, "{method} {path}");
    }
    let lock = noise(1, 10);
    let path = format!("pacs/locks/{}", id(&lock));
    assert_eq!(hall.put("pacs", &path, lock), 200);
    assert_eq!(hall.status("DELETE", "vault", &path), 403);
    assert_eq!(hall.status("DELETE", "pacs", &path), 200);
    assert_eq!(hall.status("DELETE", "pacs", &path), 200, "a lock that is gone counts as deleted");
    for kind in ["data", "index", "keys", "snapshots"] {
        assert_eq!(hall.status("DELETE", "pacs", &format!("pacs/{kind}/{}", id(b"x"))), 403, "{kind}");
        assert_eq!(hall.status("DELETE", "pacs", &format!("pacs/{kind}/")), 403, "{kind}");
    }
    assert_eq!(hall.status("PUT", "pacs", "pacs/config"), 405);
    assert_eq!(hall.status("POST", "pacs", "pacs/"), 405);
}
