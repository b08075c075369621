//! Turns the .proto files into Rust.

fn main() -> std::io::Result<()> {
    println!("cargo:rerun-if-changed=proto");
    // Sorted maps, so that equal records are equal bytes.
    prost_build::Config::new()
        .btree_map(["."])
        .compile_protos(&["proto/wgnet/v1/records.proto"], &["proto"])
}
