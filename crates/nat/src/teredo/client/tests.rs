//! Clients, a real server core and NATs of every kind, in virtual time.

use super::*;
use crate::teredo::{
    icmp::{RouterAdvertisement, SOLICITING},
    limits::{BUBBLE_SILENCE, BUBBLES_MAX, PATH_VALID_FOR, PEERS_MAX, QUEUE_MAX},
};
use nat::Kind;
use net::{Net, PRIMARY, SECONDARY};
use std::time::Duration;

mod discover;
mod nat;
mod net;
mod pairs;
mod qualification;
mod security;

/// Long enough for everything that will happen at all: four tries, two seconds apart.
const PATIENCE: Duration = Duration::from_secs(12);

fn config(servers: &[ServerAddresses], networks: &[Network], local_port: u16) -> ClientConfig {
    ClientConfig {
        servers: servers.to_vec(),
        local_port,
        networks: networks.to_vec(),
        secret: None,
        opening_ttl: Some(2),
        discovery: true,
        native: false,
    }
}
