//! `--check`: whether this host can hold the gate closed, in plain words.

use std::process::ExitCode;

use kuramori_gate::driver::nft;
use kuramori_model::{fault::chain, gate::LayerState};

use crate::{acceptance, config::Config};

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
    let mut outer = false;
    for mut layer in config.layers().into_iter().filter(|layer| layer.layer().is_outer()) {
        outer = true;
        let reading = layer.observe();
        println!("..  layer {} {}: {:?}, {}", layer.layer(), layer.source(), reading.state, reading.detail);
        if reading.state == LayerState::Unknown {
            missing.push("an outer layer cannot be read back");
        }
    }
    if !outer {
        println!("NO  no switch port, power outlet or carried medium is configured");
        missing.push("only logical layers: nothing outside of this host cuts the path");
    }
    if config.dead_man_tested.is_empty() && acceptance::shown(config).is_empty() {
        println!("NO  no layer's dead-man has been tested");
        println!("    hint: `kuramori gate test --layer A` on this host");
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
