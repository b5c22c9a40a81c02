//! The main job, from end to end and with the product's own binaries: departments backed up into one
//! primary, a vault that is connected only while it pulls, a gate that is killed while bytes flow, a missed
//! backup that somebody is told of, an attack on departments and primary, and every system restored from the
//! vault as a running service and proven identical.
//!
//! ```text
//! site   the server, its register, its keys                 ─┐
//! night  departments → primary (agent, SMB, SQL, SFTP, restic) │ each step works by itself and says what it
//! vault  gate, observer, vault; windows; the kill            │ saw; the summary holds every figure
//! alarm  a backup that never came, the mail that says so     │
//! siege  an intruder with the keys, in an open window        │
//! logins the directory dies, our own logins work without it  │
//! back   the attack, the restore window, the comparison      │
//! oracle stock restic reads what came back                   │
//! again  the site server itself, rebuilt                    ─┘
//! ```
//!
//! Nothing here knows the inside of a room: everything goes through `kuramori`, `kuramori-gated`,
//! `kuramori-observed` and the departments' own servers.

mod again;
mod agent;
mod alarm;
mod back;
mod door;
mod evidence;
mod logins;
mod night;
mod officers;
mod oracle;
mod product;
mod siege;
mod site;
mod story;
mod summary;
mod vault;

pub use door::Door;
pub use product::Product;
pub use story::Story;
pub use summary::Summary;

use crate::{Result, lab::Lab};

/// Does the whole job in a lab that is up with all servers.
///
/// # Errors
/// A step that cannot be done at all. What was done and is not as it should be stands in the summary, and
/// [`Summary::good`] says no.
pub fn run(lab: &Lab, product: &Product, story: &Story) -> Result<Summary> {
    let mut summary = Summary::default();
    let site = site::raise(lab, product, story)?;
    story.console(&site.console());
    agent::enrol(&site, story)?;
    night::pull_all(&site, &mut summary, story)?;

    summary.positive_control = vault::positive_control(lab, story)?;
    let vault = vault::raise(lab, product, &site, story)?;
    vault.window(&mut summary, story)?;
    night::next(&site, &mut summary, story)?;
    night::pacs(&site, &mut summary, story)?;
    let truth = crate::Manifest::make(lab, "night")?;
    let left_out = alarm::leave_out(&site, story)?;
    vault.killed_window(&mut summary, story)?;
    vault.window(&mut summary, story)?;
    alarm::told(&site, &left_out, &mut summary, story)?;

    let register = again::register(&site)?;
    siege::quiet(lab, &vault, &mut summary, story)?;
    logins::without_directory(&site, &mut summary, story)?;
    back::attack(lab, &mut summary, story)?;
    siege::afterwards(&vault, &mut summary, story)?;
    back::restore(lab, product, &vault, &truth, &mut summary, story)?;
    again::rebuild(lab, product, &vault, &register, &mut summary, story)?;
    oracle::restic(lab, &vault, &mut summary, story)?;
    summary.evidence = evidence::write(lab, &summary)?;
    Ok(summary)
}
