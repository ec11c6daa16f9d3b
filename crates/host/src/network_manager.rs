//! What NetworkManager knows, over D-Bus: whether the connection is metered, whether it is a VPN, and the DHCP options
//! that its own client got. Where there is no bus, or nobody of that name on it, nothing is known and nothing costs
//! anything; nobody is started for being asked.

use crate::{Root, lease};
use std::{collections::HashMap, future::poll_fn, pin::Pin, time::Duration};
use zbus::{
    Connection, MatchRule, MessageStream, ObjectPath, OwnedVariant, Proxy,
    export::futures_core::Stream as _, message, proxy::MethodFlags,
};

const SOCKET: &str = "run/dbus/system_bus_socket";
const NAME: &str = "org.freedesktop.NetworkManager";
const PATH: &str = "/org/freedesktop/NetworkManager";
/// How long the bus may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// What NetworkManager says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Connectivity {
    /// Whether the primary connection is metered, as far as that is known.
    pub metered: Option<bool>,
    /// The name of the primary connection, when it is a VPN.
    pub vpn: Option<String>,
    /// What its own DHCP client got.
    pub lease: lease::Lease,
}

/// A connection to the system's bus.
#[derive(Debug)]
pub(crate) struct NetworkManager {
    connection: Connection,
    changes: MessageStream,
}

type Properties = HashMap<String, OwnedVariant>;

impl NetworkManager {
    /// Connects; `None` when there is no bus.
    pub(crate) async fn connect(root: &Root) -> Option<Self> {
        let socket = root.path(SOCKET);
        if !socket.exists() {
            return None;
        }
        let connecting = async {
            let address = format!("unix:path={}", socket.display());
            let connection = zbus::connection::Builder::address(address.as_str())
                .method_timeout(ANSWER_TIME)
                .build()
                .await?;
            let rule = MatchRule::builder()
                .msg_type(message::Type::Signal)
                .sender(NAME)
                .path(PATH)
                .interface("org.freedesktop.DBus.Properties")
                .member("PropertiesChanged")
                .build()?;
            let changes = MessageStream::for_match_rule(rule, &connection, None).await?;
            Ok::<_, zbus::Error>(Self {
                connection,
                changes,
            })
        };
        let connected = tokio::time::timeout(ANSWER_TIME, connecting).await.ok()?;
        connected
            .inspect_err(|error| tracing::debug!(%error, "no system bus"))
            .ok()
    }

    /// What it says now.
    pub(crate) async fn ask(&self) -> Connectivity {
        let Ok(properties) = self.properties(PATH, NAME).await else {
            return Connectivity::default();
        };
        let mut found = Connectivity {
            metered: number(&properties, "Metered").and_then(is_metered),
            ..Connectivity::default()
        };
        let kind = text(&properties, "PrimaryConnectionType");
        let is_vpn = kind
            .as_deref()
            .is_some_and(|kind| ["vpn", "wireguard"].contains(&kind));
        let Some(path) = path(&properties, "PrimaryConnection") else {
            return found;
        };
        let active = self.properties(&path, "org.freedesktop.NetworkManager.Connection.Active");
        let active = active.await.unwrap_or_default();
        if is_vpn {
            found.vpn = text(&active, "Id").or(kind);
        }
        if let Some(path) = self::path(&active, "Dhcp4Config") {
            let dhcp = self.properties(&path, "org.freedesktop.NetworkManager.DHCP4Config");
            found.lease = options(&mut dhcp.await.unwrap_or_default());
        }
        found
    }

    async fn properties(&self, path: &str, interface: &str) -> zbus::Result<Properties> {
        let proxy = Proxy::new(
            &self.connection,
            NAME,
            path,
            "org.freedesktop.DBus.Properties",
        );
        let flags = MethodFlags::NO_AUTO_START;
        let answer = proxy
            .await?
            .call_with_flags("GetAll", flags, &interface)
            .await?;
        Ok(answer.unwrap_or_default())
    }

    /// Waits until something has changed; false when the bus is gone.
    pub(crate) async fn changed(&mut self) -> bool {
        poll_fn(|cx| Pin::new(&mut self.changes).poll_next(cx))
            .await
            .is_some()
    }
}

/// `NMMetered`: 1 yes, 2 no, 3 and 4 the same as a guess; 0 unknown.
fn is_metered(number: u32) -> Option<bool> {
    match number {
        1 | 3 => Some(true),
        2 | 4 => Some(false),
        _ => None,
    }
}

fn number(properties: &Properties, key: &str) -> Option<u32> {
    u32::try_from(properties.get(key)?.try_clone().ok()?).ok()
}

fn text(properties: &Properties, key: &str) -> Option<String> {
    String::try_from(properties.get(key)?.try_clone().ok()?).ok()
}

/// The path of another object; `/` stands for none.
fn path(properties: &Properties, key: &str) -> Option<String> {
    let value = properties.get(key)?.try_clone().ok()?;
    let path = ObjectPath::try_from(value).ok()?;
    (path.as_str() != "/").then(|| path.as_str().to_owned())
}

fn options(dhcp: &mut Properties) -> lease::Lease {
    let options = dhcp
        .remove("Options")
        .and_then(|all| Properties::try_from(all).ok());
    let options: Vec<(String, String)> = options
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(key, value)| Some((key, String::try_from(value).ok()?)))
        .collect();
    lease::from_options(options.iter().map(|(k, v)| (k.as_str(), v.as_str())))
}
