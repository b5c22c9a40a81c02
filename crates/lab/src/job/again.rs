//! The site server is one of the systems that come back: from the vault's copy of `_control` and the
//! hospital's recovery identity, on a machine that has neither.

use std::time::Duration;

use kuramori_model::clock::{Clock, SystemClock};
use serde_json::Value;

use super::{
    Product, Story,
    site::{Site, last_json},
    story::seconds_since,
    summary::{ServerFigures, Summary},
    vault::Vault,
};
use crate::{Lab, Program, Result, Role, lab::private, wait_until};

/// The register as the living server shows it, to be compared with later.
pub(super) fn register(site: &Site<'_>) -> Result<Value> {
    site.ask(&["system", "list"])
}

/// Rebuilds the server in the clean room, starts it, and compares its register with the one before the attack.
pub(super) fn rebuild(
    lab: &Lab,
    product: &Product,
    vault: &Vault<'_>,
    before: &Value,
    summary: &mut Summary,
    story: &Story,
) -> Result<()> {
    let begin = SystemClock.boot();
    let host = lab.host(Role::Cln);
    let folder = host.folder().join("server");
    fs_err::create_dir_all(&folder)?;
    let (config, socket) = (folder.join("server.toml"), folder.join("admin.sock"));
    let (here, address) = (folder.display(), Role::Cln.address());
    fs_err::write(
        &config,
        format!(
            r#"hospital = "蔵守ラボ病院"
language = "ja"
time_zone = "Asia/Tokyo"

[store]
data = "{here}/data"
repositories = "{repositories}"

[admin]
socket = "{here}/admin.sock"

[console]
listen = "{address}:8080"

[serve]
listen = "{address}:8443"
names = ["{address}"]
"#,
            repositories = host.folder().join("repositories").display(),
        ),
    )?;
    // The paper comes out of the safe: the identity, and the wrap that travelled with the enrolment.
    let (identity, wrap) = (folder.join("recovery.identity"), folder.join("_control.recovery.age"));
    private(&identity, &fs_err::read_to_string(lab.truth().join("recovery.identity"))?)?;
    fs_err::copy(vault.folder.join("enrolment/wraps/_control.recovery.age"), &wrap)?;
    let server = || product.kuramori().args(["--json", "server", "--config"]).arg(&config);
    let program = server()
        .args(["rebuild", "--from"])
        .arg(host.folder().join("repositories/_control"))
        .arg("--recovery-identity")
        .arg(&identity)
        .arg("--wrap")
        .arg(&wrap);
    let rebuilt = last_json(&host.text(&program)?)?;
    host.spawn("server-again", &server(), &lab.root().join("logs/server-again.log"))?;
    wait_until("the rebuilt site server", Duration::from_mins(2), || {
        Ok(std::os::unix::net::UnixStream::connect(&socket).ok())
    })?;
    let ask: Program = product.kuramori().args(["--json", "system", "list", "--socket"]).arg(&socket);
    let after = last_json(&host.text(&ask)?)?;
    let number = |key: &str| rebuilt[key].as_u64().unwrap_or(0);
    let figures = ServerFigures {
        systems: number("systems"),
        points: number("points"),
        secrets: number("secrets"),
        identical: names(before) == names(&after),
        seconds: seconds_since(begin),
    };
    story.tell(
        &format!(
            "拠点サーバーを保管庫の写しから再構築: 部門システム {}、復元点 {}、秘密 {}、台帳は{} ({:.1} 秒)",
            figures.systems,
            figures.points,
            figures.secrets,
            if figures.identical { "攻撃前と同じ" } else { "異なります" },
            figures.seconds
        ),
        &format!(
            "the site server is rebuilt from the vault's copy: {} systems, {} restore points, {} secrets, the register is {} ({:.1} s)",
            figures.systems,
            figures.points,
            figures.secrets,
            if figures.identical { "as before the attack" } else { "DIFFERENT" },
            figures.seconds
        ),
    );
    summary.server = Some(figures);
    Ok(())
}

/// What a person entered: everything but the states that go on changing.
fn names(list: &Value) -> Vec<Value> {
    let all = list.as_array().or_else(|| list["systems"].as_array());
    let mut all: Vec<Value> = all
        .into_iter()
        .flatten()
        .map(|one| one.get("system").cloned().unwrap_or_else(|| one.clone()))
        .collect();
    all.sort_by_key(|one| one["id"].as_str().unwrap_or_default().to_owned());
    all
}
