//! Users of a broker that proves them by signatures: an operator, an account, and a user's credentials.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use nkeys::KeyPair;

/// A server's settings, and the text of a `.creds` file of a user whom it knows.
pub(crate) fn operator() -> (String, String) {
    let (operator, user) = (KeyPair::new_operator(), KeyPair::new_user());
    let [account, system] = [KeyPair::new_account(), KeyPair::new_account()];
    let all = r#""subs":-1,"data":-1,"payload":-1"#;
    let limits = format!(
        r#"{all},"imports":-1,"exports":-1,"wildcards":true,"conn":-1,"leaf":-1,"mem_storage":-1,"disk_storage":-1,"streams":-1,"consumer":-1"#
    );
    let claims = format!(r#""system_account":"{}","#, system.public_key());
    let operator_jwt = jwt(&operator, &operator, "operator", &claims);
    let account_jwt = jwt(
        &operator,
        &account,
        "account",
        &format!(r#""limits":{{{limits}}},"#),
    );
    // Servers talk to each other in one of their own, which stores nothing.
    let stores = r#","mem_storage":-1,"disk_storage":-1,"streams":-1,"consumer":-1"#;
    let claims = format!(r#""limits":{{{}}},"#, limits.replace(stores, ""));
    let system_jwt = jwt(&operator, &system, "account", &claims);
    let user_jwt = jwt(&account, &user, "user", &format!("{all},"));
    let settings = format!(
        "operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {}: {account_jwt}, {}: {system_jwt} }}\n",
        account.public_key(),
        system.public_key()
    );
    let seed = user.seed().unwrap();
    let credentials = format!(
        "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    (settings, credentials)
}

/// What an issuer says of a subject.
fn jwt(issuer: &KeyPair, subject: &KeyPair, kind: &str, claims: &str) -> String {
    let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let head = encode(r#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let body = encode(&format!(
        r#"{{"jti":"{kind}","iat":1700000000,"iss":"{}","name":"{kind}","sub":"{}","nats":{{{claims}"type":"{kind}","version":2}}}}"#,
        issuer.public_key(),
        subject.public_key(),
    ));
    let signed = format!("{head}.{body}");
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}
