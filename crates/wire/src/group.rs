//! What members of a group prove to each other, and the proof that a peer knows the group's id, without saying it; the
//! stronger proofs are in [`member`](crate::member).
//!
//! HMAC-SHA256 keyed with the group's hash, over a label, the swarm, both peer ids and both nonces. The
//! verifier's nonce makes an old proof worthless, the ids and their order make a reflected one worthless. Two limits are
//! inherent: who relays a whole connection between two members relays their proofs too, and a group id that
//! can be guessed (a domain's name) can be tried against a recorded proof; a random GUID cannot.

use dosvc_content::{GroupHash, HashOfHashes, PeerId};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::fmt;

const LABEL: &[u8] = b"dosvc group proof 1\0";
/// Makes a group's key of its secret.
const SECRET_LABEL: &[u8] = b"dosvc group secret 1\0";

/// What a group's members must prove to each other. A weaker proof than the one that is demanded does not count, nor
/// does another: a fleet that mixes them falls apart instead of opening up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Demand {
    /// They know the group's id.
    Id,
    /// They know the group's secret.
    Secret,
    /// They have a certificate of the group's authority, and the key in it.
    Certificate,
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Id => "id",
            Self::Secret => "secret",
            Self::Certificate => "certificate",
        })
    }
}

/// A group as its members know it: what they prove, and with which key. Two that differ have no member in common.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct GroupKey {
    group: GroupHash,
    demand: Demand,
    key: [u8; 32],
}

impl GroupKey {
    /// A group whose members know its id, and have certificates if that is demanded.
    pub fn of_id(group: GroupHash, demand: Demand) -> Self {
        Self {
            group,
            demand,
            key: *group.as_bytes(),
        }
    }

    /// A group whose members know this secret, too.
    pub fn of_secret(group: GroupHash, demand: Demand, secret: &[u8]) -> Self {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
        mac.update(SECRET_LABEL);
        mac.update(group.as_bytes());
        Self {
            group,
            demand,
            key: mac.finalize().into_bytes().into(),
        }
    }

    /// The group.
    pub fn group(&self) -> &GroupHash {
        &self.group
    }

    /// What its members prove.
    pub fn demand(&self) -> Demand {
        self.demand
    }

    /// What only those know who know as much as a member does without a certificate: the group's hash where there is no
    /// secret.
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }
}

impl fmt::Debug for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupKey({})", self.demand)
    }
}

/// What `prover` sends to `verifier` to show that it knows the group.
///
/// The nonces are those of the two [`Extension::Hello`](crate::Extension::Hello) messages of this connection.
pub fn group_proof(
    group: &GroupHash,
    swarm: &HashOfHashes,
    prover: &PeerId,
    verifier: &PeerId,
    verifier_nonce: &[u8; 16],
    prover_nonce: &[u8; 16],
) -> [u8; 32] {
    transcript(group, swarm, prover, verifier, verifier_nonce, prover_nonce)
        .finalize()
        .into_bytes()
        .into()
}

/// Whether `proof` is what [`group_proof`] gives for the same arguments; takes the same time for every wrong
/// proof.
pub fn verify_group_proof(
    proof: &[u8; 32],
    group: &GroupHash,
    swarm: &HashOfHashes,
    prover: &PeerId,
    verifier: &PeerId,
    verifier_nonce: &[u8; 16],
    prover_nonce: &[u8; 16],
) -> bool {
    transcript(group, swarm, prover, verifier, verifier_nonce, prover_nonce)
        .verify_slice(proof)
        .is_ok()
}

fn transcript(
    group: &GroupHash,
    swarm: &HashOfHashes,
    prover: &PeerId,
    verifier: &PeerId,
    verifier_nonce: &[u8; 16],
    prover_nonce: &[u8; 16],
) -> Hmac<Sha256> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(group.as_bytes()).expect("HMAC takes a key of any length");
    // Every part has a fixed size, so no two transcripts run into one another.
    mac.update(LABEL);
    mac.update(swarm.as_bytes());
    mac.update(prover.as_bytes());
    mac.update(verifier.as_bytes());
    mac.update(verifier_nonce);
    mac.update(prover_nonce);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use dosvc_content::GroupId;

    const IDS: [[u8; 20]; 3] = [[1; 20], [2; 20], [3; 20]];

    #[test]
    fn a_proof_holds_only_for_its_own_transcript() {
        let group = "group a".parse::<GroupId>().unwrap().hash();
        let other = "group b".parse::<GroupId>().unwrap().hash();
        let (s, t) = ([1; 32].into(), [2; 32].into());
        let (n, m) = ([3; 16], [4; 16]);
        let [a, b, c] = IDS.map(PeerId::from);
        let proof = group_proof(&group, &s, &a, &b, &n, &m);
        let holds = |g, s, p, v, vn, pn| verify_group_proof(&proof, g, s, p, v, vn, pn);
        assert!(holds(&group, &s, &a, &b, &n, &m));
        assert!(!holds(&other, &s, &a, &b, &n, &m));
        assert!(!holds(&group, &t, &a, &b, &n, &m));
        assert!(!holds(&group, &s, &b, &a, &n, &m));
        assert!(!holds(&group, &s, &a, &c, &n, &m));
        assert!(!holds(&group, &s, &a, &b, &m, &n));
        assert!(!holds(&group, &s, &a, &b, &n, &n));
    }
}
