//! Commands that only print.

use std::fs;

use serde_json::Value;

use crate::support::binary::{Finished, Place, command};

fn run(arguments: &[&str]) -> Finished {
    Finished::of(command().args(arguments))
}

/// What `config defaults` prints is a configuration that is valid.
#[test]
fn the_defaults_can_be_loaded() {
    let place = Place::new();
    let text = run(&["config", "defaults"]).ok();
    for key in ["data_dir:", "max_body_bytes:", "durability:", "journal_keep:", "backoff_min:", "sinks:"] {
        assert!(text.contains(key), "{key} is missing:\n{text}");
    }
    let file = place.file("defaults.yaml");
    fs::write(&file, text).unwrap();
    let said =
        Finished::of(command().current_dir(place.file("")).args(["validate", "--offline"]).arg(&file)).ok();
    assert!(said.contains("defaults.yaml"), "{said}");
}

/// What `config schema` prints is a JSON Schema with every section in it.
#[test]
fn the_schema_is_json() {
    let schema: Value = serde_json::from_str(&run(&["config", "schema"]).ok()).unwrap();
    assert!(schema["$schema"].as_str().unwrap().contains("json-schema.org"));
    for key in ["data_dir", "http", "buffer", "batch", "retention", "limits", "sinks"] {
        assert!(schema["properties"].get(key).is_some(), "{key}");
    }
}

/// Completions and the manual page know the commands.
#[test]
fn completions_and_the_manual_print() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]).ok();
        assert!(script.contains("dead-letter") && script.contains("forebay"), "{shell}");
    }
    let page = run(&["man"]).ok();
    assert!(page.starts_with(".ie") || page.contains(".TH"), "{page}");
    assert!(page.contains("validate"), "{page}");
}

/// Arguments that make no sense get the code 2 and the nearest that would; help and version go to standard output.
#[test]
fn wrong_arguments_are_answered() {
    let said = run(&["valdate"]).failed(2);
    assert!(said.contains("validate"), "{said}");
    run(&["replay", "--sink", "up"]).failed(2);
    run(&["replay", "--sink", "up", "--from", "noon", "--to", "2026-01-01T00:00:00Z"]).failed(2);
    run(&["dead-letter", "drop", "up"]).failed(2);
    assert!(run(&["--help"]).ok().contains("dead-letter"));
    assert!(run(&["--version"]).ok().contains(env!("CARGO_PKG_VERSION")));
}
