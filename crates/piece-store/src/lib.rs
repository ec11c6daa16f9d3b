//! Verified pieces on disk
