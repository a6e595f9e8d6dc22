//! Gives events to Forebay.
