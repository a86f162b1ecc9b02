//! Brokers that ask who comes, and agents that ask whether it is the one.

use std::path::{Path, PathBuf};

use agent::broker::key::{FleetKey, Terms};
use agent::broker::{Access, Credentials, TlsFiles};
use mirror_tests::nats::NatsServer;
use mirror_tests::place::write_secret;
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair as TlsKey};

use crate::accounts;
use crate::collector::config_of;
use crate::talker::Talker;
use crate::truth::Phase;

/// An agent with something to say to this server.
fn talker(url: &str, credentials: Option<Credentials>, tls: &TlsFiles) -> Talker {
    let mut config = config_of(url);
    config.access = Access::new(credentials, tls).unwrap();
    let key = FleetKey::generate().agent("web-1", &Terms::default());
    let mut talker = Talker::new(config, &key.unwrap(), 8 << 20);
    talker.talk(Phase::new(0), 0);
    talker
}

fn password(password: &str) -> Option<Credentials> {
    Some(Credentials::Password {
        user: "agents".into(),
        password: password.into(),
    })
}

/// An authority, and what it has signed for both sides.
struct Authority {
    directory: PathBuf,
}

impl Authority {
    fn new(directory: &Path, name: &str) -> Self {
        let directory = directory.join(name);
        std::fs::create_dir(&directory).unwrap();
        let key = TlsKey::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Of one who is called the same the signature is wrong, which is another fault.
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let this = Self { directory };
        std::fs::write(this.path("ca.pem"), certificate.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        for end in ["server", "client"] {
            let key = TlsKey::generate().unwrap();
            let params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap();
            std::fs::write(this.path(&format!("{end}.pem")), certificate.pem()).unwrap();
            write_secret(&this.path(&format!("{end}.key")), &key.serialize_pem());
        }
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A server that shows a certificate and wants to see one.
    fn settings(&self) -> String {
        let path = |name: &str| self.path(name).display().to_string();
        format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}\n",
            path("server.pem"),
            path("server.key"),
            path("ca.pem")
        )
    }

    fn files(&self, own: bool) -> TlsFiles {
        TlsFiles {
            ca: Some(self.path("ca.pem")),
            own: own.then(|| (self.path("client.pem"), self.path("client.key"))),
        }
    }
}

#[test]
fn both_sides_of_tls_know_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let ours = Authority::new(directory.path(), "ours");
    let others = Authority::new(directory.path(), "others");
    let server = NatsServer::start_with(directory.path(), &ours.settings());
    let url = format!("tls://127.0.0.1:{}", server.port());
    talker(&url, None, &ours.files(true)).wait_for_envelopes();
    // A host asks for TLS by its authority alone, too.
    talker(&server.url(), None, &ours.files(true)).wait_for_envelopes();

    let mut refused = talker(&url, None, &ours.files(false));
    refused.wait_for_words("refuses our certificate");
    let mut wrong = talker(&url, None, &others.files(true));
    wrong.wait_for_words("isn't good (UnknownIssuer)");
    for refused in [refused, wrong] {
        assert_eq!(refused.publisher.stats().envelopes, 0);
    }
}

#[test]
fn a_broker_without_tls_gets_nothing_where_tls_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let ours = Authority::new(directory.path(), "ours");
    let server = NatsServer::start_with(directory.path(), "");
    let mut refused = talker(&server.url(), password("geheim"), &ours.files(true));
    refused.wait_for_words("can't reach the broker");
    assert_eq!(refused.publisher.stats().envelopes, 0);
    assert!(!refused.said().contains("connected"), "{}", refused.said());
}

#[test]
fn a_wrong_password_is_said_and_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let settings = |word: &str| format!("authorization {{ user: agents, password: \"{word}\" }}\n");
    let mut server = NatsServer::start_with(directory.path(), &settings("another"));
    let none = TlsFiles::default();
    let mut nobody = talker(&server.url(), None, &none);
    nobody.wait_for_words("asks who comes");
    let mut agent = talker(&server.url(), password("geheim"), &none);
    agent.wait_for_words(
        "doesn't let us in (authorization violation): user agents, or the password",
    );
    server.kill();
    server.settle(&settings("geheim"));
    server.start_again();
    agent.wait_for_envelopes();
    assert!(!agent.said().contains("geheim"), "{}", agent.said());
    assert_eq!(nobody.publisher.stats().envelopes, 0);
}

#[test]
fn each_way_to_prove_who_comes_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let none = TlsFiles::default();
    let user = KeyPair::new_user();
    let (operator, credentials) = accounts::operator();
    let known = [
        (
            "token",
            "authorization { token: \"geheim\" }\n".to_owned(),
            Credentials::Token("geheim".into()),
        ),
        (
            "nkey",
            format!(
                "authorization {{ users: [{{ nkey: {} }}] }}\n",
                user.public_key()
            ),
            Credentials::Seed(user.seed().unwrap()),
        ),
        ("credentials", operator, Credentials::File(credentials)),
    ];
    for (name, settings, credentials) in known {
        let directory = directory.path().join(name);
        std::fs::create_dir(&directory).unwrap();
        let server = NatsServer::start_with(&directory, &settings);
        talker(&server.url(), Some(credentials), &none).wait_for_envelopes();
        let mut stranger = talker(&server.url(), password("geheim"), &none);
        stranger.wait_for_words("doesn't let us in");
    }
}
