//! The client against real sockets: a scripted server, a TLS server with HTTP/2, a real nginx.

mod changes;
mod environment;
mod nginx;
mod ranges;
mod redirects;
mod retry;
mod server;
mod small;
mod tls;
