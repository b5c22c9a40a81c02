//! `--check`: whether this host can hold the gate closed, in plain words.

use std::process::ExitCode;

use kuramori_gate::{Actuator, nft, switch::Switch};
use kuramori_model::fault::chain;

use crate::config::Config;

/// Prints one line per point and a verdict.
#[expect(clippy::print_stdout, reason = "the answer to a command")]
pub(crate) fn check(config: &Config) -> ExitCode {
    let mut missing = Vec::new();
    let root = rustix::process::geteuid().is_root();
    println!("{}  runs with the right to change the packet filter", mark(root));
    let filter = &config.packet_filter;
    match nft::usable(&filter.program) {
        Ok(()) => println!("ok  nftables holds tables of the families inet and netdev"),
        Err(error) => {
            println!("NO  nftables: {}", chain(&error));
            println!("    hint: run as root on a kernel with nftables, and install the package `nftables`");
            missing.push("the kernel's packet filter cannot be used");
        }
    }
    for interface in [filter.inside.as_str(), filter.outside.as_str()] {
        let there = filter.sys_class_net.join(interface).exists();
        println!("{}  interface {interface}", mark(there));
        if !there {
            missing.push("an interface of the guarded path does not exist");
        }
    }
    match config.switch.clone().map(Switch::new) {
        None => {
            println!("NO  no switch port, power outlet or carried medium is configured");
            missing.push("only logical layers: nothing outside of this host cuts the path");
        }
        Some(Err(error)) => {
            println!("NO  switch: {}", chain(&error));
            missing.push("the switch cannot be used");
        }
        Some(Ok(mut switch)) => {
            let reading = switch.observe();
            println!("..  switch {}: {:?}, {}", switch.source(), reading.state, reading.detail);
            if reading.state == kuramori_model::gate::LayerState::Unknown {
                missing.push("the switch port cannot be read back");
            }
        }
    }
    if config.dead_man_tested.is_empty() {
        println!("NO  no layer's dead-man is declared as tested");
        missing.push("no dead-man was tested on this device");
    }
    if missing.is_empty() {
        println!("this host can hold the gate closed; whether it IS closed says `kuramori gate status`");
        return ExitCode::SUCCESS;
    }
    missing.dedup();
    println!("the store is NOT offline: {}", missing.join("; "));
    ExitCode::from(1)
}

const fn mark(good: bool) -> &'static str {
    if good { "ok" } else { "NO" }
}
