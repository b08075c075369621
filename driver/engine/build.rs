//! Generates the engine protocol's types.

fn main() -> std::io::Result<()> {
    prost_build::Config::new()
        // Requests carry private keys: a derived Debug would print them.
        .skip_debug(["."])
        .compile_protos(&["proto/engine.proto"], &["proto"])
}
