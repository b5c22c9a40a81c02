//! What every test of the lab needs: a name of its own and a folder that servers may enter.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on says where; seeds are printed"
)]

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use kuramori_lab::{Lab, Scale, Service, What};

/// The seed of all generated data in these tests.
pub(crate) const SEED: u64 = 20_261_122;

/// A lab in a temporary folder that goes away with it.
pub(crate) struct Stage {
    pub(crate) prefix: String,
    pub(crate) folder: tempfile::TempDir,
}

impl Stage {
    /// `letter` tells tests of one process apart.
    pub(crate) fn new(letter: char) -> Self {
        let folder = tempfile::Builder::new().prefix("kt").tempdir().unwrap();
        // The servers run as users of their own, which must get through.
        fs_err::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        println!("seed {SEED}");
        Self { prefix: format!("kt{}{letter}", short(std::process::id())), folder }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("lab")
    }

    pub(crate) fn up(&self, services: &[Service]) -> Lab {
        let mut what = What::everything(Scale::Small, SEED, program());
        what.services = services.iter().copied().collect();
        Lab::up(&self.prefix, &self.root(), what)
            .unwrap_or_else(|e| panic!("{}", kuramori_model::fault::chain(&e)))
    }
}

/// A whole process number in five letters and digits: a prefix has room for eight, and of two labs none may have a
/// name that begins with the other's.
fn short(mut number: u32) -> String {
    let mut digits = [0; 5];
    for digit in digits.iter_mut().rev() {
        *digit = number % 36;
        number /= 36;
    }
    digits.iter().filter_map(|digit| char::from_digit(*digit, 36)).collect()
}

/// The program under test.
pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_kuramori-lab"))
}
