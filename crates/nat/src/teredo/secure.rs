//! Secure qualification: what client and server prove to each other with a shared secret (RFC 4380 §5.2.2).

use crate::teredo::{Authentication, Datagram, packet::origin_bytes};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use std::{fmt, net::SocketAddrV4};

/// A client's id and the secret that it shares with its server.
#[derive(Clone)]
pub struct Secret {
    client_id: Vec<u8>,
    key: Vec<u8>,
}

impl Secret {
    /// Both as the server's administrator gave them; nothing when the id has more than 255 bytes.
    pub fn new(client_id: &[u8], key: &[u8]) -> Option<Self> {
        (client_id.len() <= 255).then(|| Self {
            client_id: client_id.to_owned(),
            key: key.to_owned(),
        })
    }

    fn mac(
        &self,
        nonce: [u8; 8],
        confirmation: u8,
        origin: Option<SocketAddrV4>,
        packet: &[u8],
    ) -> Hmac<Sha1> {
        let mut mac =
            Hmac::<Sha1>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(&nonce);
        mac.update(&[confirmation]);
        if let Some(origin) = origin {
            mac.update(&origin_bytes(origin));
        }
        mac.update(packet);
        mac
    }

    /// Appends the authentication of a message with this nonce, origin and packet.
    pub fn encode(
        &self,
        out: &mut Vec<u8>,
        nonce: [u8; 8],
        origin: Option<SocketAddrV4>,
        packet: &[u8],
    ) {
        let value = self.mac(nonce, 0, origin, packet).finalize().into_bytes();
        let authentication = Authentication {
            client_id: &self.client_id,
            value: &value,
            nonce,
            confirmation: 0,
        };
        authentication.encode(out);
    }

    /// Whether the datagram proves that its sender knows the secret.
    pub fn verifies(&self, datagram: &Datagram<'_>) -> bool {
        datagram.authentication.is_some_and(|said| {
            let mac = self.mac(
                said.nonce,
                said.confirmation,
                datagram.origin,
                datagram.packet.bytes(),
            );
            said.client_id == self.client_id && mac.verify_slice(said.value).is_ok()
        })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
