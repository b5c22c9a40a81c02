//! A conversation with a switch's command line through OpenSSH's client: a line, then the prompt. Every wait
//! has an end, and whatever was not understood ends the conversation.

use std::time::Duration;

use super::{
    client::{Client, Login, Silence},
    ssh::SshConfig,
};
use crate::fault::ActuatorFault;

/// More than this is no answer to any of our lines.
const MOST: usize = 64 << 10;

/// The running conversation.
#[derive(Debug)]
pub(super) struct Dialogue {
    client: Client,
    text: String,
    name: String,
}

impl Dialogue {
    /// Connects; what comes of it shows in [`enter`](Self::enter).
    pub(super) fn start(config: &SshConfig, login: &Login, limit: Duration) -> Result<Self, ActuatorFault> {
        let client = Client::start(&config.way(), login, limit, "-tt", &[])?;
        Ok(Self { client, text: String::new(), name: config.sys_name.clone() })
    }

    /// From now on everything together may take this long.
    pub(super) fn until(&mut self, limit: Duration) {
        self.client.until(limit);
    }

    /// Whether the client still runs.
    pub(super) fn is_alive(&mut self) -> bool {
        self.client.is_alive()
    }

    /// Waits for the first prompt, becomes privileged, and turns the pager off.
    pub(super) fn enter(&mut self) -> Result<(), ActuatorFault> {
        let (_, mode) = self.prompt()?;
        if mode == ">" {
            self.send("enable")?;
            if self.prompt()?.1 != "#" {
                return Err(self.fault("the account may not configure (`enable` did not change the prompt)"));
            }
        } else if mode != "#" {
            return Err(self.fault(&format!("it begins with the prompt `{mode}`")));
        }
        self.say("terminal length 0", "").map(drop)
    }

    /// Says a line; its answer, if the prompt afterwards is of this mode: `config`, or empty.
    pub(super) fn say(&mut self, line: &str, mode: &str) -> Result<String, ActuatorFault> {
        self.send(line)?;
        let (answer, shown) = self.prompt()?;
        let wanted = if mode.is_empty() { "#".to_owned() } else { format!("({mode})#") };
        if let Some(refusal) = answer.lines().find(|line| line.trim_start().starts_with('%')) {
            return Err(self.fault(&format!("`{line}`: {}", refusal.trim())));
        }
        if shown != wanted {
            return Err(self.fault(&format!("after `{line}` the prompt is `{shown}` instead of `{wanted}`")));
        }
        Ok(answer)
    }

    fn send(&mut self, line: &str) -> Result<(), ActuatorFault> {
        self.client.send(format!("{line}\n").as_bytes())
    }

    /// What came before the next prompt without the line's echo, and the prompt without the device's name.
    fn prompt(&mut self) -> Result<(String, String), ActuatorFault> {
        loop {
            if let Some(mode) = mode(&self.text, &self.name) {
                let text = std::mem::take(&mut self.text);
                let (answer, _) = text.rsplit_once('\n').unwrap_or_default();
                // The device repeats the line first, whole or not.
                let answer = answer.split_once('\n').map_or("", |(_, answer)| answer);
                return Ok((answer.to_owned(), mode));
            }
            match self.client.hear() {
                Ok(bytes) if self.text.len() + bytes.len() <= MOST => {
                    let text = String::from_utf8_lossy(&bytes);
                    self.text.extend(text.chars().filter(|c| *c == '\n' || *c == '\t' || !c.is_control()));
                }
                Ok(_) => return Err(self.fault("it answers without end")),
                Err(Silence::Ended(why)) => return Err(why),
                Err(Silence::Late) => {
                    let last = self.text.lines().last().unwrap_or_default().trim().to_owned();
                    if last.ends_with(['#', '>']) {
                        let what = format!("the prompt is `{last}`, not that of `{}`", self.name);
                        return Err(ActuatorFault::Identity(what));
                    }
                    return Err(self.fault(&format!("no prompt came in time; last it said `{last}`")));
                }
            }
        }
    }

    fn fault(&self, what: &str) -> ActuatorFault {
        self.client.fault(what)
    }
}

/// The prompt at the text's end after the device's name: `>`, `#`, `(config-if)#`.
fn mode(text: &str, name: &str) -> Option<String> {
    let last = text.rsplit('\n').next()?.trim();
    let rest = last.strip_prefix(name)?;
    let inner = rest.strip_suffix(['#', '>'])?;
    let modal = inner.starts_with('(') && inner.ends_with(')') && !inner[1..].contains(['(', ' ']);
    (inner.is_empty() || modal).then(|| rest.to_owned())
}
