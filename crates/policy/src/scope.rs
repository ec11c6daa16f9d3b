//! Which peers are inside a mode's scope. A peer outside gets nothing, not even the fact that we hold a content.

use crate::PeerRestriction;
use dosvc_content::DownloadMode;

/// What is known about the other end of a connection, or about an address before it is dialled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RemoteFacts {
    /// Its address lies in a subnet of one of our interfaces (link-local addresses do).
    pub on_link: bool,
    /// It was found by DNS-SD on the link; or, for a connection that it opened, we announce by DNS-SD and it is on
    /// the link, which is how it can have found us.
    pub link_local_discovered: bool,
    /// It proved to know our group's id.
    pub group_proven: bool,
    /// Both ends are loopback addresses.
    pub loopback: bool,
}

/// The kind of a peer: what its bytes are counted as.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum PeerClass {
    /// On the LAN.
    Lan,
    /// On the LAN and found by DNS-SD.
    LinkLocal,
    /// Of our group, elsewhere.
    Group,
    /// Anywhere.
    Internet,
}

impl PeerClass {
    /// Every class.
    pub const ALL: [Self; 4] = [Self::Lan, Self::LinkLocal, Self::Group, Self::Internet];

    /// Whether such peers are beyond the LAN.
    pub fn is_distant(self) -> bool {
        matches!(self, Self::Group | Self::Internet)
    }

    /// The name that the cmdlets use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lan => "Lan",
            Self::LinkLocal => "LinkLocal",
            Self::Group => "Group",
            Self::Internet => "Internet",
        }
    }

    /// The number of Get-DeliveryOptimizationStatus -PeerInfo (monitoring, section 1).
    pub fn number(self) -> u8 {
        match self {
            Self::Lan => 1,
            Self::Internet => 3,
            Self::Group => 4,
            Self::LinkLocal => 7,
        }
    }
}

/// What a peer is in this mode; `None`: outside the scope, it gets nothing.
///
/// "LAN" is an address in a subnet of one of our interfaces, or loopback to loopback. In mode 2 every peer must
/// have proven the group, those on the LAN too; their bytes count as LAN bytes all the same (download-modes,
/// section 2.3). A restriction narrows all three peer modes; an address that DNS-SD announces off the link is not
/// believed.
pub fn peer_class(
    mode: DownloadMode,
    facts: RemoteFacts,
    restrict: PeerRestriction,
) -> Option<PeerClass> {
    let near = facts.on_link || facts.loopback;
    let far = match mode {
        DownloadMode::Lan => None,
        DownloadMode::Group if facts.group_proven => Some(PeerClass::Group),
        DownloadMode::Internet => Some(PeerClass::Internet),
        DownloadMode::Group
        | DownloadMode::CdnOnly
        | DownloadMode::Simple
        | DownloadMode::Bypass => return None,
    };
    match restrict {
        PeerRestriction::None if !near => far,
        PeerRestriction::LocalDiscovery if !facts.link_local_discovered => None,
        _ if !near => None,
        _ if facts.link_local_discovered => Some(PeerClass::LinkLocal),
        _ => Some(PeerClass::Lan),
    }
}

#[cfg(test)]
mod tests;
