//! A configuration's mistakes are named so that they can be put right: file, line, key, suggestion.
#![allow(clippy::unwrap_used, reason = "a helper of a test may stop it")]

use kuramori_model::fault::{Fault, chain};
use kuramori_server::config::{Config, ConfigError, Language};

const WHOLE: &str = r#"
hospital = "湊総合病院"
language = "ja"
time_zone = "Asia/Tokyo"

[store]
data = "/var/lib/kuramori"

[console]
listen = "10.77.1.2:8080"

[serve]
listen = "10.77.1.2:8443"
names = ["10.77.1.2"]

[schedule]
tick = "1s"

[judge]
every = "2s"

[notify]
heartbeat = "07:00"
[[notify.target]]
name = "it"
[notify.target.smtp]
host = "10.77.5.2"
port = 25
from = "kuramori@hospital.example"
to = ["it@hospital.example"]

[gate]
probe = ["10.77.9.2:22"]
[gate.snmp]
address = "10.77.8.2:161"
user = "observer"
auth_password_file = "/etc/kuramori/snmp.auth"
privacy_password_file = "/etc/kuramori/snmp.priv"
sys_name = "sw"
interface = "port2"
"#;

fn fails(text: &str) -> ConfigError {
    Config::from_text("server.toml", text).expect_err("must be refused")
}

#[test]
fn a_whole_file_is_read() {
    let config = Config::from_text("server.toml", WHOLE).unwrap();
    assert_eq!(config.language, Language::Ja);
    assert_eq!(config.zone.iana_name(), Some("Asia/Tokyo"));
    assert_eq!(config.notices.as_ref().unwrap().notify.targets[0].smtp.port, Some(25));
    assert_eq!(config.gate.unwrap().snmp.unwrap().interface, "port2");
    assert_eq!(config.repositories.to_str(), Some("/var/lib/kuramori/repositories"));
}

#[test]
fn an_unknown_key_names_file_line_key_and_suggestion() {
    let error = fails("[store]\ndata = \"/x\"\n\n[console]\nlisen = \"127.0.0.1:1\"\n");
    assert_eq!(error.code(), "config.unknown-key");
    assert_eq!(chain(&error), "server.toml:5: unknown key `lisen`");
    assert_eq!(error.hint().unwrap(), "did you mean `listen`?");
    let error = fails("[stoer]\ndata = \"/x\"\n");
    assert!(chain(&error).starts_with("server.toml:1: unknown key `stoer`"), "{error}");
    assert_eq!(error.hint().unwrap(), "did you mean `store`?");
}

#[test]
fn a_wrong_unit_names_its_line() {
    for (wrong, says) in [
        ("tick = 5", "length of time"),
        ("tick = \"5 minutes\"", "`5 minutes`"),
        ("tick = \"0s\"", "between"),
        ("jobs = \"many\"", "u16"),
    ] {
        let error = fails(&format!("[store]\ndata = \"/x\"\n[schedule]\n{wrong}\n"));
        assert_eq!(error.code(), "config.bad-value", "{wrong}: {error}");
        assert!(error.to_string().contains(says), "{wrong}: {error}");
        if !wrong.contains("0s") {
            assert!(error.to_string().starts_with("server.toml:4: `"), "{wrong}: {error}");
        }
    }
    let error = fails("[store]\ndata = \"/x\"\n[console]\nlisten = \"127.0.0.1\"\n");
    assert!(error.to_string().starts_with("server.toml:4: `listen`"), "{error}");
}

#[test]
fn what_is_missing_or_a_password_in_the_open_is_refused() {
    assert_eq!(fails("").code(), "config.missing-key");
    assert!(fails("").to_string().contains("store.data"));
    let error = fails(
        "[store]\ndata = \"/x\"\n[notify]\n[[notify.target]]\nname = \"a\"\n[notify.target.smtp]\nhost = \"x\"\nfrom = \"a@b\"\nto = []\n[notify.target.smtp.login]\nuser = \"u\"\npassword = \"secret\"\n",
    );
    assert_eq!(error.hint().unwrap(), "did you mean `password_file`?");
    assert!(fails("time_zone = \"Asia/Tokio\"\n[store]\ndata=\"/x\"").to_string().contains("Asia/Tokio"));
}

#[test]
fn later_layers_win_and_say_where_a_value_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("server.toml");
    fs_err::write(&file, WHOLE).unwrap();
    fs_err::create_dir(folder.path().join("conf.d")).unwrap();
    fs_err::write(
        folder.path().join("conf.d/10-site.toml"),
        "[console]\nlisten = \"127.0.0.1:1\"\n[schedule]\njobs = 3\n",
    )
    .unwrap();
    let environment = vec![("KURAMORI_SERVER_CONSOLE".to_owned(), "127.0.0.1:2".to_owned())];
    let config = Config::load(Some(&file), &environment, &[]).unwrap();
    assert_eq!((config.console.port(), config.jobs), (2, 3));
    assert_eq!(config.origins["console.listen"], "environment KURAMORI_SERVER_CONSOLE");
    let config = Config::load(Some(&file), &environment, &["console.listen=127.0.0.1:3".to_owned()]).unwrap();
    assert_eq!(config.console.port(), 3);
    let error = Config::load(Some(&file), &[], &["console.lisen=1".to_owned()]).unwrap_err();
    assert!(error.to_string().contains("--set: unknown key `lisen`"), "{error}");
    fs_err::write(folder.path().join("conf.d/20-bad.toml"), "\nzone = 1\n").unwrap();
    let error = Config::load(Some(&file), &[], &[]).unwrap_err();
    assert!(error.to_string().contains("20-bad.toml:2: unknown key `zone`"), "{error}");
}
