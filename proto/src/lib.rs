//! The gRPC contract by which batches of events are given to Forebay.
