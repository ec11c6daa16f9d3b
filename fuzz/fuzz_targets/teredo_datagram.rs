//! A Teredo datagram from anybody: whatever is accepted lies inside the datagram, in the order that the format has.
#![no_main]

use dosvc_nat::teredo::{
    Datagram, Trailer,
    icmp::{RouterAdvertisement, RouterSolicitation},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(datagram) = Datagram::parse(bytes) else {
        return;
    };
    let packet = datagram.packet;
    let before = datagram
        .authentication
        .map_or(0, |said| 13 + said.client_id.len() + said.value.len())
        + datagram.origin.map_or(0, |_| 8);
    assert_eq!(
        &bytes[before..before + packet.bytes().len()],
        packet.bytes()
    );
    assert_eq!(packet.bytes().len(), 40 + packet.payload().len());

    // What we know is written so that it is read again.
    let known: Vec<_> = datagram
        .trailers
        .filter(|trailer| !matches!(trailer, Trailer::Bad(_) | Trailer::Unknown(_)))
        .collect();
    let mut again = packet.bytes().to_vec();
    known.iter().for_each(|trailer| trailer.encode(&mut again));
    let again = Datagram::parse(&again).expect("what we write can be read");
    assert_eq!(again.trailers.collect::<Vec<_>>(), known);

    // Nothing is both.
    let solicits = RouterSolicitation::parse(packet).is_some();
    assert!(!(solicits && RouterAdvertisement::parse(packet).is_some()));
});
