//! The directory dies, and whoever works with Kuramori does not notice: none of our own logins asks it.

use super::{
    Story, night,
    site::Site,
    summary::{LoginFigures, Summary},
};
use crate::{Result, Role};

/// Switches the directory's host off, shows that the domain's logins are dead, and uses our own.
pub(super) fn without_directory(site: &Site<'_>, summary: &mut Summary, story: &Story) -> Result<()> {
    let lab = site.lab;
    let (login, password) = lab.directory().somebody()?;
    let domain = || lab.directory().login(&login, &password).is_ok();
    let share = || lab.ophthalmology().ask("ls").is_ok();
    let before = domain() && share();
    lab.host(Role::Dir).kill_all()?;
    let after = domain() || share();
    let client = night::restic(site, &["snapshots"])?;
    let wrong = client.clone().env("RESTIC_REPOSITORY", night::wrong_login(site)?);
    let archive = lab.host(Role::Pac);
    let welcome = |program| Ok::<_, crate::LabError>(archive.try_run(program)?.status == Some(0));
    let mut own = Vec::new();
    if welcome(&client)? && !welcome(&wrong)? {
        own.push("client");
    }
    if site.ask(&["system", "list"]).is_ok() {
        own.push("administrator");
    }
    let figures = LoginFigures { domain_before: before, domain_after: after, own };
    let good = figures.good();
    story.tell(
        &format!(
            "認証基盤を停止: 眼科の共有と職員のログインは{}、蔵守自身のログインは{}",
            if after { "まだ使えます(異常)" } else { "使えません" },
            if good { "すべて使えます" } else { "使えないものがあります" }
        ),
        &format!(
            "the directory is dead: ophthalmology's share and the staff's logins {}, our own logins {}",
            if after { "STILL WORK" } else { "are refused" },
            if good { "all work" } else { "DO NOT all work" }
        ),
    );
    summary.logins = Some(figures);
    Ok(())
}
