//! Paths that want to leave their place, sent as they stand.

use std::io::{Read, Write};

use kuramori_serve::Mode;

use crate::hall::{Hall, append, authorization, id, limits};

#[test]
fn no_path_leaves_its_repository() {
    let hall = Hall::with(Mode::Store, limits(), [append("pacs", None), append("billing", None)]);
    hall.create("pacs", "pacs");
    hall.create("billing", "billing");
    fs_err::write(hall.folder.path().join("secret"), "secret").unwrap();
    let name = id(b"x");
    let ask = |method: &str, path: &str| {
        let login = authorization("pacs");
        hall.raw_status(&format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{login}Content-Length: 0\r\n\r\n"))
    };
    // The helper would notice: an honest path goes through.
    assert_eq!(ask("HEAD", "/pacs/config"), 404);
    assert_eq!(ask("GET", "/pacs/keys/"), 200);
    for path in [
        "/pacs/../billing/config",
        "/pacs/../../secret",
        "/../secret",
        "/pacs/..%2f..%2fsecret",
        "/pacs/%2e%2e/billing/config",
        "/pacs/data/../../billing/config",
        "/pacs/keys/..",
        "/pacs/.incoming/1-1",
        "/pacs\\..\\secret",
        "//etc/passwd",
        "/pacs//config",
        "/pacs/data/00/x",
        "/pacs/config%00",
        &format!("/pacs/data/{}/../{name}", &name[..2]),
        &format!("/pacs/data/{}", name.to_uppercase()),
        &format!("/pacs/data/{name}.tmp"),
    ] {
        for method in ["GET", "HEAD", "POST", "DELETE"] {
            let status = ask(method, path);
            assert!(matches!(status, 400 | 403), "{method} {path}: {status}");
        }
    }
    assert_eq!(ask("GET", "/billing/config"), 403);
    assert_eq!(ask("GET", "http://elsewhere/billing/config"), 403);
    assert!(hall.files().is_empty(), "{:?}", hall.files());
    assert_eq!(fs_err::read(hall.folder.path().join("secret")).unwrap(), b"secret");
}

#[test]
fn without_a_login_nothing_is_told_apart() {
    let hall = Hall::open();
    hall.create("pacs", "pacs");
    for path in ["/", "/pacs/config", "/pacs/data/", "/nothing/config", "/../x"] {
        for method in ["GET", "POST", "DELETE", "PATCH"] {
            let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(hall.raw_status(&head), 401, "{method} {path}");
        }
    }
    let wrong = hall.client().get(hall.url("pacs/data/")).basic_auth("pacs", Some("wrong")).send().unwrap();
    assert_eq!(wrong.status(), 401);
    // A header has its largest size. Above it the answer is 431, or the connection is cut while we send.
    let head = |size| format!("GET / HTTP/1.1\r\nHost: x\r\nX-Large: {}\r\n\r\n", "x".repeat(size));
    assert_eq!(hall.raw_status(&head(20_000)), 401);
    let mut connection = hall.raw();
    let _ = connection.write_all(head(300_000).as_bytes()).and_then(|()| connection.flush());
    let mut answer = [0; 12];
    if connection.read_exact(&mut answer).is_ok() {
        assert_eq!(&answer, b"HTTP/1.1 431");
    }
}
