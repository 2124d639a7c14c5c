//! Networks: links, addresses and routes, firewall rules, leases of addresses, and a network for ordinary
//! users.

pub mod lease;
pub mod netlink;
pub mod nft;
pub mod port;
pub mod proxy;
pub mod resolv;
pub mod settle;
pub mod shared;
pub mod usernet;
