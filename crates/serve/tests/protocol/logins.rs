//! The login file while the server runs.

use std::{os::unix::fs::PermissionsExt, sync::Arc};

use kuramori_model::clock::SystemRandom;
use kuramori_serve::{Event, FileLogins, Mode, Outcome, Verb, password::PasswordHash};

use crate::hall::{Hall, PASSWORD, limits};

#[test]
fn a_changed_file_is_in_force_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    fs_err::create_dir(&root).unwrap();
    let file = folder.path().join("logins.toml");
    let entry = |name: &str, password: &str| {
        let hash = PasswordHash::new(password, &SystemRandom);
        format!(
            "[[login]]\nname = \"{name}\"\npassword = \"{hash}\"\nrole = \"append\"\nrepository = \"pacs\"\n"
        )
    };
    // As an administrator's tool does it: whole or not at all.
    let write = |text: String| {
        let new = file.with_extension("new");
        fs_err::write(&new, text).unwrap();
        fs_err::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
        fs_err::rename(&new, &file).unwrap();
    };
    write(entry("pacs", PASSWORD));
    let logins = Arc::new(FileLogins::open(&file).unwrap());
    let hall = Hall::at(folder, root, Mode::Store, limits(), logins).unwrap();
    hall.create("pacs", "pacs");

    // The same login with another password: the remembered one does not go on.
    write(entry("pacs", "another"));
    let reload = |event: &Event| event.verb == Verb::Reload && event.outcome == Outcome::Done;
    hall.book.wait("reload", reload);
    assert_eq!(hall.status("GET", "pacs", "pacs/data/"), 401);

    write(entry("pacs", PASSWORD) + &entry("second", PASSWORD));
    hall.book.wait_many("reload", 2, reload);
    assert_eq!(hall.status("GET", "second", "pacs/data/"), 200);

    write("nonsense".to_owned());
    hall.book.wait(
        "refused reload",
        |event| matches!(&event.outcome, Outcome::Failed(why) if why.contains("logins.toml")),
    );
    assert_eq!(hall.status("GET", "pacs", "pacs/data/"), 200);
}
