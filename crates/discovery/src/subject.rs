//! The names that this crate asks for and answers to:
//!
//! | name | record | says |
//! |---|---|---|
//! | `_<32 hex>._sub._dosvc._tcp.local.` | PTR | a holder of one content ([`Label`]) |
//! | `_dosvc._tcp.local.` | PTR | a machine that runs the service |
//! | `_services._dns-sd._udp.local.` | PTR | that the service is there (RFC 6763, section 9) |
//! | `<peer id, 40 hex>._dosvc._tcp.local.` | SRV, TXT | one machine's instance |
//! | `<peer id, 40 hex>.local.` | A, AAAA | the machine's addresses on the link |
//!
//! Instance and host are named by the peer id, 122 random bits: nobody else can have the name, so RFC 6762's
//! probing, a second of silence before the first answer, is left out.

use crate::label::Label;
use dosvc_content::PeerId;
use hickory_proto::rr::{Name, RecordType};

/// What a question asks for, or a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Content(Label),
    Service,
    ServiceTypes,
    Instance(PeerId),
    Host(PeerId),
}

impl Subject {
    /// What a DNS name stands for; `None` for every other name. DNS names are equal in any case.
    pub(crate) fn of(name: &Name) -> Option<Self> {
        let mut labels: [&[u8]; 5] = [b""; 5];
        let mut count = 0;
        for label in name.iter() {
            *labels.get_mut(count)? = label;
            count += 1;
        }
        let is = |label: &[u8], text: &str| label.eq_ignore_ascii_case(text.as_bytes());
        let labels = match &labels[..count] {
            [rest @ .., local] if is(local, "local") => rest,
            _ => return None,
        };
        match labels {
            [host] => peer(host).map(Self::Host),
            [label, sub, service, tcp]
                if is(sub, "_sub") && is(service, "_dosvc") && is(tcp, "_tcp") =>
            {
                Label::parse(label).map(Self::Content)
            }
            [services, dns_sd, udp]
                if is(services, "_services") && is(dns_sd, "_dns-sd") && is(udp, "_udp") =>
            {
                Some(Self::ServiceTypes)
            }
            [instance, service, tcp] if is(service, "_dosvc") && is(tcp, "_tcp") => {
                peer(instance).map(Self::Instance)
            }
            [service, tcp] if is(service, "_dosvc") && is(tcp, "_tcp") => Some(Self::Service),
            _ => None,
        }
    }

    /// The DNS name.
    pub(crate) fn name(&self) -> Name {
        let service = ["_dosvc", "_tcp", "local"];
        let labels: Vec<String> = match self {
            Self::Content(label) => [label.to_text(), "_sub".to_owned()]
                .into_iter()
                .chain(service.map(str::to_owned))
                .collect(),
            Self::Service => service.map(str::to_owned).into(),
            Self::ServiceTypes => ["_services", "_dns-sd", "_udp", "local"]
                .map(str::to_owned)
                .into(),
            Self::Instance(peer) => [peer.to_string()]
                .into_iter()
                .chain(service.map(str::to_owned))
                .collect(),
            Self::Host(peer) => vec![peer.to_string(), "local".to_owned()],
        };
        Name::from_labels(labels.iter().map(|label| label.as_bytes()))
            .expect("labels of at most 40 bytes, five at most")
    }

    /// Whether records of this type exist under the name.
    pub(crate) fn has(&self, record_type: RecordType) -> bool {
        record_type == RecordType::ANY
            || match self {
                Self::Content(_) | Self::Service | Self::ServiceTypes => {
                    record_type == RecordType::PTR
                }
                Self::Instance(_) => matches!(record_type, RecordType::SRV | RecordType::TXT),
                Self::Host(_) => matches!(record_type, RecordType::A | RecordType::AAAA),
            }
    }

    /// Whether other machines have records of this name too, so that answers must not come all at once.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Self::Content(_) | Self::Service | Self::ServiceTypes)
    }
}

fn peer(label: &[u8]) -> Option<PeerId> {
    std::str::from_utf8(label).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dosvc_content::HashOfHashes;

    #[test]
    fn names_are_as_specified_and_read_back_in_any_case() {
        let peer = PeerId::from_random([0xab; 16]);
        let label = Label::of(&HashOfHashes::from([1; 32]), None);
        for (subject, name) in [
            (
                Subject::Content(label),
                "_b53417cd39daef234b33eb32bc9ace1e._sub._dosvc._tcp.local.",
            ),
            (Subject::Service, "_dosvc._tcp.local."),
            (Subject::ServiceTypes, "_services._dns-sd._udp.local."),
            (
                Subject::Instance(peer),
                "abababababab4bababababababababab00000000._dosvc._tcp.local.",
            ),
            (
                Subject::Host(peer),
                "abababababab4bababababababababab00000000.local.",
            ),
        ] {
            assert_eq!(subject.name().to_ascii(), name);
            assert_eq!(Subject::of(&subject.name()), Some(subject));
            let upper = Name::from_ascii(name.to_uppercase()).unwrap();
            assert_eq!(Subject::of(&upper), Some(subject), "{upper}");
        }
    }

    #[test]
    fn other_names_stand_for_nothing() {
        for name in [
            ".",
            "local.",
            "printer.local.",
            "_dosvc._udp.local.",
            "_dosvc._tcp.example.",
            "x._dosvc._tcp.local.",
            "_00._sub._dosvc._tcp.local.",
            "a.b.c.d.e.f.local.",
            "_b53417cd39daef234b33eb32bc9ace1e._sub._http._tcp.local.",
        ] {
            assert_eq!(
                Subject::of(&Name::from_ascii(name).unwrap()),
                None,
                "{name}"
            );
        }
    }
}
