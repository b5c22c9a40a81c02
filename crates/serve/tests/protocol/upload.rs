//! Uploads that are right, wrong, repeated, cut, raced, too large.

use std::io::Write;

use kuramori_model::units::Bytes;
use kuramori_serve::{Event, Limits, Mode, Outcome, Verb};

use crate::hall::{Hall, append, authorization, id, limits, noise};

#[test]
fn an_upload_is_stored_when_its_hash_is_right_and_never_replaced() {
    let hall = Hall::open();
    let bytes = noise(1, 300_000);
    let path = format!("pacs/data/{}", id(&bytes));
    assert_eq!(hall.put("pacs", &path, bytes.clone()), 404, "no repository yet");
    hall.create("pacs", "pacs");
    hall.create("pacs", "pacs");

    assert_eq!(hall.put("pacs", &path, noise(2, 300_000)), 400);
    assert_eq!(hall.put("pacs", &path, bytes[..299_999].to_vec()), 400);
    assert!(hall.files().is_empty());
    assert_eq!(hall.put("pacs", &path, bytes.clone()), 200);
    assert_eq!(hall.put("pacs", &path, bytes.clone()), 200, "the same bytes again");
    assert_eq!(hall.put("pacs", &path, noise(2, 300_000)), 400);
    let stored = hall.root.join("pacs/data").join(&id(&bytes)[..2]).join(id(&bytes));
    assert_eq!(fs_err::read(&stored).unwrap(), bytes);
    assert_eq!(hall.book.count(|event| event.verb == Verb::Put && event.outcome == Outcome::Present), 1);

    assert_eq!(hall.put("pacs", "pacs/config", "first"), 200);
    assert_eq!(hall.put("pacs", "pacs/config", "first"), 200);
    assert_eq!(hall.put("pacs", "pacs/config", "second"), 403);
    assert_eq!(fs_err::read(hall.root.join("pacs/config")).unwrap(), b"first");
    assert!(hall.book.wait("refused config", |event| event.outcome == Outcome::Refused).alarming());

    // Without a length announced, as some clients send.
    let bytes = noise(3, 200_000);
    let path = format!("pacs/index/{}", id(&bytes));
    let body = reqwest::blocking::Body::new(std::io::Cursor::new(bytes.clone()));
    assert_eq!(hall.put("pacs", &path, body), 200);
    assert_eq!(hall.ask("GET", "pacs", &path).send().unwrap().bytes().unwrap(), bytes);
}

#[test]
fn a_cut_upload_leaves_nothing() {
    let hall = Hall::open();
    hall.create("pacs", "pacs");
    let bytes = noise(4, 1_000_000);
    let path = format!("pacs/data/{}", id(&bytes));
    for (number, cut) in [0, 1, 65_536, 999_999].into_iter().enumerate() {
        let mut connection = hall.raw();
        let head = format!(
            "POST /{path} HTTP/1.1\r\nHost: x\r\n{}Content-Length: {}\r\n\r\n",
            authorization("pacs"),
            bytes.len()
        );
        connection.write_all(head.as_bytes()).unwrap();
        connection.write_all(&bytes[..cut]).unwrap();
        connection.flush().unwrap();
        if cut > 1 {
            // The server is in the middle of it: the growing file is there.
            let incoming = hall.root.join("pacs/.incoming");
            while fs_err::read_dir(&incoming).map_or(0, Iterator::count) == 0 {
                std::thread::yield_now();
            }
        }
        drop(connection);
        let broken = |event: &Event| event.verb == Verb::Put && event.outcome == Outcome::Broken;
        hall.book.wait_many("broken upload", number + 1, broken);
    }
    assert!(hall.files().is_empty(), "{:?}", hall.files());
    assert_eq!(hall.put("pacs", &path, bytes), 200);
    assert_eq!(hall.files().len(), 1);
}

#[test]
fn a_killed_servers_half_upload_is_cleared_at_the_next_start() {
    let hall = Hall::open();
    hall.create("pacs", "pacs");
    let (folder, root) = hall.stop();
    fs_err::create_dir(root.join("pacs/.incoming")).unwrap();
    fs_err::write(root.join("pacs/.incoming/1-1"), "half").unwrap();
    let logins = std::sync::Arc::new(kuramori_serve::MemoryLogins::new([append("pacs", None)]));
    let hall = Hall::at(folder, root, Mode::Store, limits(), logins).unwrap();
    assert!(hall.files().is_empty());
}

#[test]
fn two_servers_cannot_have_one_folder() {
    let hall = Hall::open();
    let logins = std::sync::Arc::new(kuramori_serve::MemoryLogins::new([]));
    let other = Hall::at(tempfile::tempdir().unwrap(), hall.root.clone(), Mode::Store, limits(), logins);
    let error = other.map(|_| ()).unwrap_err();
    assert_eq!(kuramori_model::fault::Fault::code(&error), "serve.busy");
}

#[test]
fn many_clients_may_send_the_same_and_different_files_at_once() {
    let hall = Hall::open();
    hall.create("pacs", "pacs");
    let shared = noise(5, 2_000_000);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (hall, shared) = (&hall, &shared);
            scope.spawn(move || {
                assert_eq!(hall.put("pacs", &format!("pacs/data/{}", id(shared)), shared.clone()), 200);
                let own = noise(100 + number, 500_000);
                assert_eq!(hall.put("pacs", &format!("pacs/data/{}", id(&own)), own), 200);
                // Of the different configs exactly one wins.
                hall.put("pacs", "pacs/config", format!("config {number}"))
            });
        }
    });
    assert_eq!(hall.files().len(), 10);
    let shared_name = id(&shared);
    let ended = |outcome: Outcome| {
        hall.book.count(|event| {
            event.verb == Verb::Put
                && event.name.is_some_and(|name| name.to_string() == shared_name)
                && event.outcome == outcome
        })
    };
    assert_eq!((ended(Outcome::Done), ended(Outcome::Present)), (1, 7));
    let configs = |outcome| {
        hall.book.count(|event| event.kind == Some(kuramori_serve::Kind::Config) && event.outcome == outcome)
    };
    assert_eq!((configs(Outcome::Done), configs(Outcome::Refused)), (1, 7));
}

#[test]
fn a_quota_holds_also_against_lies_and_crowds() {
    let quota = 1 << 20;
    let hall = Hall::with(Mode::Store, limits(), [append("pacs", Some(quota))]);
    hall.create("pacs", "pacs");
    let put = |seed, size| {
        let bytes = noise(seed, size);
        hall.put("pacs", &format!("pacs/data/{}", id(&bytes)), bytes)
    };
    assert_eq!(put(1, 600_000), 200);
    assert_eq!(put(2, 600_000), 507);
    assert_eq!(put(1, 600_000), 200, "a repeated upload needs no room");

    // No length announced: cut when the room is used up.
    let bytes = noise(3, 600_000);
    let body = reqwest::blocking::Body::new(std::io::Cursor::new(bytes.clone()));
    let sent = hall.ask("POST", "pacs", &format!("pacs/data/{}", id(&bytes))).body(body).send();
    assert_eq!(sent.unwrap().status(), 507);
    assert_eq!(hall.files().len(), 1);

    // Many at once do not slip through together.
    std::thread::scope(|scope| {
        for seed in 10..20 {
            scope.spawn(move || put(seed, 200_000));
        }
    });
    let used: u64 =
        hall.files().iter().map(|file| fs_err::metadata(hall.root.join(file)).unwrap().len()).sum();
    assert!((800_000..=quota).contains(&used), "{used}");

    // A lock comes and goes without using the quota up.
    for seed in 100..400 {
        let lock = noise(seed, 100);
        let path = format!("pacs/locks/{}", id(&lock));
        assert_eq!(hall.put("pacs", &path, lock), 200, "{seed}");
        assert_eq!(hall.status("DELETE", "pacs", &path), 200);
    }
    // Tiny files count as whole blocks: here fewer than 600_000 / 4096 fit.
    let stored = (1000..2000).take_while(|seed| put(*seed, 10) == 200).count();
    assert!(stored < 150, "{stored}");
}

#[test]
fn each_kind_has_its_largest_size() {
    let limits = Limits { small: Bytes(1000), document: Bytes(2000), pack: Bytes(3000), ..limits() };
    let hall = Hall::with(Mode::Store, limits, [append("pacs", None)]);
    hall.create("pacs", "pacs");
    for (kind, most) in
        [("keys", 1000), ("locks", 1000), ("index", 2000), ("snapshots", 2000), ("data", 3000)]
    {
        let fits = noise(1, most);
        assert_eq!(hall.put("pacs", &format!("pacs/{kind}/{}", id(&fits)), fits), 200, "{kind}");
        let over = noise(1, most + 1);
        let path = format!("pacs/{kind}/{}", id(&over));
        assert_eq!(hall.put("pacs", &path, over.clone()), 413, "{kind}");
        let body = reqwest::blocking::Body::new(std::io::Cursor::new(over));
        assert_eq!(hall.put("pacs", &path, body), 413, "{kind} without a length");
    }
    assert_eq!(hall.files().len(), 5);
}
