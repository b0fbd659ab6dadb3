//! Compiles the library that `pktalloc record` preloads (`src/recorder`), for the Python package on Linux. Without the feature
//! `python` this does nothing.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/recorder/lib.rs");
    println!("cargo::rustc-check-cfg=cfg(pktalloc_recorder)");
    let is_linux = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux");
    if env::var_os("CARGO_FEATURE_PYTHON").is_none() || !is_linux {
        return;
    }
    let variable = |name: &str| env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    let library = Path::new(&variable("OUT_DIR")).join("libpktalloc_record.so");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc
        .args(["--crate-type", "cdylib", "--crate-name", "pktalloc_record", "--edition", "2024"])
        .args(["-C", "opt-level=3", "-C", "panic=abort", "-C", "strip=symbols", "-C", "codegen-units=1"])
        // A cdylib needs a dynamic C library, which musl's targets do not link by default.
        .args(["-C", "target-feature=-crt-static"])
        .arg("--target")
        .arg(variable("TARGET"))
        .arg("-o")
        .arg(&library)
        .arg("src/recorder/lib.rs");
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("linker=");
        option.push(linker);
        rustc.arg("-C").arg(option);
    }
    let status = rustc.status().unwrap_or_else(|error| panic!("{}: {error}", variable("RUSTC").display()));
    assert!(status.success(), "src/recorder/lib.rs does not compile");
    println!("cargo::rustc-cfg=pktalloc_recorder");
    println!("cargo::rustc-env=PKTALLOC_RECORDER={}", library.display());
}
