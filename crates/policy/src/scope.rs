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
    /// The fleet's array says that it has our external address: it is behind the same NAT, in whichever subnet.
    pub behind_same_nat: bool,
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

/// Why a peer is outside the scope.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OutOfScope {
    /// The mode has no peers.
    #[error("download mode {0} has no peers")]
    Mode(DownloadMode),
    /// Mode 2, and it has not proven the group.
    #[error("it is not of this group (download mode 2)")]
    Group,
    /// Mode 1, and it is beyond the LAN.
    #[error("it is in none of this machine's subnets, and no array has named it (download mode 1)")]
    NotInLan,
    /// `restrict_peer_selection_by` = 1.
    #[error("it is in none of this machine's subnets (restrict_peer_selection_by = 1)")]
    NotInSubnet,
    /// `restrict_peer_selection_by` = 2.
    #[error("it was not found by DNS-SD on the link (restrict_peer_selection_by = 2)")]
    NotDiscovered,
}

/// What a peer is in this mode.
///
/// "LAN" is an address in a subnet of one of our interfaces, or loopback to loopback, or, for who asks an array, the same
/// external address (download-modes, section 2.2); the restrictions know the former two only. In mode 2 every peer must
/// have proven the group, those on the LAN too; their bytes count as LAN bytes all the same (download-modes,
/// section 2.3). A restriction narrows all three peer modes; an address that DNS-SD announces off the link is not
/// believed.
///
/// # Errors
/// Outside the scope, with the rule that says so: such a peer gets nothing.
pub fn peer_class(
    mode: DownloadMode,
    facts: RemoteFacts,
    restrict: PeerRestriction,
) -> Result<PeerClass, OutOfScope> {
    let near = facts.on_link || facts.loopback;
    let far = match mode {
        DownloadMode::Lan => Err(OutOfScope::NotInLan),
        DownloadMode::Group if facts.group_proven => Ok(PeerClass::Group),
        DownloadMode::Group => return Err(OutOfScope::Group),
        DownloadMode::Internet => Ok(PeerClass::Internet),
        DownloadMode::CdnOnly | DownloadMode::Simple | DownloadMode::Bypass => {
            return Err(OutOfScope::Mode(mode));
        }
    };
    match restrict {
        PeerRestriction::LocalDiscovery if !facts.link_local_discovered => {
            Err(OutOfScope::NotDiscovered)
        }
        PeerRestriction::None if !near && facts.behind_same_nat => Ok(PeerClass::Lan),
        PeerRestriction::None if !near => far,
        _ if !near => far.and(Err(OutOfScope::NotInSubnet)),
        _ if facts.link_local_discovered => Ok(PeerClass::LinkLocal),
        _ => Ok(PeerClass::Lan),
    }
}

#[cfg(test)]
mod tests;
