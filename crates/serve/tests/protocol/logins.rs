//! The login file while the server runs.

use std::{os::unix::fs::PermissionsExt, sync::Arc};

use kuramori_model::clock::SystemRandom;
use kuramori_serve::{FileLogins, Mode, Outcome, Verb, password::PasswordHash};

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
    let write = |text: String| {
        fs_err::write(&file, text).unwrap();
        fs_err::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write(entry("pacs", PASSWORD));
    let logins = Arc::new(FileLogins::open(&file).unwrap());
    let hall = Hall::at(folder, root, Mode::Store, limits(), logins).unwrap();
    hall.create("pacs", "pacs");
    let reloads = |outcome: &dyn Fn(&Outcome) -> bool| {
        hall.book.count(|e| e.verb == Verb::Reload && outcome(&e.outcome))
    };

    // The same login with another password: the remembered one does not go on.
    write(entry("pacs", "another"));
    hall.book.wait("reload", |event| event.verb == Verb::Reload && event.outcome == Outcome::Done);
    assert_eq!(hall.status("GET", "pacs", "pacs/data/"), 401);

    write(entry("pacs", PASSWORD) + &entry("second", PASSWORD));
    hall.book.wait("reload", |_| reloads(&|outcome| *outcome == Outcome::Done) == 2);
    assert_eq!(hall.status("GET", "second", "pacs/data/"), 200);

    write("nonsense".to_owned());
    hall.book.wait(
        "refused reload",
        |event| matches!(&event.outcome, Outcome::Failed(why) if why.contains("logins.toml")),
    );
    assert_eq!(hall.status("GET", "pacs", "pacs/data/"), 200);
}
