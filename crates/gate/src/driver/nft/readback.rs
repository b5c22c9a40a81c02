//! Compares the whole ruleset, as the kernel lists it, with what was meant. Whatever is not understood is
//! `Unknown`, which counts as open.

use kuramori_model::gate::LayerState;
use serde_json::{Value, json};

use super::{NftConfig, rules};
use crate::actuator::{Lease, Reading};

/// How the reading of a lease that has ended by itself begins.
pub(super) const LAPSED: &str = "the lease has ended by itself";

/// Both chains of the netdev table hang on the guarded interface.
pub(super) fn devices(listing: &str, interface: &str) -> Result<(), String> {
    let wanted = format!("device \"{interface}\"");
    for hook in ["hook ingress ", "hook egress "] {
        if !listing.lines().any(|line| line.contains(hook) && line.contains(&wanted)) {
            return Err(format!("table netdev vaultgate has no {hook}on {interface}"));
        }
    }
    Ok(())
}

/// Judges `nft -j list ruleset`.
pub(super) fn judge(config: &NftConfig, ttl_s: u32, listing: &str, flow: Option<&Lease>) -> Reading {
    match compare(config, ttl_s, listing, flow) {
        Ok(reading) => reading,
        Err(what) => Reading::unknown(what),
    }
}

fn compare(config: &NftConfig, ttl_s: u32, listing: &str, flow: Option<&Lease>) -> Result<Reading, String> {
    let listing: Value = serde_json::from_str(listing).map_err(|_| "nft's answer is not JSON".to_owned())?;
    let objects = listing["nftables"].as_array().ok_or("nft's answer has no list")?;
    let mut chains = rules::expected(config);
    let mut seen_rules: Vec<Vec<Value>> = chains.iter().map(|_| Vec::new()).collect();
    let mut seen_chains = vec![false; chains.len()];
    let mut sets: Vec<Set> = Vec::new();
    for object in objects {
        let Some((kind, body)) = object.as_object().and_then(|map| map.iter().next()) else {
            return Err("nft's answer holds something unknown".to_owned());
        };
        if kind == "metainfo" {
            continue;
        }
        let family = body["family"].as_str().unwrap_or_default();
        let table = if kind == "table" { &body["name"] } else { &body["table"] }.as_str().unwrap_or_default();
        let ours = matches!((family, table), ("inet", "gate") | ("netdev", "vaultgate"));
        if !ours {
            if config.foreign_tables.iter().any(|name| *name == format!("{family} {table}")) {
                continue;
            }
            return Err(format!("there is a table that is not ours: {family} {table}"));
        }
        let place = |name: &Value| {
            let same =
                |chain: &rules::Chain| chain.family == family && chain.table == table && *name == chain.name;
            chains.iter().position(same)
        };
        match kind.as_str() {
            "table" => {
                if body["flags"] == "dormant"
                    || body["flags"].as_array().is_some_and(|flags| !flags.is_empty())
                {
                    return Err(format!("table {table} is switched off"));
                }
            }
            "chain" => {
                let position =
                    place(&body["name"]).ok_or_else(|| format!("unknown chain {}", body["name"]))?;
                let chain = &chains[position];
                let fits = body["type"] == "filter"
                    && body["hook"] == chain.hook
                    && body["prio"] == chain.priority
                    && body["policy"] == "drop";
                if !fits {
                    return Err(format!("chain {} is not as we made it", chain.name));
                }
                seen_chains[position] = true;
            }
            "rule" => {
                let position =
                    place(&body["chain"]).ok_or_else(|| format!("unknown chain {}", body["chain"]))?;
                seen_rules[position].push(plain(&body["expr"]));
            }
            "set" => sets.push(Set::read(family, body)?),
            other => return Err(format!("there is a {other} that is not ours")),
        }
    }
    for ((chain, rules), seen) in chains.iter_mut().zip(&seen_rules).zip(&seen_chains) {
        if !seen {
            return Err(format!("chain {} is missing", chain.name));
        }
        if chain.rules != *rules {
            return Err(format!("chain {} holds other rules than ours", chain.name));
        }
    }
    let answered = answered(config, &mut sets, ttl_s)?;
    elements(&sets, ttl_s, flow, answered)
}

/// A rule without its counts; newer versions write a set of flags as `{"|": […]}`.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            if map.contains_key("counter") {
                return json!({"counter": null});
            }
            if let (1, Some(Value::Array(flags))) = (map.len(), map.get("|")) {
                return Value::Array(flags.iter().map(plain).collect());
            }
            Value::Object(map.iter().map(|(key, value)| (key.clone(), plain(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(plain).collect()),
        other => other.clone(),
    }
}

struct Element {
    value: Value,
    /// Seconds left; none for an element that never ends.
    expires: Option<u64>,
}

struct Set {
    family: String,
    name: String,
    default_s: Option<u64>,
    size: Option<u64>,
    elements: Vec<Element>,
}

impl Set {
    fn read(family: &str, body: &Value) -> Result<Self, String> {
        let flag = &body["flags"];
        if *flag != "timeout" && *flag != json!(["timeout"]) {
            return Err(format!("set {} has other flags than ours", body["name"]));
        }
        let elements = body["elem"].as_array().map_or(&[][..], Vec::as_slice);
        let value = |one: &Value| one.get("concat").unwrap_or(one).clone();
        let read = |element: &Value| match element.get("elem") {
            Some(inner) => Element { value: value(&inner["val"]), expires: inner["expires"].as_u64() },
            None => Element { value: value(element), expires: None },
        };
        Ok(Self {
            family: family.to_owned(),
            name: body["name"].as_str().unwrap_or_default().to_owned(),
            default_s: body["timeout"].as_u64(),
            size: body["size"].as_u64(),
            elements: elements.iter().map(read).collect(),
        })
    }
}

/// Takes the set `alive` out; whether the switch's ping is answered.
fn answered(config: &NftConfig, sets: &mut Vec<Set>, ttl_s: u32) -> Result<bool, String> {
    let Some(poll) = &config.ping_poll else { return Ok(false) };
    let place = sets.iter().position(|set| set.family == "inet" && set.name == "alive");
    let set = sets.remove(place.ok_or("set inet alive is missing")?);
    let element = set.elements.first();
    let ours = |one: &Element| {
        one.value == poll.switch.to_string() && one.expires.is_some_and(|left| left <= ttl_s.into())
    };
    let fits = set.default_s == Some(ttl_s.into()) && set.size.is_some() && set.elements.len() <= 1;
    if fits && element.is_none_or(ours) {
        Ok(element.is_some())
    } else {
        Err("set inet alive is not as we made it".to_owned())
    }
}

fn elements(sets: &[Set], ttl_s: u32, flow: Option<&Lease>, answered: bool) -> Result<Reading, String> {
    let wanted = [("inet", "lease"), ("inet", "window"), ("netdev", "lease"), ("netdev", "window")];
    if sets.len() != wanted.len() {
        return Err(format!("{} sets instead of {}", sets.len(), wanted.len()));
    }
    let (mut filled, mut leases, mut left) = (0, 0, u64::MAX);
    for (family, name) in wanted {
        let set = sets
            .iter()
            .find(|set| set.family == family && set.name == name)
            .ok_or_else(|| format!("set {family} {name} is missing"))?;
        let default_s = if name == "lease" { ttl_s } else { rules::WINDOW_DEFAULT_S };
        if set.default_s != Some(default_s.into()) || set.size.is_none() {
            return Err(format!("set {family} {name} has no default timeout or size of ours"));
        }
        let Some(element) = set.elements.first() else { continue };
        let lease =
            flow.ok_or_else(|| format!("set {family} {name} holds an element that we did not add"))?;
        let address = lease.peer.ip().to_string();
        let value = match family {
            "inet" => json!([lease.source.to_string(), address, lease.peer.port()]),
            _ => json!([address, lease.peer.port()]),
        };
        if set.elements.len() > 1 || element.value != value {
            return Err(format!("set {family} {name} holds another flow than ours"));
        }
        let expires =
            element.expires.ok_or_else(|| format!("set {family} {name} holds an element without end"))?;
        let most = if name == "lease" { lease.ttl_s } else { lease.window_s };
        if expires > u64::from(most) {
            return Err(format!("set {family} {name} holds an element for longer than it was given"));
        }
        filled += 1;
        leases += usize::from(name == "lease");
        if name == "window" {
            left = left.min(expires);
        }
    }
    match filled {
        0 if answered => Err("the switch's ping is still answered".to_owned()),
        0 => {
            Ok(Reading { state: LayerState::Closed, detail: "all rules as made, all sets empty".to_owned() })
        }
        4 => Ok(Reading { state: LayerState::Open, detail: format!("one flow, window ends in {left} s") }),
        // Without the lease nothing passes, but whoever has closed must find nothing left.
        some if leases == 0 => Err(format!("{LAPSED}, {some} elements of the window are left")),
        some => Err(format!("{some} of 4 sets hold the flow")),
    }
}
