//! Requests to the control plane and its answers, from anybody: what is accepted survives being written and read.
#![no_main]

use dosvc_cloud_protocol::{
    ContentPolicy, ContentPolicyRequest, DiscoveryAnswer, DiscoveryRequest, EnrolAnswer, EnrolRequest,
    GeoAnswer, GeoRequest, JoinAnswer, JoinRequest, KeyValueAnswer, KeyValueRequest,
};
use libfuzzer_sys::fuzz_target;

macro_rules! json_survives {
    ($type:ty, $bytes:expr) => {
        if let Ok(value) = <$type>::from_json($bytes) {
            assert_eq!(<$type>::from_json(&value.to_json()).as_ref(), Ok(&value));
        }
    };
}

macro_rules! query_survives {
    ($type:ty, $text:expr) => {
        // Escaping may make it longer than a query may be.
        if let Ok(value) = <$type>::from_query($text)
            && let Ok(again) = <$type>::from_query(&value.to_query())
        {
            assert_eq!(again, value);
        }
    };
}

fuzz_target!(|bytes: &[u8]| {
    json_survives!(GeoAnswer, bytes);
    json_survives!(KeyValueAnswer, bytes);
    json_survives!(ContentPolicy, bytes);
    json_survives!(DiscoveryAnswer, bytes);
    json_survives!(JoinRequest, bytes);
    json_survives!(JoinAnswer, bytes);
    json_survives!(EnrolRequest, bytes);
    json_survives!(EnrolAnswer, bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        query_survives!(GeoRequest, text);
        query_survives!(KeyValueRequest, text);
        query_survives!(ContentPolicyRequest, text);
        query_survives!(DiscoveryRequest, text);
    }
});
