//! The gRPC contract by which batches of events are given to Forebay: `forebay.ingest.v1`.
//!
//! What it means stands in [`PROTO`] and at the messages below. The code is generated from there and committed, so that whoever
//! uses this crate compiles neither a protobuf compiler nor a build script; `tests/generated.rs` generates it anew and fails
//! where the two differ.

/// The messages, the client and the server of `forebay.ingest.v1`.
pub mod ingest {
    /// The first version.
    // The generator knows neither the lints of this crate nor its documentation's.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod v1 {
        include!("generated/forebay.ingest.v1.rs");
    }
}

/// The contract as its author wrote it, for whoever generates a client of another language.
pub const PROTO: &str = include_str!("../forebay/ingest/v1/ingest.proto");

/// The contract as a `google.protobuf.FileDescriptorSet`, what it imports included: what server reflection tells.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");
