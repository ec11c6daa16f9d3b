//! Finding peers: DNS-SD over multicast DNS
