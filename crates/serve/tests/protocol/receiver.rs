//! The receiver of a restore window.

use kuramori_model::fault::Fault;
use kuramori_serve::{MemoryLogins, Mode, Repositories};

use crate::hall::{Hall, append, id, limits, noise, reader, receiver};

#[test]
fn a_receiver_takes_and_gives_nothing_back() {
    let logins = [receiver("window"), append("pacs", None), reader("vault", Repositories::All)];
    let hall = Hall::with(Mode::Receiver, limits(), logins);
    hall.create("window", "pacs");
    let bytes = noise(1, 100_000);
    for kind in ["data", "index", "snapshots", "keys"] {
        let path = format!("pacs/{kind}/{}", id(&bytes));
        assert_eq!(hall.status("HEAD", "window", &path), 404, "{kind}");
        assert_eq!(hall.put("window", &path, noise(2, 100_000)), 400, "{kind}");
        assert_eq!(hall.put("window", &path, bytes.clone()), 200, "{kind}");
        assert_eq!(hall.put("window", &path, bytes.clone()), 200, "{kind}");
        assert_eq!(hall.status("HEAD", "window", &path), 200, "{kind}");
        assert_eq!(hall.status("GET", "window", &path), 403, "{kind}");
        assert_eq!(hall.status("DELETE", "window", &path), 403, "{kind}");
        assert_eq!(hall.status("GET", "window", &format!("pacs/{kind}/")), 403, "{kind}");
        for other in ["pacs", "vault"] {
            assert_eq!(hall.status("HEAD", other, &path), 403, "{kind}");
        }
    }
    assert_eq!(hall.put("window", "pacs/config", "config"), 200);
    assert_eq!(hall.put("window", "pacs/config", "other"), 403);
    assert_eq!(hall.status("GET", "window", "pacs/config"), 403);
    assert_eq!(hall.put("window", &format!("pacs/locks/{}", id(&bytes)), bytes.clone()), 403);
    assert_eq!(hall.status("GET", "window", ""), 403);
    assert_eq!(hall.files().len(), 5);

    // It is not empty any more, so it does not start again.
    let (folder, root) = hall.stop();
    assert!(!root.join("pacs/.incoming").exists());
    let logins = std::sync::Arc::new(MemoryLogins::new([receiver("window")]));
    let again = Hall::at(folder, root, Mode::Receiver, limits(), logins).map(|_| ()).unwrap_err();
    assert_eq!(again.code(), "serve.not-empty");
}

#[test]
fn a_store_does_not_receive() {
    let hall = Hall::with(Mode::Store, limits(), [receiver("window")]);
    assert_eq!(hall.status("POST", "window", "pacs/?create=true"), 403);
    assert!(fs_err::read_dir(&hall.root).unwrap().next().is_none());
}
