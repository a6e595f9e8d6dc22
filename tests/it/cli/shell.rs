//! Commands that only print.

use std::{collections::BTreeSet, fs};

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

/// Scenario: somebody installs the pages, or reads the one of a command.
/// Guarantee: every command has a page with all its options, and no page refers to one that does not exist. There was only
/// the page of `forebay`, which named `forebay-run(1)` and the like, and no option of any command.
#[test]
fn r0262_no_page_had_the_options_of_commands() {
    let place = Place::new();
    let dir = place.file("man/man1");
    let said = run(&["man", "--dir", dir.to_str().unwrap()]).ok();
    assert!(said.contains("pages in"), "{said}");
    let text = |name: &str| fs::read_to_string(dir.join(name)).unwrap().replace('\\', "");
    let names: BTreeSet<_> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    for (name, options) in [
        ("forebay.1", &["--config", "forebay-run(1)"][..]),
        ("forebay-run.1", &["--config"]),
        ("forebay-validate.1", &["--offline", "--config"]),
        ("forebay-dead-letter.1", &["forebay-dead-letter-replay(1)"]),
        ("forebay-dead-letter-drop.1", &["--all", "--config"]),
        ("forebay-replay.1", &["--sink", "--from", "--to"]),
        ("forebay-send.1", &["--json"]),
        ("forebay-man.1", &["--dir"]),
    ] {
        assert!(names.contains(name), "{name}: {names:?}");
        options.iter().for_each(|option| assert!(text(name).contains(option), "{name}: {option}"));
    }
    for name in &names {
        let page = text(name);
        let others = page.split_whitespace().filter_map(|word| word.strip_suffix("(1)"));
        for other in others.filter(|other| other.starts_with("forebay")) {
            assert!(names.contains(&format!("{other}.1")), "{name} refers to {other}: {names:?}");
        }
    }

    let page = run(&["man", "dead-letter", "drop"]).ok();
    assert_eq!(page, fs::read_to_string(dir.join("forebay-dead-letter-drop.1")).unwrap());
    assert_eq!(run(&["man"]).ok(), fs::read_to_string(dir.join("forebay.1")).unwrap());
    let said = run(&["man", "dead-letter", "dorp"]).failed(1);
    assert!(said.contains("`forebay dead-letter` has no command \"dorp\""), "{said}");
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
