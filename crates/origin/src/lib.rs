//! HTTP range client for origins and cache hosts
