//! Tokens and `join`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use agent::identity::{
    CollectorIdentity, EnrolAnswer, EnrolRequest, IdentityError, JoinError, KeyId, Token, join,
};
use agent::tunnel::frame::{Reason, VERSION};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{Collector, Host, Outcome};

fn refused(result: Result<agent::identity::Joined, JoinError>) -> (Reason, String) {
    match result {
        Err(JoinError::Refused { reason, text }) => (reason, text),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_token_lets_one_host_in() {
    let collector = Collector::start();
    let (first, second) = (Host::new(), Host::new());
    let token = collector.token();
    let joined = first.join(&token).unwrap();
    assert_eq!(joined.name, "web1");
    assert_eq!(joined.pin, collector.identity.pin());
    assert_eq!(collector.outcome(), Outcome::Enrolment(Ok("web1".into())));
    let (reason, text) = refused(second.join(&token));
    assert_eq!(reason, Reason::TokenUsed);
    assert!(text.contains("used already"), "{text}");
    assert_eq!(
        collector.outcome(),
        Outcome::Enrolment(Err(Reason::TokenUsed))
    );
    let again = first.join(&collector.token());
    assert!(
        matches!(again, Err(JoinError::AlreadyJoined { .. })),
        "{again:?}"
    );
    join(first.state.path(), &collector.token().encode(), true).unwrap();
    assert_eq!(collector.outcome(), Outcome::Enrolment(Ok("web1".into())));
    // The token says that it replaces web1: the old key is out.
    let agents = collector.administration().agents().unwrap();
    let revoked: Vec<bool> = agents.iter().map(|agent| agent.revoked.is_some()).collect();
    assert_eq!(revoked, [true, false]);
}

#[test]
fn of_many_that_come_with_one_token_one_gets_in() {
    let collector = Collector::start();
    let token = collector.token();
    let hosts: Vec<Host> = (0..6).map(|_| Host::new()).collect();
    let results: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = hosts
            .iter()
            .map(|host| scope.spawn(|| host.join(&token)))
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let (joined, others): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(joined.len(), 1);
    for other in others {
        assert_eq!(refused(other).0, Reason::TokenUsed);
    }
    assert_eq!(collector.administration().agents().unwrap().len(), 1);
    let refusals = collector.identity.refusals().snapshot();
    assert_eq!(refusals.get(&Reason::TokenUsed), Some(&5));
}

#[test]
fn expired_and_unknown_tokens_are_told_apart() {
    let collector = Collector::start();
    let token = collector.token();
    collector.clock.advance(901);
    let (reason, text) = refused(Host::new().join(&token));
    assert_eq!(reason, Reason::TokenExpired);
    assert!(text.contains("has run out"), "{text}");
    for wrong in [
        Token {
            id: [0; 8],
            ..token.clone()
        },
        Token {
            secret: [0; 16],
            ..token
        },
    ] {
        let (reason, text) = refused(Host::new().join(&wrong));
        assert_eq!(reason, Reason::TokenUnknown);
        assert!(text.contains("unknown here"), "{text}");
    }
    let refusals = collector.identity.refusals().snapshot();
    assert_eq!(refusals.get(&Reason::TokenExpired), Some(&1));
    assert_eq!(refusals.get(&Reason::TokenUnknown), Some(&2));
}

#[test]
fn a_collector_with_another_key_hears_nothing() {
    let (collector, host) = (Collector::start(), Host::new());
    let token = Token {
        pin: KeyId([0; 32]),
        ..collector.token()
    };
    let result = host.join(&token);
    let Err(error @ JoinError::WrongCollector { .. }) = result else {
        panic!("joined: {result:?}")
    };
    let text = error.to_string();
    assert!(
        text.contains(&collector.identity.pin().to_string()),
        "{text}"
    );
    assert!(text.contains("Nothing was sent"), "{text}");
    assert_eq!(collector.outcome(), Outcome::NoHandshake);
}

#[test]
fn a_collector_that_is_not_there_is_said_to_be() {
    let (collector, host) = (Collector::start(), Host::new());
    let token = collector.token();
    drop(collector);
    let error = host.join(&token).unwrap_err();
    assert!(matches!(error, JoinError::Unreachable(_)), "{error:?}");
    assert!(error.to_string().contains("sslcollector -C"), "{error}");
}

#[test]
fn keys_are_private() {
    let collector = Collector::start();
    let host = collector.host();
    let walk = |root: &Path, dir: &str| {
        let dir = root.join(dir);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    };
    walk(host.state.path(), "joined");
    walk(collector.state.path(), "collector");
    let key = collector.state.path().join("collector/authority.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = CollectorIdentity::load(collector.state.path()).unwrap_err();
    assert!(matches!(error, IdentityError::Exposed { .. }), "{error}");
}

#[test]
fn an_identity_is_made_once() {
    let state = tempfile::tempdir().unwrap();
    let error = CollectorIdentity::load(state.path()).unwrap_err();
    assert!(
        error.to_string().contains("sslcollector -C --init"),
        "{error}"
    );
    let pin = CollectorIdentity::init(state.path(), &["sensor".parse().unwrap()]).unwrap();
    let error = CollectorIdentity::init(state.path(), &[]).unwrap_err();
    assert!(matches!(error, IdentityError::Exists(_)), "{error}");
    let running = CollectorIdentity::load(state.path()).unwrap();
    assert_eq!(running.pin(), pin);
    let administration = agent::identity::Administration::open(state.path()).unwrap();
    assert_eq!(administration.running(), Some(std::process::id()));
    drop(running);
    assert_eq!(administration.running(), None);
}

/// Speaks without TLS, and with time that passes as nobody waits.
fn answer_to(
    collector: &Collector,
    bytes: &[u8],
    ends: bool,
) -> (Result<String, Reason>, EnrolAnswer) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        near.write_all(bytes).await.expect("room");
        if ends {
            near.shutdown().await.expect("an end");
        }
        let peer = "10.0.0.1".parse().expect("an address");
        let outcome = collector.identity.serve_enrolment(far, peer).await;
        let mut answer = Vec::new();
        near.read_to_end(&mut answer)
            .await
            .expect("the answer's end");
        let answer = EnrolAnswer::decode(&answer[4..]).expect("an answer");
        (
            outcome
                .map(|agent| agent.name)
                .map_err(|error| error.reason),
            answer,
        )
    })
}

#[test]
fn who_asks_for_nothing_sensible_is_told_so() {
    let collector = Collector::start();
    let huge = (16 * 1024_u32 + 1).to_le_bytes();
    let cut = [&100_u32.to_le_bytes()[..], b"few"].concat();
    let request = EnrolRequest {
        version: VERSION,
        id: [0; 8],
        secret: [0; 16],
        certificate_request: b"none".to_vec(),
        host: String::new(),
        addresses: Vec::new(),
    };
    let other_version = EnrolRequest {
        version: 99,
        ..request.clone()
    };
    for (bytes, ends, expected) in [
        (&huge[..], false, Reason::Oversized),
        (&cut, true, Reason::Malformed),
        (&cut, false, Reason::Silent),
        (b"", false, Reason::Silent),
        (&request.encode(), false, Reason::Malformed),
        (&other_version.encode(), false, Reason::Version),
    ] {
        let (outcome, answer) = answer_to(&collector, bytes, ends);
        assert_eq!(outcome, Err(expected));
        let EnrolAnswer::Refused(refused) = answer else {
            panic!("granted")
        };
        assert_eq!(refused.reason, expected);
    }
    let refusals = collector.identity.refusals().snapshot();
    assert_eq!(refusals.get(&Reason::Silent), Some(&2));
}

#[test]
fn who_guesses_has_to_wait() {
    let collector = Collector::start();
    let wrong = Token {
        secret: [0; 16],
        ..collector.token()
    };
    for _ in 0..10 {
        assert_eq!(refused(Host::new().join(&wrong)).0, Reason::TokenUnknown);
    }
    assert_eq!(refused(Host::new().join(&wrong)).0, Reason::TooMany);
}

#[test]
fn what_cannot_be_written_is_the_collectors_fault() {
    let (collector, host) = (Collector::start(), Host::new());
    let token = collector.token();
    std::fs::remove_dir_all(collector.state.path().join("collector")).unwrap();
    let (reason, _) = refused(host.join(&token));
    assert_eq!(reason, Reason::CollectorFault);
    assert!(
        !host
            .state
            .path()
            .join("joined")
            .read_dir()
            .unwrap()
            .any(|entry| {
                entry
                    .unwrap()
                    .path()
                    .extension()
                    .is_some_and(|end| end == "toml")
            })
    );
}

#[test]
fn a_name_in_use_needs_a_word() {
    let collector = Collector::start();
    let _host = collector.host();
    let mut wanted = collector.wanted();
    wanted.replaces = false;
    wanted.valid = Duration::from_secs(60);
    let error = collector.administration().enroll(wanted).unwrap_err();
    assert!(matches!(error, IdentityError::NameTaken(_)), "{error}");
}
