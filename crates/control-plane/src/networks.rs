//! Which network is in which country, as the operator says it.

use dosvc_cloud_protocol::CountryCode;
use std::{collections::HashMap, net::IpAddr};

/// The most networks of a file.
const NETWORKS_MAX: usize = 2_000_000;

/// Networks and their countries. The longest network that an address lies in counts.
///
/// The file has a line for each network: `10.1.0.0/16 DE`, and `vpn` behind it for addresses of a VPN. What stands behind
/// `#` is a comment.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Networks {
    /// By length, the longest first: networks of IPv4 as of `::ffff:0:0/96`.
    by_length: Vec<(u32, HashMap<u128, Place>)>,
}

/// What is known of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The country.
    pub country: CountryCode,
    /// Whether the address is one of a VPN's.
    pub vpn: bool,
}

impl Place {
    /// An address of which nothing is known.
    pub const UNKNOWN: Self = Self {
        country: CountryCode::UNKNOWN,
        vpn: false,
    };
}

impl Networks {
    /// Reads a file's text.
    ///
    /// # Errors
    /// The first line that is wrong, with its number.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut networks: HashMap<u32, HashMap<u128, Place>> = HashMap::new();
        let mut count = 0;
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let error = |what: &str| format!("line {}: {what}", number + 1);
            let (network, length, place) = network(line).map_err(error)?;
            count += 1;
            if count > NETWORKS_MAX {
                return Err(error("more than 2 million networks"));
            }
            networks.entry(length).or_default().insert(network, place);
        }
        let mut by_length: Vec<_> = networks.into_iter().collect();
        by_length.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        Ok(Self { by_length })
    }

    /// What is known of an address.
    pub fn place(&self, address: IpAddr) -> Place {
        let address = number(address);
        self.by_length
            .iter()
            .find_map(|(length, networks)| networks.get(&(address & mask(*length))))
            .copied()
            .unwrap_or(Place::UNKNOWN)
    }
}

fn network(line: &str) -> Result<(u128, u32, Place), &'static str> {
    let mut words = line.split_whitespace();
    let (address, bits) = words
        .next()
        .and_then(|word| word.split_once('/'))
        .ok_or("expected a network such as 10.1.0.0/16")?;
    let address: IpAddr = address
        .parse()
        .map_err(|_| "expected a network such as 10.1.0.0/16")?;
    let bits: u32 = bits.parse().map_err(|_| "the network's length is wrong")?;
    let (most, before) = if address.is_ipv4() {
        (32, 96)
    } else {
        (128, 0)
    };
    if bits > most {
        return Err("the network's length is wrong");
    }
    let length = bits + before;
    if number(address) & !mask(length) != 0 {
        return Err("the address has bits beyond the network's length");
    }
    let country = words
        .next()
        .and_then(|word| word.parse().ok())
        .ok_or("expected a country of two letters behind the network")?;
    let vpn = match words.next() {
        None => false,
        Some("vpn") => true,
        Some(_) => return Err("only vpn may stand behind the country"),
    };
    if words.next().is_some() {
        return Err("too many words");
    }
    Ok((number(address), length, Place { country, vpn }))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn mask(length: u32) -> u128 {
    u128::MAX.checked_shl(128 - length).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_network_counts() {
        let text = "10.0.0.0/8 US # all\n\n10.1.0.0/16 DE vpn\n2001:db8::/32 fr\n0.0.0.0/0 GB\n";
        let networks = Networks::parse(text).unwrap();
        let place = |address: &str| {
            let place = networks.place(address.parse().unwrap());
            (place.country.to_string(), place.vpn)
        };
        assert_eq!(place("10.1.2.3"), ("DE".to_owned(), true));
        assert_eq!(place("10.2.2.3"), ("US".to_owned(), false));
        assert_eq!(place("192.0.2.1"), ("GB".to_owned(), false));
        assert_eq!(place("2001:db8::1"), ("FR".to_owned(), false));
        assert_eq!(place("2001:db9::1"), ("ZZ".to_owned(), false));
    }

    #[test]
    fn wrong_lines_are_named() {
        for bad in [
            "10.0.0.1/8 US",
            "10.0.0.0 US",
            "10.0.0.0/33 US",
            "10.0.0.0/8",
            "10.0.0.0/8 USA",
            "10.0.0.0/8 US x",
            "10.0.0.0/8 US vpn x",
            "x/8 US",
            "::/129 US",
        ] {
            let error = Networks::parse(&format!("\n{bad}")).unwrap_err();
            assert!(error.starts_with("line 2: "), "{bad}: {error}");
        }
    }
}
