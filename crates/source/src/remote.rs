//! Sources that this process cannot read by itself: what an agent reads, and files, which only an agent reads.

use kuramori_model::tree::Sink;

use crate::{
    Control, Description, Error, Report, Source,
    config::{AgentConfig, FilesConfig},
    report::Statement,
};

/// Opens declared files. The register never reaches files of the server: only an agent has such an opener.
pub type Files = fn(&FilesConfig) -> Result<Box<dyn Source>, Error>;

/// The opener of everybody but an agent.
pub fn no_files(_: &FilesConfig) -> Result<Box<dyn Source>, Error> {
    Err(Error::Config("`kind = \"files\"` is read by an agent and declared in the agent's own file".into()))
}

/// What an agent reads; the server's own side of it is a session, not a read.
#[derive(Debug)]
pub struct AgentSource {
    config: AgentConfig,
}

impl AgentSource {
    /// Contacts nobody.
    pub fn new(config: AgentConfig) -> Self {
        Self { config }
    }
}

impl Source for AgentSource {
    fn describe(&self) -> Description {
        Description {
            kind: "agent",
            server: self.config.agent.clone(),
            address: format!("agent://{}/{}", self.config.agent, self.config.unit),
            consistency: Statement {
                ja: "エージェントが自分の設定ファイルの宣言に従って読む。整合性は実行ごとにエージェントが申告。".into(),
                en: "Read by an agent as its own file declares; it says with each run how consistent that is.".into(),
            },
        }
    }

    fn read(&self, _: &mut dyn Sink, _: &Control) -> Result<Report, Error> {
        Err(Error::Config("an agent's unit is read in a session with the agent".into()))
    }
}
