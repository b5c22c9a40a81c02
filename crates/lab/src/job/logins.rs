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
    let before = lab.directory().login(&login, &password).is_ok() && lab.ophthalmology().ask("ls").is_ok();
    lab.host(Role::Dir).kill_all()?;
    // Clients wait long for a domain that is dead, so all are asked at once.
    let (after, own) = std::thread::scope(|scope| {
        let domain = scope.spawn(|| lab.directory().lets_in(&login, &password));
        let share = scope.spawn(|| lab.ophthalmology().lets_in());
        let own = own(site);
        let let_in = [domain, share]
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        (let_in.contains(&true), own)
    });
    let own = own?;
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

/// Which of our own logins work.
fn own(site: &Site<'_>) -> Result<Vec<&'static str>> {
    let client = night::restic(site, &["snapshots"])?;
    let wrong = client.clone().env("RESTIC_REPOSITORY", night::wrong_login(site)?).within(15);
    let archive = site.lab.host(Role::Pac);
    let mut own = Vec::new();
    if archive.try_run(&client)?.status == Some(0) && archive.try_run(&wrong)?.status != Some(0) {
        own.push("client");
    }
    if site.ask(&["system", "list"]).is_ok() {
        own.push("administrator");
    }
    Ok(own)
}
