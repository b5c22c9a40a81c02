//! The source's own PostgreSQL for tests, and what it expects beside it.

use std::path::{Path, PathBuf};

pub(crate) use super::support::hospital::free_port;

pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    super::until(what, || done().then_some(()));
}

pub(crate) fn secret(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs_err::write(&path, format!("{text}\n")).unwrap();
    fs_err::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    path
}

#[path = "../../../source/tests/common/postgres.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the source's own tests")]
pub(crate) mod postgres;

#[path = "../../../source/tests/common/mariadb.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the source's own tests")]
pub(crate) mod mariadb;
