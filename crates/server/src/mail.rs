//! Sending one notice.

use crate::{App, ServerError, error::Result, post::Notice};

pub(crate) async fn send(_: &App, _: &Notice, _: &str) -> Result<()> {
    Err(ServerError::Notice("no relay".to_owned()))
}
