//! The agent on the directory's host: its own file, its token, its process.

use super::{
    Story,
    site::{Site, agents_address},
};
use crate::{LabError, Result, services::directory::AGENT};

/// Enrols the agent and starts it.
pub(super) fn enrol(site: &Site<'_>, story: &Story) -> Result<()> {
    let directory = site.lab.directory();
    let file = directory.agent_file(agents_address())?.display().to_string();
    let made = site.ask(&["agent", "invite", AGENT])?;
    let token = made["token"].as_str().ok_or(LabError::NoService("a token for the agent"))?;
    let host = site.lab.host(crate::Role::Dir);
    let enrol = site.product.kuramori().args(["--json", "agent", "enrol", "--config", &file]);
    host.run(&enrol.input(format!("{token}\n")))?;
    directory.spawn("agent", &site.product.file(), &["agent", "--config", &file])?;
    story.tell(
        "認証基盤のサーバーにエージェントを登録しました",
        "the agent on the directory's server is enrolled",
    );
    Ok(())
}
