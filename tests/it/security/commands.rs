//! `forebay token`, and what `forebay validate` says of files.

use std::{io::Write as _, process::Stdio};

use super::{Authority, bearer, pem};
use crate::support::{
    binary::{Finished, Place, command},
    http::request,
};

fn hash(token: &str) -> (Option<i32>, String, String) {
    let mut command = command();
    command.args(["token", "hash"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Scenario: somebody makes a token, and puts the entry that was printed into the configuration as it stands there.
/// Guarantee: the token is the first line, works, and has the scopes and the tenant that were asked for; its hash is what
/// `token hash` says.
#[test]
fn a_new_token_works_as_printed() {
    let mut new = command();
    new.args([
        "token",
        "new",
        "--name",
        "shop",
        "--scope",
        "ingest",
        "--scope",
        "query",
        "--tenant",
        "a: \"$x\" é",
    ]);
    let printed = Finished::of(new.args(["--expires", "2099-01-01T00:00:00Z"])).ok();
    let (token, entry) = printed.split_once('\n').unwrap();
    assert!(token.starts_with("fby_") && token.len() == 47, "{token}");
    assert!(!entry.contains(&token[4..]), "{entry}");
    let place = Place::new().section("auth:\n  tokens:").section(entry);
    let forebay = place.start();
    let (bearer, id) = (bearer(token), "of-the-new-token");
    let headers = [("Content-Type", "application/json"), ("Authorization", bearer.as_str())];
    let event = format!(r#"{{"service":"s","message":"m","event_id":"{id}"}}"#);
    request(forebay.address, "POST", "/events", &headers, event.as_bytes()).unwrap().ok(202);
    let target = format!("/events/{id}");
    let stored = crate::support::eventually("it is stored", || {
        let answer = request(forebay.address, "GET", &target, &headers, b"").unwrap();
        (answer.status == 200).then(|| answer.json())
    });
    assert_eq!(stored["metadata"]["tenant"], "a: \"$x\" é");
    let (code, stdout, _) = hash(&format!("{token}\n"));
    assert_eq!(code, Some(0));
    assert!(entry.contains(stdout.trim()), "{stdout}");
}

/// Secrets that can be guessed are refused, without being repeated; so are names and times that cannot be used.
#[test]
fn what_is_no_token_is_refused() {
    for wrong in ["", "hunter2hunter2", "a password with spaces in it"] {
        let (code, stdout, stderr) = hash(wrong);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        assert!(stderr.contains("this is no token"), "{stderr}");
        assert!(wrong.is_empty() || !stderr.contains(wrong), "{stderr}");
    }
    let new = |arguments: &[&str]| Finished::of(command().args(["token", "new"]).args(arguments));
    assert!(new(&["--name", "a b"]).failed(1).contains("is not usable as a name"));
    assert!(new(&["--expires", "tomorrow"]).failed(1).contains("--expires"));
    assert!(new(&["--scope", "everything"]).failed(2).contains("ingest, relay, query, metrics, admin"));
}

/// `validate` and the start say which file is wrong, by its key, and a process that cannot be protected does not start.
#[test]
fn wrong_files_are_refused_at_the_start() {
    let authority = Authority::new();
    let (one, two) = (authority.identity("one"), authority.identity("two"));
    let place = super::place(&one, "");
    place.write();
    assert!(place.run(&["validate", "--offline"]).ok().contains("tls and auth: their files can be used"));
    super::file(&place, "server.key", &pem("PRIVATE KEY", &two.key));
    for arguments in [&["validate", "--offline"][..], &["run"]] {
        let said = place.run(arguments).failed(1);
        assert!(
            said.contains("tls.key_file: server.key: it is not the key of the certificate in server.pem"),
            "{said}"
        );
    }
    std::fs::remove_file(place.file("server.pem")).unwrap();
    assert!(place.run(&["run"]).failed(1).contains("tls.cert_file: server.pem: No such file"));
    let (_, entry) = super::token("a", "ingest", "");
    let place = Place::new().section(&super::auth(&[&entry], ", tokens_file: tokens.yaml"));
    place.write();
    assert!(place.run(&["run"]).failed(1).contains("auth.tokens_file: tokens.yaml: No such file"));
    super::file(&place, "tokens.yaml", &format!("tokens: [{entry}]"));
    let twice = place.run(&["run"]).failed(1);
    assert!(twice.contains("the name of the token \"a\" is that of another in auth.tokens too"), "{twice}");
    super::file(&place, "tokens.yaml", "tokens:\n  - {name: b, scopes: [ingest]}\n");
    assert!(place.run(&["validate"]).failed(1).contains("tokens.yaml:2: tokens.0.hash: is missing"));
}
