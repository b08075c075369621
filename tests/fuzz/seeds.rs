//! `seeds DIRECTORY TARGET`: writes the target's valid inputs there, a file each.

use std::path::Path;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, target] = arguments.as_slice() else {
        panic!("usage: seeds DIRECTORY TARGET");
    };
    std::fs::create_dir_all(directory).expect("the directory can be made");
    for (number, seed) in (wgnet_fuzz::named(target).seeds)().into_iter().enumerate() {
        let file = Path::new(directory).join(format!("seed-{number:03}"));
        std::fs::write(file, seed).expect("a seed can be written");
    }
}
