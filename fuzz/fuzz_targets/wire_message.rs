//! Bytes from a peer: whatever is read as a message or extension is written back as it came.
#![no_main]

use bytes::{Bytes, BytesMut};
use dosvc_wire::{Extension, Handshake, MESSAGE_LEN_MAX, Message};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some((head, _)) = input.split_first_chunk() {
        let begins_well = Handshake::check_prefix(head).is_ok();
        let decoded = Handshake::decode(head);
        assert_eq!(begins_well, decoded.is_ok());
        if let Ok(handshake) = decoded {
            assert_eq!(&handshake.encode(), head);
        }
    }

    let mut stream = Bytes::copy_from_slice(input);
    loop {
        let before = stream.clone();
        let Ok(Some(message)) = Message::decode(&mut stream) else {
            assert!(
                stream.len() == before.len(),
                "nothing is taken without a message"
            );
            break;
        };
        let taken = before.slice(..before.len() - stream.len());
        assert!(taken.len() <= 4 + MESSAGE_LEN_MAX as usize);
        let mut written = BytesMut::new();
        message.encode(&mut written);
        assert_eq!(written, taken);
        if let Message::Extension(payload) = message
            && let Ok(Some(extension)) = Extension::decode(&payload)
        {
            let mut written = BytesMut::new();
            extension.encode(&mut written);
            assert_eq!(written, payload);
            assert_eq!(extension.encoded_len(), payload.len());
        }
    }
});
