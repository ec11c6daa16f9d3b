//! The client against real sockets: a scripted server, a TLS server with HTTP/2, a real nginx.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "what the tests share is not marked as a test itself"
)]

mod changes;
mod environment;
mod limits;
mod nginx;
mod ranges;
mod redirects;
mod retry;
mod server;
mod small;
mod tls;
