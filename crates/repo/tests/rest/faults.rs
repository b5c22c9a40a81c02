//! What the client makes of a server that fails.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use kuramori_model::fault::{Fault, Kind};
use kuramori_repo::{
    Cancel, Error,
    store::{Brake, FileId, FileKind, Payload, RestOptions, Store},
};

use crate::scripted::{Answer, Asked, Scripted, clock, say};

const PACK: FileKind = FileKind::Pack;

fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|number| u8::try_from(number * 31 % 251).unwrap()).collect()
}

/// Answers a `GET` rightly, whole or in part.
fn give(content: &[u8], asked: &Asked) -> Answer {
    let size = content.len();
    let Some(range) = &asked.range else { return Answer::Say(200, Vec::new(), content.to_vec()) };
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let first: usize = first.parse().unwrap();
    if first >= size {
        return Answer::Say(416, vec![format!("Content-Range: bytes */{size}")], Vec::new());
    }
    let last = last.parse().unwrap_or(size - 1).min(size - 1);
    let headers = vec![format!("Content-Range: bytes {first}-{last}/{size}")];
    Answer::Say(206, headers, content[first..=last].to_vec())
}

fn cut(answer: Answer, after: usize) -> Answer {
    match answer {
        Answer::Say(status, headers, body) => Answer::Cut(status, headers, body, after),
        other => other,
    }
}

#[test]
fn what_may_pass_is_tried_again_and_what_may_not_is_not() {
    for status in [408, 429, 500, 502, 503, 504] {
        let server =
            Scripted::new(move |number, asked| if number < 3 { say(status) } else { give(b"x", asked) });
        assert_eq!(server.store().read(PACK, FileId::of(b"x"), 10).unwrap(), b"x", "{status}");
        assert_eq!(server.asked().len(), 4);
        assert_eq!(server.asked()[0].authorization.as_deref(), Some("Basic cGFjczpnZWhlaW0="));
    }
    for (status, code) in [
        (400, "repo.remote"),
        (401, "repo.login"),
        (403, "repo.login"),
        (404, "repo.missing"),
        (405, "repo.remote"),
        (307, "repo.remote"),
        (507, "repo.full"),
    ] {
        let server = Scripted::new(move |_, _| {
            Answer::Say(status, vec!["Location: http://127.0.0.1:1/".to_owned()], Vec::new())
        });
        let store = server.store();
        let error = store.read(PACK, FileId::of(b"x"), 10).unwrap_err();
        assert_eq!(error.code(), code, "{status}");
        assert_eq!(server.asked().len(), 1, "{status}");
        assert_ne!(error.kind(), Kind::Retry);
        assert!(!kuramori_model::fault::chain(&error).contains("geheim"));
    }
    // In the end it gives up, and says that it may pass later.
    let server = Scripted::new(|_, _| say(503));
    let error = server.store().size(PACK, FileId::of(b"x")).unwrap_err();
    assert_eq!((error.kind(), server.asked().len()), (Kind::Retry, 4));
    assert!(kuramori_model::fault::chain(&error).contains("503"), "{error}");
}

#[test]
fn a_part_is_taken_only_if_it_is_that_part() {
    let content = bytes(1000);
    let id = FileId::of(&content);
    let told = content.clone();
    let server = Scripted::new(move |_, asked| give(&told, asked));
    let store = server.store();
    assert_eq!(store.read_range(PACK, id, 10, 20).unwrap(), content[10..30]);
    assert_eq!(store.read_range(PACK, id, 999, 1).unwrap(), content[999..]);
    assert_eq!(store.read_range(PACK, id, 5, 0).unwrap(), b"");
    for (offset, len) in [(990, 11), (1000, 1), (5000, 5)] {
        assert_eq!(store.read_range(PACK, id, offset, len).unwrap_err().code(), "repo.damaged", "{offset}");
    }

    // Cut in the middle, then right.
    let told = content.clone();
    let server = Scripted::new(
        move |number, asked| {
            if number < 2 { cut(give(&told, asked), 7) } else { give(&told, asked) }
        },
    );
    assert_eq!(server.store().read_range(PACK, id, 10, 20).unwrap(), content[10..30]);
    assert_eq!(server.asked().len(), 3);

    // Another part; the same part at another place; the whole file; too few bytes for what it says.
    let lies: [fn(&[u8]) -> Answer; 4] = [
        |content| {
            Answer::Say(206, vec!["Content-Range: bytes 11-30/1000".to_owned()], content[11..31].to_vec())
        },
        |content| Answer::Say(206, Vec::new(), content[10..30].to_vec()),
        |content| Answer::Say(200, Vec::new(), content.to_vec()),
        |content| {
            Answer::Say(206, vec!["Content-Range: bytes 10-29/1000".to_owned()], content[10..40].to_vec())
        },
    ];
    for lie in lies {
        let told = content.clone();
        let server = Scripted::new(move |_, _| lie(&told));
        let error = server.store().read_range(PACK, id, 10, 20).unwrap_err();
        assert_eq!((error.code(), server.asked().len()), ("repo.remote", 1), "{error}");
    }
    let told = content.clone();
    let server = Scripted::new(move |_, _| {
        Answer::Say(206, vec!["Content-Range: bytes 10-29/1000".to_owned()], told[10..20].to_vec())
    });
    assert_eq!(server.store().read_range(PACK, id, 10, 20).unwrap_err().code(), "repo.remote");
}

#[test]
fn a_download_goes_on_at_the_byte_where_it_broke() {
    let content = bytes(100_000);
    let id = FileId::of(&content);
    let told = content.clone();
    // Every answer ends after 9000 bytes: more breaks than tries, yet each brings something on.
    let server = Scripted::new(move |_, asked| {
        let answer = give(&told, asked);
        let Answer::Say(_, _, body) = &answer else { return answer };
        let after = body.len().min(9000);
        cut(answer, after)
    });
    let store = server.store();
    let mut out = Vec::new();
    assert_eq!(store.fetch_to(PACK, id, &mut out, 0).unwrap(), 100_000);
    assert!(out == content);
    let ranges: Vec<_> = server.asked().into_iter().map(|asked| asked.range).collect();
    assert_eq!(ranges[..3], [None, Some("bytes=9000-".to_owned()), Some("bytes=18000-".to_owned())]);

    let mut out = content[..77_777].to_vec();
    assert_eq!(store.fetch_to(PACK, id, &mut out, 77_777).unwrap(), 22_223);
    assert!(out == content);
    let mut nothing = Vec::new();
    assert_eq!(store.fetch_to(PACK, id, &mut nothing, 100_000).unwrap(), 0);
    assert_eq!(store.fetch_to(PACK, id, &mut nothing, 100_001).unwrap_err().code(), "repo.damaged");
    assert!(nothing.is_empty());
}

#[test]
fn a_download_that_cannot_be_right_ends() {
    let content = bytes(1000);
    let id = FileId::of(&content);
    // A server that passes over the range would make the target a mixture.
    let told = content.clone();
    let server = Scripted::new(move |_, _| Answer::Say(200, Vec::new(), told.clone()));
    let mut out = Vec::new();
    assert_eq!(server.store().fetch_to(PACK, id, &mut out, 500).unwrap_err().code(), "repo.remote");
    // A file that changes its size between two tries is not one file.
    let told = content.clone();
    let server =
        Scripted::new(
            move |number, asked| {
                if number == 0 { cut(give(&told, asked), 100) } else { give(&told[..900], asked) }
            },
        );
    assert_eq!(server.store().fetch_to(PACK, id, &mut out, 0).unwrap_err().code(), "repo.damaged");
    // A server that brings nothing on is left.
    let told = content.clone();
    let server = Scripted::new(move |_, asked| cut(give(&told, asked), 0));
    let error = server.store().fetch_to(PACK, id, &mut Vec::new(), 0).unwrap_err();
    assert_eq!((error.kind(), server.asked().len()), (Kind::Retry, 4));
    // A target that is full is the target's error.
    let server = Scripted::new(move |_, asked| give(&content, asked));
    let mut small = [0; 10];
    let error = server.store().fetch_to(PACK, id, &mut &mut small[..], 0).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn a_lost_answer_to_an_upload_is_a_success_when_the_bytes_are_there() {
    let content = bytes(50_000);
    let id = FileId::of(&content);
    // Our server: the same bytes again are a yes.
    let server = Scripted::new(|number, _| if number == 0 { Answer::Silence } else { say(200) });
    server.store().write(PACK, id, Payload::Bytes(&content)).unwrap();
    let asked = server.asked();
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|asked| asked.method == "POST" && asked.body == content));
    assert_eq!(asked[0].path, format!("/pacs/data/{id}"));

    // rest-server: a name that exists is refused. The stored bytes decide.
    for (stored, expected) in [
        (content.clone(), None),
        (bytes(50_001), Some("repo.exists")),
        (
            {
                let mut other = content.clone();
                other[49_999] ^= 1;
                other
            },
            Some("repo.exists"),
        ),
    ] {
        let server = Scripted::new(move |number, asked| match asked.method.as_str() {
            "POST" if number == 0 => Answer::Silence,
            "POST" => say(403),
            _ => give(&stored, asked),
        });
        let result = server.store().write(PACK, id, Payload::Bytes(&content));
        assert_eq!(result.err().map(|error| error.code()), expected);
    }
    // Refused and not there: it is the login.
    let server = Scripted::new(|_, asked| say(if asked.method == "POST" { 403 } else { 404 }));
    assert_eq!(server.store().write(PACK, id, Payload::Bytes(&content)).unwrap_err().code(), "repo.login");
    // Bytes that are not what their name says are not sent for ever.
    let server = Scripted::new(|_, _| say(400));
    assert_eq!(server.store().write(PACK, id, Payload::Bytes(&content)).unwrap_err().code(), "repo.damaged");
    assert_eq!(server.asked().len(), 1);
    let server = Scripted::new(|_, _| say(507));
    assert_eq!(server.store().write(PACK, id, Payload::Bytes(&content)).unwrap_err().code(), "repo.full");
}

#[test]
fn a_list_is_whole_or_an_error_and_names_nothing_twice() {
    const FORM: &str = "Content-Type: application/vnd.x.restic.rest.v2";
    let list = |count: u32| {
        let items: Vec<_> = (0..count)
            .map(|number| format!("{{\"name\":\"{}\",\"size\":{number}}}", FileId::of(&number.to_le_bytes())))
            .collect();
        format!("[{}]", items.join(",")).into_bytes()
    };
    let run = |server: &Scripted| {
        let mut seen = Vec::new();
        let result = server.store().list(PACK, &mut |id, size| {
            seen.push((id, size));
            Ok(())
        });
        (result.map_err(|error| error.kind()), seen)
    };

    // Broken before the first name: again. With strange names: left out.
    let server = Scripted::new(move |number, _| {
        let mut body = list(2000);
        if number == 0 {
            return Answer::Cut(200, vec![FORM.to_owned()], body, 1);
        }
        body.splice(
            1..1,
            br#"{"name":"../../etc/passwd","size":1},{"name":"tmp","size":2},"#.iter().copied(),
        );
        Answer::Say(200, vec![FORM.to_owned()], body)
    });
    let (result, seen) = run(&server);
    assert_eq!((result, seen.len(), server.asked().len()), (Ok(()), 2000, 2));

    // Broken after some names: an error, and nothing named twice.
    let server = Scripted::new(move |_, _| Answer::Cut(200, vec![FORM.to_owned()], list(2000), 100_000));
    let (result, seen) = run(&server);
    assert_eq!((result, server.asked().len()), (Err(Kind::Retry), 1));
    assert!((500..2000).contains(&seen.len()), "{}", seen.len());

    // An end without the bracket is not an end.
    let server = Scripted::new(move |_, _| {
        let mut body = list(10);
        body.pop();
        Answer::Say(200, vec![FORM.to_owned()], body)
    });
    assert_eq!(run(&server).0, Err(Kind::Retry));
    // Another form, something else after the list, and a name without end.
    let server = Scripted::new(move |_, _| Answer::Say(200, Vec::new(), list(1)));
    assert_eq!(run(&server).0, Err(Kind::Fix));
    let server = Scripted::new(move |_, _| {
        Answer::Say(200, vec![FORM.to_owned()], format!("[{{\"name\":\"{}", "a".repeat(1 << 20)).into_bytes())
    });
    assert_eq!(run(&server).0, Err(Kind::Retry));
    // Missing folders are empty, `config` is no folder, and the caller may stop.
    let server = Scripted::new(move |_, _| say(404));
    assert_eq!(run(&server), (Ok(()), Vec::new()));
    let server = Scripted::new(move |_, _| Answer::Say(200, vec![FORM.to_owned()], list(10)));
    let mut count = 0;
    let stopped = server.store().list(PACK, &mut |_, _| {
        count += 1;
        if count == 3 { Err(Error::Cancelled) } else { Ok(()) }
    });
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert_eq!((count, server.asked().len()), (3, 1));
}

#[derive(Debug, Default)]
struct Counter {
    passed: AtomicU64,
    stop_at: u64,
    cancel: Cancel,
    pieces: Mutex<Vec<u64>>,
}

impl Brake for Counter {
    fn pass(&self, bytes: u64) {
        self.pieces.lock().unwrap().push(bytes);
        if self.passed.fetch_add(bytes, Ordering::SeqCst) + bytes >= self.stop_at {
            self.cancel.cancel();
        }
    }
}

#[test]
fn every_byte_passes_the_brake_and_a_cancel_stops_it() {
    let content = bytes(3_000_000);
    let id = FileId::of(&content);
    for stop_at in [u64::MAX, 1_000_000] {
        let told = content.clone();
        let server =
            Scripted::new(move |_, asked| if asked.method == "POST" { say(200) } else { give(&told, asked) });
        for upload in [false, true] {
            let counter = Arc::new(Counter { stop_at, ..Counter::default() });
            let options = RestOptions {
                brake: counter.clone(),
                cancel: counter.cancel.clone(),
                clock: clock(),
                ..RestOptions::default()
            };
            let store = server.store_with(options);
            let result = if upload {
                store.write(PACK, id, Payload::Bytes(&content))
            } else {
                store.fetch_to(PACK, id, &mut Vec::new(), 0).map(drop)
            };
            let passed = counter.passed.load(Ordering::SeqCst);
            if stop_at == u64::MAX {
                result.unwrap();
                assert_eq!(passed, 3_000_000);
            } else {
                assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
                assert!((1_000_000..2_000_000).contains(&passed), "{passed}");
                assert!(matches!(store.size(PACK, id), Err(Error::Cancelled)));
            }
            assert!(counter.pieces.lock().unwrap().iter().all(|piece| *piece <= 256 << 10));
        }
    }
}
