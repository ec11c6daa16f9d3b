//! The name that one content is asked by.

use dosvc_content::{GroupHash, HashOfHashes};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// Separates this use of SHA-256 from every other.
const DOMAIN: &[u8] = b"dosvc dns-sd";

/// The first 16 bytes of SHA-256(`dosvc dns-sd`, group hash if any, hash of hashes). Who does not know a content
/// cannot name it, who does not know the group cannot ask in it; the lengths of the inputs keep the two apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Label([u8; 16]);

impl Label {
    pub(crate) fn of(content: &HashOfHashes, group: Option<&GroupHash>) -> Self {
        let mut sha = Sha256::new();
        sha.update(DOMAIN);
        if let Some(group) = group {
            sha.update(group.as_bytes());
        }
        sha.update(content.as_bytes());
        let digest: [u8; 32] = sha.finalize().into();
        let mut label = [0; 16];
        label.copy_from_slice(&digest[..16]);
        Self(label)
    }

    /// The subtype's DNS label: `_` and 32 hex digits.
    pub(crate) fn to_text(self) -> String {
        format!("{self:?}")
    }

    /// Reads [`Self::to_text`] in any case.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let digits = text.strip_prefix(b"_")?;
        if digits.len() != 32 {
            return None;
        }
        let mut label = [0; 16];
        for (out, pair) in label.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |b: u8| {
                char::from(b)
                    .to_digit(16)
                    .and_then(|d| u8::try_from(d).ok())
            };
            *out = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(label))
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("_")?;
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dosvc_content::GroupId;

    #[test]
    fn labels_are_as_specified() {
        // Worked out with another implementation of SHA-256.
        let content = HashOfHashes::from([1; 32]);
        let plain = Label::of(&content, None);
        assert_eq!(plain.to_text(), "_b53417cd39daef234b33eb32bc9ace1e");
        let group = "contoso.example".parse::<GroupId>().unwrap().hash();
        let grouped = Label::of(&content, Some(&group));
        assert_eq!(grouped.to_text(), "_4393e8eb49ccfd6552bdda2067966a89");
    }

    #[test]
    fn text_reads_back_in_any_case_and_nothing_else_is_read() {
        let label = Label::of(&HashOfHashes::from([7; 32]), None);
        let text = label.to_text();
        assert_eq!(Label::parse(text.as_bytes()), Some(label));
        assert_eq!(Label::parse(text.to_uppercase().as_bytes()), Some(label));
        for bad in [
            "",
            "_",
            &text[1..],
            &text[..32],
            &format!("{text}0"),
            "_zz345678901234567890123456789012",
        ] {
            assert_eq!(Label::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
