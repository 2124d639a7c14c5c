//! The packets between containers and the world: address translation, published ports, and a few refusals.
//!
//! Kernel object: one nftables table, `inet congo`, with chains at the hooks through which a packet comes.
//! The kernel replaces it as a whole, in one transaction, so it always fits all containers that live. See
//! nft(8); where the hooks are: "Netfilter hooks" in the nftables wiki.
//!
//! ```text
//! from a link ─▶ prerouting ─┬─▶ (routing) ─▶ forward ─▶ postrouting ─▶ to a link
//!                            └─▶ this host's own sockets ─▶ output ─▶ postrouting ─▶ to a link
//! ```

use std::fmt::Write;

use common::net::lease::{Bridge, Member};
use common::values::Publish;

/// The name of the table with all of Congo's rules.
pub const TABLE: &str = "congo";

/// The rules that these bridges need, all of the table. `host_routes` says whether the host passes packets on
/// for others than containers, too.
pub fn rules(bridges: &[Bridge], host_routes: bool) -> String {
    let mut rules = format!("chain forged {{ type filter hook prerouting priority raw;\n{FORGED}}}\n");
    rules += &format!("chain outside {{ type nat hook prerouting priority -100;\n{}}}\n", published(bridges));
    rules += &format!("chain inside {{ type nat hook output priority -100;\n{}}}\n", published(bridges));
    let passing = passing(bridges, host_routes);
    rules += &format!("chain passing {{ type filter hook forward priority 0;\n{passing}}}\n");
    rules += &format!("chain leaving {{ type nat hook postrouting priority 100;\n{}}}\n", leaving(bridges));
    rules
}

/// A packet to or from 127.0.0.1 that any link but `lo` brings must be forged: the sender's own loopback
/// would have got it. `route_localnet` has switched off the kernel's own refusal. Without these rules a
/// container would reach the services that listen on the host's loopback (CVE-2020-8558 in Kubernetes). A
/// neighbour of the host would reach ports that are published on 127.0.0.1 alone. The kernel refuses such a
/// packet only after the destination NAT has changed its address.
const FORGED: &str =
    "iifname != \"lo\" ip daddr 127.0.0.0/8 drop\niifname != \"lo\" ip saddr 127.0.0.0/8 drop\n";

/// Destination NAT: a packet for a published port of this host goes to the container instead. The kernel
/// remembers the connection, and translates the answers back.
fn published(bridges: &[Bridge]) -> String {
    let members = bridges.iter().flat_map(|bridge| &bridge.members);
    let rule = |member: &Member, port: &Publish| {
        let to_host = match port.host_ip {
            Some(address) => format!("ip daddr {address}"),
            // Every address of this host: the rule leaves others' traffic that passes through.
            None => "fib daddr type local".into(),
        };
        let Publish { host_port, container_port, protocol, .. } = port;
        let address = member.address;
        format!("{to_host} {protocol} dport {host_port} dnat ip to {address}:{container_port}\n")
    };
    members.flat_map(|member| member.ports.iter().map(move |port| rule(member, port))).collect()
}

/// From elsewhere, other bridges included, a container gets only answers, and packets to published ports. For
/// all else a neighbour of the host can simply set a route. If Congo has switched forwarding on, packets of
/// no bridge are dropped: the host was no router between its other networks before, either.
fn passing(bridges: &[Bridge], host_routes: bool) -> String {
    let mut passing = for_each(bridges, |Bridge { name, .. }| {
        format!(
            "oifname \"{name}\" iifname != \"{name}\" ct state established,related accept\n\
             oifname \"{name}\" iifname != \"{name}\" ct status dnat accept\n\
             oifname \"{name}\" iifname != \"{name}\" drop"
        )
    });
    if !host_routes {
        let names: Vec<_> = bridges.iter().map(|bridge| format!("\"{}\"", bridge.name)).collect();
        let all = names.join(", ");
        let _ = writeln!(passing, "meta nfproto ipv4 iifname != {{ {all} }} oifname != {{ {all} }} drop");
    }
    passing
}

/// Source NAT: outside, no router knows a way to the bridge's subnet, so a packet leaves with the host's
/// address.
fn leaving(bridges: &[Bridge]) -> String {
    for_each(bridges, |Bridge { name, subnet, .. }| {
        format!(
            "ip saddr {subnet} oifname != \"{name}\" masquerade\n\
             # The answer to a published port must come back the same way. The host itself sends from\n\
             # 127.0.0.1; and to a neighbour on the bridge the container would answer directly.\n\
             ip saddr {{ 127.0.0.0/8, {subnet} }} oifname \"{name}\" ct status dnat masquerade"
        )
    })
}

fn for_each(bridges: &[Bridge], rule: impl Fn(&Bridge) -> String) -> String {
    bridges.iter().fold(String::new(), |mut rules, bridge| {
        let _ = writeln!(rules, "{}", rule(bridge));
        rules
    })
}
