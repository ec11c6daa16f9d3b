//! Which group this machine is of (policies, section 2.3; download-modes, section 3).

use crate::{GroupIdSource, Policies};
use dosvc_content::GroupId;
use std::fmt;

/// What the machine knows that can name its group. What is not known is `None`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GroupFacts {
    /// The Active Directory site.
    pub ad_site: Option<String>,
    /// The SID of the domain that the machine is joined to.
    pub domain_sid: Option<String>,
    /// DHCP option 234, as text.
    pub dhcp_option: Option<String>,
    /// The connection's DNS suffix.
    pub dns_suffix: Option<String>,
    /// The Entra tenant's id.
    pub tenant_id: Option<String>,
}

/// Where a group's id came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GroupFrom {
    /// `group_id`.
    Configured,
    /// A source; never [`GroupIdSource::Automatic`].
    Source(GroupIdSource),
}

impl fmt::Display for GroupFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Configured => "group_id",
            Self::Source(GroupIdSource::Automatic) => "automatic order",
            Self::Source(GroupIdSource::AdSite) => "AD site",
            Self::Source(GroupIdSource::DomainSid) => "domain SID",
            Self::Source(GroupIdSource::DhcpOption) => "DHCP option 234",
            Self::Source(GroupIdSource::DnsSuffix) => "DNS suffix",
            Self::Source(GroupIdSource::TenantId) => "Entra tenant id",
        })
    }
}

/// A group's id, and where it came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResolvedGroup {
    /// The id.
    pub id: GroupId,
    /// Its source.
    pub from: GroupFrom,
}

/// The order when nobody says which source to use.
const AUTOMATIC: [GroupIdSource; 3] = [
    GroupIdSource::AdSite,
    GroupIdSource::DomainSid,
    GroupIdSource::TenantId,
];

/// The group's id: `group_id` if it is set, else what `group_id_source` names, else the automatic order (AD site,
/// domain SID, tenant id). Sources 3 and 4 give way to the automatic order when they have nothing; the others do not.
pub fn resolve_group(policies: &Policies, facts: &GroupFacts) -> Option<ResolvedGroup> {
    if let Some(id) = policies.group_id() {
        return Some(ResolvedGroup {
            id: id.clone(),
            from: GroupFrom::Configured,
        });
    }
    let from_source = |source| {
        let id = facts.id_of(source)?;
        let from = GroupFrom::Source(source);
        Some(ResolvedGroup { id, from })
    };
    let automatic = || AUTOMATIC.into_iter().find_map(from_source);
    match policies.group_id_source() {
        GroupIdSource::Automatic => automatic(),
        source @ (GroupIdSource::DhcpOption | GroupIdSource::DnsSuffix) => {
            from_source(source).or_else(automatic)
        }
        source => from_source(source),
    }
}

impl GroupFacts {
    /// The id that a source gives. A GUID where the source is one; of a DNS suffix the letters' case and a dot at the
    /// end do not count, as in DNS itself.
    fn id_of(&self, source: GroupIdSource) -> Option<GroupId> {
        let text = match source {
            GroupIdSource::Automatic => None,
            GroupIdSource::AdSite => self.ad_site.clone(),
            GroupIdSource::DomainSid => self.domain_sid.clone(),
            GroupIdSource::DhcpOption => guid(self.dhcp_option.as_deref()),
            GroupIdSource::DnsSuffix => {
                let suffix = self.dns_suffix.as_deref();
                suffix.map(|name| name.trim().trim_end_matches('.').to_ascii_lowercase())
            }
            GroupIdSource::TenantId => guid(self.tenant_id.as_deref()),
        };
        text?.trim().parse().ok()
    }
}

fn guid(text: Option<&str>) -> Option<String> {
    // A DHCP server may send the text with a NUL at its end (download-modes, section 3).
    let text = text?.trim_end_matches('\0').trim();
    GroupId::is_guid(text).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Provider, RawValue};

    const GUID: &str = "b3b1c2d4-5e6f-4a7b-8c9d-0e1f2a3b4c5d";
    const TENANT: &str = "00000000-0000-0000-0000-000000000005";

    /// All five facts, named by the letters of `known`: s(ite), S(ID), d(HCP), n(ame), t(enant).
    fn facts(known: &str) -> GroupFacts {
        let fact = |letter, text: &str| known.contains(letter).then(|| text.to_owned());
        GroupFacts {
            ad_site: fact('s', "Berlin"),
            domain_sid: fact('S', "S-1-5-21-1-2-3"),
            dhcp_option: fact('d', GUID),
            dns_suffix: fact('n', "Office.Example.COM."),
            tenant_id: fact('t', TENANT),
        }
    }

    fn resolve(source: i64, facts: &GroupFacts) -> Option<(String, GroupFrom)> {
        let mut policies = Policies::default();
        let source = RawValue::Integer(source);
        policies
            .set("group_id_source", &source, &Provider::Command)
            .unwrap();
        resolve_group(&policies, facts).map(|group| (group.id.as_str().to_owned(), group.from))
    }

    /// Source, known facts, id and where it is from.
    #[test]
    fn sources_are_used_in_their_order() {
        use GroupIdSource::{AdSite, DhcpOption, DnsSuffix, DomainSid, TenantId};
        let table = [
            (0, "", None),
            (0, "sSdnt", Some(("Berlin", AdSite))),
            (0, "Sdnt", Some(("S-1-5-21-1-2-3", DomainSid))),
            (0, "dnt", Some((TENANT, TenantId))),
            // DHCP and DNS are no part of the automatic order.
            (0, "dn", None),
            (1, "sSdnt", Some(("Berlin", AdSite))),
            (1, "Sdnt", None),
            (2, "sSdnt", Some(("S-1-5-21-1-2-3", DomainSid))),
            (2, "sdnt", None),
            (3, "sSdnt", Some((GUID, DhcpOption))),
            (3, "sSnt", Some(("Berlin", AdSite))),
            (3, "nt", Some((TENANT, TenantId))),
            (3, "n", None),
            (4, "sSdnt", Some(("office.example.com", DnsSuffix))),
            (4, "sSdt", Some(("Berlin", AdSite))),
            (4, "St", Some(("S-1-5-21-1-2-3", DomainSid))),
            (4, "d", None),
            (5, "sSdnt", Some((TENANT, TenantId))),
            (5, "sSdn", None),
        ];
        for (source, known, expected) in table {
            let expected = expected.map(|(id, from)| (id.to_owned(), GroupFrom::Source(from)));
            assert_eq!(
                resolve(source, &facts(known)),
                expected,
                "source {source}, {known:?}"
            );
        }
    }

    #[test]
    fn configured_id_wins_over_every_source() {
        let mut policies = Policies::default();
        let id = RawValue::Text(GUID.to_uppercase());
        policies.set("group_id", &id, &Provider::Command).unwrap();
        for source in 0..=5 {
            let source = RawValue::Integer(source);
            policies
                .set("group_id_source", &source, &Provider::Command)
                .unwrap();
            let group = resolve_group(&policies, &facts("sSdnt")).unwrap();
            // Exactly as configured: the case counts for the hash.
            assert_eq!(
                (group.id.as_str(), group.from),
                (&*GUID.to_uppercase(), GroupFrom::Configured)
            );
        }
    }

    #[test]
    fn what_is_no_guid_counts_as_nothing_where_a_guid_is_wanted() {
        let with = |dhcp: &str, tenant: &str| GroupFacts {
            dhcp_option: Some(dhcp.to_owned()),
            tenant_id: Some(tenant.to_owned()),
            ..GroupFacts::default()
        };
        assert_eq!(resolve(3, &with("berlin", "")), None);
        assert_eq!(resolve(5, &with("", "contoso")), None);
        let ended = resolve(3, &with(&format!("{GUID}\0"), ""));
        assert_eq!(ended.unwrap().0, GUID);
    }

    #[test]
    fn empty_and_endless_texts_are_no_group() {
        for text in ["", ".", "  ", &"x".repeat(5000), "a\nb"] {
            let facts = GroupFacts {
                dns_suffix: Some(text.to_owned()),
                ..GroupFacts::default()
            };
            assert_eq!(resolve(4, &facts), None, "{text:?}");
        }
    }
}
