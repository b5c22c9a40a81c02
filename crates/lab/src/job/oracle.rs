//! The way back without us: Debian's own restic checks every repository that came out of the vault, data
//! included, and restores one of them to the same files.

use super::{Story, night::SYSTEMS, story::seconds_since, summary::Summary, vault::Vault};
use crate::{Lab, Program, Result, Role, manifest::Tree};
use kuramori_model::clock::{Clock, SystemClock};

/// Has stock restic read everything in the clean room.
pub(super) fn restic(lab: &Lab, vault: &Vault<'_>, summary: &mut Summary, story: &Story) -> Result<()> {
    let begin = SystemClock.boot();
    let host = lab.host(Role::Cln);
    let restic = |name: &str, words: &[&str]| {
        let password = vault.folder.join("enrolment/passwords").join(name);
        let program = Program::new("restic").args(["--no-cache", "--no-lock", "--quiet", "-r"]);
        let program = program.arg(host.folder().join("repositories").join(name)).arg("--password-file");
        host.try_run(&program.arg(password).args(words))
    };
    let mut refused = Vec::new();
    for name in SYSTEMS.into_iter().chain(["_control"]) {
        let checked = restic(name, &["check", "--read-data"])?;
        if checked.status != Some(0) {
            refused.push(format!("{name}: restic check: {}", checked.text()));
        }
    }
    let (name, theirs) = ("ophthalmology", host.folder().join("restored-by-restic"));
    let target = theirs.display().to_string();
    let restored = restic(name, &["restore", "latest", "--target", &target])?;
    let same = Tree::of(&theirs)? == Tree::of(&host.folder().join("restored").join(name))?;
    if restored.status != Some(0) || !same {
        refused.push(format!("{name}: restic restored other files: {}", restored.text()));
    }
    story.tell(
        &format!(
            "標準の restic が復元したリポジトリ {} 個を全データ検査し、眼科を復元: {} ({:.1} 秒)",
            SYSTEMS.len() + 1,
            if refused.is_empty() { "異常なし" } else { "異常あり" },
            seconds_since(begin)
        ),
        &format!(
            "stock restic reads all {} restored repositories and restores ophthalmology: {} ({:.1} s)",
            SYSTEMS.len() + 1,
            if refused.is_empty() { "no fault" } else { "FAULTS" },
            seconds_since(begin)
        ),
    );
    summary.stock_restic = Some(refused);
    Ok(())
}
