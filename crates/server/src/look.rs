//! What the site itself sees of the gate, again and again: its own probe and the guarded port.

use std::{sync::PoisonError, time::Duration};

use kuramori_observe::{
    probe::From,
    site::{Figure, Port, PortReader, Site, look},
};

use crate::{
    App, config,
    facts::{Gate, Look, Seen},
};

/// How long a probe waits for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Looks until the task is dropped.
pub(crate) async fn watch(app: App, gate: config::Gate) {
    let site = Site {
        vault: gate.probe.clone(),
        from: From { namespace: None, source: None },
        patience: PATIENCE,
        port: gate.snmp.map(|snmp| PortReader {
            address: snmp.address,
            user: snmp.user,
            auth_password_file: snmp.auth_password_file,
            priv_password_file: snmp.privacy_password_file,
            sys_name: snmp.sys_name,
            if_name: snmp.interface,
            timeout_ms: 1000,
        }),
    };
    // A look that is three turns old says nothing about now.
    let stale = (gate.every * 3 + Duration::from_secs(5)).as_secs();
    loop {
        let (clock, one) = (app.clock.clone(), site.clone());
        match tokio::task::spawn_blocking(move || look(&one, clock.as_ref())).await {
            Ok(view) => {
                let probe = (!site.vault.is_empty()).then(|| probe(&view.answered, stale));
                let port = view.port.as_ref().map(|figure| port(figure, stale));
                *app.gate.write().unwrap_or_else(PoisonError::into_inner) = Gate { probe, port };
            }
            Err(error) => tracing::error!(%error, "the look at the gate failed"),
        }
        tokio::time::sleep(gate.every).await;
    }
}

fn probe(figure: &Figure<Vec<std::net::SocketAddrV4>>, stale_after_s: u64) -> Look {
    let mut answered_by = Vec::new();
    let (seen, detail) = match (&figure.value, &figure.missing) {
        (Some(answered), _) if answered.is_empty() => (Seen::Closed, "no answer (TCP, 1 s)".to_owned()),
        (Some(answered), _) => {
            let who: Vec<String> = answered.iter().map(ToString::to_string).collect();
            let detail = format!("answered: {}", who.join(", "));
            answered_by = who;
            (Seen::Open, detail)
        }
        (None, missing) => (Seen::Unknown, missing.clone().unwrap_or_default()),
    };
    Look { seen, source: figure.source.clone(), detail, answered: answered_by, at: figure.at, stale_after_s }
}

fn port(figure: &Figure<Port>, stale_after_s: u64) -> Look {
    let (seen, detail) = match (&figure.value, &figure.missing) {
        (Some(port), _) => {
            let seen = if port.is_down() { Seen::Closed } else { Seen::Open };
            (seen, format!("ifAdminStatus {}, ifOperStatus {}", word(port.admin), word(port.oper)))
        }
        (None, missing) => (Seen::Unknown, missing.clone().unwrap_or_default()),
    };
    Look { seen, source: figure.source.clone(), detail, answered: Vec::new(), at: figure.at, stale_after_s }
}

/// RFC 2863's words.
fn word(status: i32) -> String {
    let name = match status {
        1 => "up",
        2 => "down",
        3 => "testing",
        5 => "dormant",
        6 => "notPresent",
        7 => "lowerLayerDown",
        _ => "unknown",
    };
    format!("{status} ({name})")
}
