//! The fleet's own cloud: what Delivery Optimization's five cloud services do, in one process or in several.
//!
//! [`mod@array`] is a pure core: no clock, no randomness and no socket of its own. Around it: HTTP on axum with or without TLS,
//! bounds on what anybody may ask, administration data in SQLite or PostgreSQL, snapshots of swarms, figures for
//! administrators. [`mod@remote`] has the array's swarms in Redis instead, for several processes.
//! [`ControlPlane::start`] runs all of it; nothing in the daemon touches this crate.
//!
//! | path | service |
//! |---|---|
//! | `GET /geo`, `GET /geoversion` | geo |
//! | `GET /all` | key-value |
//! | `GET /content/ID/contentpolicy`, `GET /content/ID/pieceshash` | content policy, hash files |
//! | `GET /content/ID/discovery` | discovery |
//! | `POST /array/join/` | array |
//! | `POST /publish/content`, `POST /publish/revoke` | publishers, with an API token |
//! | `POST /enrol` | devices, for the certificates that make them members of their groups |
//! | `GET /healthz`, `GET /readyz` | for load balancers |

mod admin;
pub mod array;
mod authority;
pub mod client;
mod config;
mod contents;
mod database;
mod devices;
mod enrol;
mod listen;
mod metrics;
mod networks;
mod pace;
mod publish;
pub mod remote;
mod server;
mod services;
mod shared;
mod snapshot;
mod swarms;
mod tls;
mod tls_client;

pub use admin::{ContentFigures, Figures, GroupFigures, ServiceFigures, SwarmFigures};
pub use authority::{AuthorityError, open_authority};
pub use config::{ADMIN_PORT, CONTROL_PLANE_PORT, ControlPlaneConfig, ParseServiceError, Service};
pub use contents::{Contents, StoreError, TokenInfo};
pub use database::{ParsePostgresUrlError, PostgresConfig, PostgresUrl};
pub use devices::{DeviceInfo, EnrolmentInfo};
pub use networks::{Networks, Place};
pub use server::{ControlPlane, StartError};
pub use tls::TlsError;
