//! Apache httpd: mod_ssl, with the process model that is asked for. Serves the files of a [`Place`] below
//! `/get/`, and sends back what is sent to `/echo/`.

use std::fmt::Write;

use rustix::process::Signal;

use crate::place::{HOST, Place, free_port};
use crate::process::find;
use crate::service::{Service, open_to_others};

/// How its connections are spread over processes and threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// A process for each connection.
    Prefork,
    /// Processes with threads, each of which goes from connection to connection.
    Event,
}

/// Where distributions have its modules.
const MODULES: &str = "/usr/lib/apache2/modules";

/// Writes its configuration. Started by root its children become www-data.
///
/// # Panics
/// If it can't be written, or there is no Apache.
pub fn apache(place: &Place, model: Model) -> Service {
    apache_at(place, model, &["127.0.0.1"])
}

/// With threads, and HTTP/2 for those who ask for it; as [`apache`].
///
/// # Panics
/// As above.
pub fn apache_http2(place: &Place) -> Service {
    let service = apache(place, Model::Event);
    let text = place.text("apache.conf")
        + &format!("LoadModule http2_module {MODULES}/mod_http2.so\nProtocols h2 http/1.1\n");
    std::fs::write(place.path("apache.conf"), text).expect("apache.conf");
    service
}

/// By HTTP/2 and HTTP/1.1 in front of a server at this port of 127.0.0.1, WebSockets too.
///
/// # Panics
/// As above.
pub fn apache_in_front(place: &Place, port: u16) -> Service {
    let service = apache_http2(place);
    let mut text = place.text("apache.conf");
    for module in ["proxy", "proxy_http"] {
        let _ = writeln!(text, "LoadModule {module}_module {MODULES}/mod_{module}.so");
    }
    let _ = write!(
        text,
        "H2WebSockets on\nProxyPass / http://127.0.0.1:{port}/ upgrade=websocket\n"
    );
    std::fs::write(place.path("apache.conf"), text).expect("apache.conf");
    service
}

/// Without TLS, and HTTP/2 for those who upgrade to it; as [`apache`].
///
/// # Panics
/// As above.
pub fn apache_h2c(place: &Place) -> Service {
    let service = apache_http2(place);
    let text = place.text("apache.conf");
    let text = text.replace("SSLEngine on", "SSLEngine off");
    let text = text.replace("Protocols h2 ", "Protocols h2c ");
    std::fs::write(place.path("apache.conf"), text).expect("apache.conf");
    service
}

/// [`apache`] that listens at these addresses.
///
/// # Panics
/// As above.
pub fn apache_at(place: &Place, model: Model, addresses: &[&str]) -> Service {
    open_to_others(place);
    let (dir, port) = (place.directory().display(), free_port());
    let (mpm, limits) = match model {
        Model::Prefork => (
            "mpm_prefork",
            "StartServers 3\nMinSpareServers 2\nMaxRequestWorkers 12\nMaxConnectionsPerChild 6",
        ),
        Model::Event => (
            "mpm_event",
            "StartServers 2\nThreadsPerChild 16\nMaxRequestWorkers 32",
        ),
    };
    let mut text = String::new();
    for address in addresses {
        let _ = writeln!(text, "Listen {address}:{port}");
    }
    for module in [mpm, "authz_core", "alias", "ssl", "reflector"] {
        let _ = writeln!(text, "LoadModule {module}_module {MODULES}/mod_{module}.so");
    }
    if rustix::process::geteuid().is_root() {
        text += "User www-data\nGroup www-data\n";
    }
    let _ = write!(
        text,
        "ServerRoot {dir}
ServerName {HOST}
DefaultRuntimeDir {dir}
PidFile {dir}/apache.pid
ErrorLog {dir}/apache.log
{limits}
SSLEngine on
SSLCertificateFile {dir}/cert.pem
SSLCertificateKeyFile {dir}/key.pem
SSLSessionCache none
DocumentRoot {dir}/www
Alias /get/ {dir}/www/
<Directory {dir}/www>
  Require all granted
</Directory>
<Location /echo/>
  Require all granted
  SetHandler reflector
</Location>
"
    );
    let file = place.path("apache.conf");
    std::fs::write(&file, text).expect("apache.conf");
    let apache = find("apache2").expect("apache2 isn't installed (scripts/install-peers.sh test)");
    let words = [
        apache.display().to_string(),
        "-f".into(),
        file.display().to_string(),
    ];
    Service {
        words: words.into_iter().chain(["-DFOREGROUND".into()]).collect(),
        port,
        end: Signal::TERM,
        status: 0,
        log: Some(place.path("apache.log")),
    }
}
