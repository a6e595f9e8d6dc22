//! The generated code is what the contract says.

use std::{fs, path::Path};

use protox::{Compiler, prost::Message as _};

const CONTRACT: &str = "forebay/ingest/v1/ingest.proto";

/// Where a file is not what the contract makes of it, it is written anew with this set.
const WRITE: &str = "FOREBAY_WRITE_GENERATED";

fn check(name: &str, wanted: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/generated").join(name);
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, wanted).unwrap();
    }
    let found = fs::read(&path).unwrap_or_default();
    assert!(
        found == wanted,
        "src/generated/{name} is not what {CONTRACT} says; run {WRITE}=1 cargo test -p forebay-proto"
    );
}

/// The committed code and descriptors are generated from the committed contract.
#[test]
fn the_generated_code_is_that_of_the_contract() {
    let mut compiler = Compiler::new([env!("CARGO_MANIFEST_DIR")]).unwrap();
    compiler.include_imports(true).include_source_info(true).open_file(CONTRACT).unwrap();
    let mut descriptors = compiler.file_descriptor_set();
    let out = tempdir();
    tonic_prost_build::configure()
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .out_dir(&out)
        .compile_fds(descriptors.clone())
        .unwrap();
    let code = fs::read(out.join("forebay.ingest.v1.rs")).unwrap();
    fs::remove_dir_all(&out).unwrap();
    check("forebay.ingest.v1.rs", &code);
    // What others wrote about their own files is theirs to tell.
    for file in descriptors.file.iter_mut().filter(|file| file.name() != CONTRACT) {
        file.source_code_info = None;
    }
    check("descriptors.bin", &descriptors.encode_to_vec());
}

fn tempdir() -> std::path::PathBuf {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("generated-{}", std::process::id()));
    fs::create_dir_all(&out).unwrap();
    out
}
