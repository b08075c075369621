//! Durable local intent and state.
