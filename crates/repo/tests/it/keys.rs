//! Passwords.

use kuramori_model::fault::{Exit, Fault};
use kuramori_repo::{Context, Error, Repository, Secret, store::FileKind};

use crate::common::{Place, restic};

#[test]
fn several_passwords_open_one_repository_and_restic_knows_them() {
    let place = Place::new();
    let repo = place.create();
    let second = Secret::new("zweites");
    let id = repo.add_key(&second).unwrap();
    let other = Repository::open(place.store(), &second, Context::system()).unwrap();
    assert_eq!(other.id(), repo.id());
    assert_eq!(other.key_id(), id);
    let listed = restic(&place.repo(), &["--json", "key", "list"]).unwrap();
    assert_eq!(listed.matches("\"userName\"").count(), 2, "{listed}");
    assert_eq!(repo.keys().unwrap().len(), 2);
    assert!(matches!(other.remove_key(id), Err(Error::Invalid { .. })));
    repo.remove_key(id).unwrap();
    assert_eq!(repo.keys().unwrap().len(), 1);
    let error = Repository::open(place.store(), &second, Context::system()).unwrap_err();
    assert_eq!((error.code(), error.exit()), ("repo.wrong-password", Exit::Authentication));
}

#[test]
fn a_twenty_first_key_is_refused() {
    let place = Place::new();
    let repo = place.create();
    let name = repo.list(FileKind::Key).unwrap()[0].to_string();
    let text = fs_err::read_to_string(place.repo().join("keys").join(&name)).unwrap();
    for number in 0..19 {
        let other = text.replace("\"N\"", &format!("\"x{number}\":0,\"N\""));
        let id = kuramori_repo::store::FileId::of(other.as_bytes());
        fs_err::write(place.repo().join("keys").join(id.to_string()), other).unwrap();
    }
    assert!(matches!(repo.add_key(&Secret::new("x")), Err(Error::Invalid { .. })));
}

#[test]
fn junk_beside_a_good_key_does_not_lock_anybody_out() {
    let place = Place::new();
    place.create();
    for number in 0..40 {
        let junk = format!("{{\"kdf\":\"scrypt\",\"junk\":{number}}}");
        let id = kuramori_repo::store::FileId::of(junk.as_bytes());
        fs_err::write(place.repo().join("keys").join(id.to_string()), junk).unwrap();
    }
    place.open();
    // Valid ones of a stranger, more than anybody tries: who knows the key's name still gets in.
    let known = place.open().key_id();
    let stranger = Place::new();
    let other = stranger.create();
    let text = fs_err::read_to_string(stranger.repo().join("keys").join(other.key_id().to_string())).unwrap();
    let text = text.replace("\"N\":32768", "\"N\":2");
    for number in 0..400 {
        let id = kuramori_repo::store::FileId::of(format!("{text}{:number$}", "").as_bytes());
        fs_err::write(place.repo().join("keys").join(id.to_string()), format!("{text}{:number$}", ""))
            .unwrap();
    }
    let error = Repository::open(place.store(), &Secret::new("x"), Context::system()).unwrap_err();
    assert!(matches!(error, Error::WrongPassword { tried: 20, .. }), "{error}");
    Repository::open_with_key(place.store(), known, &crate::common::secret(), Context::system()).unwrap();
}

#[test]
fn a_forged_key_file_cannot_choose_our_memory() {
    let place = Place::new();
    let repo = place.create();
    let name = repo.list(FileKind::Key).unwrap()[0].to_string();
    let path = place.repo().join("keys").join(&name);
    let text = fs_err::read_to_string(&path).unwrap().replace("\"N\":32768", "\"N\":1099511627776");
    fs_err::remove_file(path).unwrap();
    let id = kuramori_repo::store::FileId::of(text.as_bytes());
    fs_err::write(place.repo().join("keys").join(id.to_string()), text).unwrap();
    let error = Repository::open(place.store(), &crate::common::secret(), Context::system()).unwrap_err();
    assert!(error.to_string().contains(&id.to_string()), "{error}");
    assert_eq!(error.code(), "repo.damaged");
}

#[test]
fn an_absent_repository_has_its_own_code_and_exit() {
    let place = Place::new();
    let error = Repository::open(place.store(), &crate::common::secret(), Context::system()).unwrap_err();
    assert_eq!((error.code(), error.exit()), ("repo.not-found", Exit::NoRepository));
    place.create();
    let again = Repository::create(place.store(), &crate::common::secret(), Context::system()).unwrap_err();
    assert_eq!(again.code(), "repo.exists");
}
