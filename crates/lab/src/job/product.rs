//! The product's binaries, found beside this one.

use std::path::{Path, PathBuf};

use crate::{
    error::{LabError, Result},
    program::Program,
};

/// Where the binaries are.
#[derive(Debug, Clone)]
pub struct Product {
    folder: PathBuf,
}

impl Product {
    /// The folder that holds `kuramori`, `kuramori-gated` and `kuramori-observed`.
    ///
    /// # Errors
    /// One of them is missing.
    pub fn at(folder: &Path) -> Result<Self> {
        for name in ["kuramori", "kuramori-gated", "kuramori-observed"] {
            if !folder.join(name).is_file() {
                let why = "the product is not built; run `cargo build --workspace`";
                return Err(LabError::Outside { path: folder.join(name), why });
            }
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// Beside the running program.
    ///
    /// # Errors
    /// As [`at`](Self::at).
    pub fn beside_this() -> Result<Self> {
        let program = std::env::current_exe()?;
        // Cargo keeps test programs one folder below the binaries.
        let mut folder = program.parent().unwrap_or(Path::new("/")).to_owned();
        if folder.ends_with("deps") {
            folder.pop();
        }
        Self::at(&folder)
    }

    /// The product's one binary.
    pub(super) fn file(&self) -> PathBuf {
        self.folder.join("kuramori")
    }

    pub(super) fn kuramori(&self) -> Program {
        Program::new(self.file()).env("KURAMORI_LANG", "ja")
    }

    pub(super) fn gated(&self) -> Program {
        Program::new(self.folder.join("kuramori-gated"))
    }

    pub(super) fn observed(&self) -> Program {
        Program::new(self.folder.join("kuramori-observed"))
    }
}
