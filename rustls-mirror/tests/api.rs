//! One program text, on rustls and on rustls_mirror in its place: that it compiles is most of the test.
//! Names that are missing altogether are found by `make rustls-api`.

/// The program, with `$tls` as its rustls.
macro_rules! program {
    ($name:ident, $tls:ident) => {
        mod $name {
            use std::fmt::Debug;
            use std::io::{BufRead, Read, Result as IoResult, Write};
            use std::net::TcpStream;
            use std::ops::{Deref, DerefMut};
            use std::sync::Arc;

            use $tls as rustls;

            use rustls::client::{ClientConnectionData, EchStatus, WriteEarlyData, danger};
            use rustls::crypto::CryptoProvider;
            use rustls::pki_types::ServerName;
            use rustls::server::{
                Accepted, AcceptedAlert, Acceptor, ClientHello, ReadEarlyData, ServerConnectionData,
            };
            use rustls::{
                ClientConfig, ClientConnection, CommonState, Connection, ConnectionCommon, Error,
                ExtractedSecrets, IoState, Reader, ServerConfig, ServerConnection, SideData,
                Stream, StreamOwned, Writer,
            };

            /// As middleware takes a connection of either side.
            struct Through<C, T>(C, T);

            impl<C, T, S> Through<C, T>
            where
                C: DerefMut + Deref<Target = ConnectionCommon<S>>,
                T: Read + Write,
                S: SideData + 'static,
            {
                fn lines(&mut self) -> IoResult<String> {
                    let mut line = String::new();
                    Stream::new(&mut self.0, &mut self.1).read_line(&mut line)?;
                    self.0.send_close_notify();
                    self.0.complete_io(&mut self.1)?;
                    Ok(line)
                }

                fn into_owned(self) -> impl BufRead + Write {
                    StreamOwned::new(self.0, self.1)
                }
            }

            fn is_a_connections<T: Debug + Send + Sync + Unpin + 'static>() {}

            /// Never called: compiles, or doesn't.
            #[allow(dead_code, reason = "what it is there for is compiled")]
            fn signatures<S: SideData + 'static>() {
                is_a_connections::<ClientConnection>();
                is_a_connections::<ServerConnection>();
                is_a_connections::<Connection>();
                is_a_connections::<StreamOwned<ClientConnection, TcpStream>>();

                type Common<S> = ConnectionCommon<S>;
                let _: fn(&mut Common<S>) -> Result<IoState, Error> = Common::process_new_packets;
                let _: fn(&Common<S>, [u8; 4], &[u8], Option<&[u8]>) -> Result<[u8; 4], Error> =
                    Common::export_keying_material;
                let _: fn(Common<S>) -> Result<ExtractedSecrets, Error> =
                    Common::dangerous_extract_secrets;
                let _: fn(&mut Common<S>, Option<usize>) = Common::set_buffer_limit;
                let _: fn(&mut Common<S>) -> Result<(), Error> = Common::refresh_traffic_keys;
                let _: for<'a> fn(&'a mut Common<S>) -> Reader<'a> = Common::reader;
                let _: for<'a> fn(&'a mut Common<S>) -> Writer<'a> = Common::writer;
                let _: fn(&mut Common<S>, &mut TcpStream) -> IoResult<(usize, usize)> =
                    Common::complete_io;
                let _: fn(&mut Common<S>, &mut dyn Read) -> IoResult<usize> = Common::read_tls;
                let _: fn(&mut Common<S>, &mut dyn Write) -> IoResult<usize> = Common::write_tls;
                let _: fn(&Common<S>) -> &CommonState = Deref::deref;
                let _: fn(&mut Common<S>) -> &mut CommonState = DerefMut::deref_mut;
                let _: fn(Reader<'static>) -> IoResult<&'static [u8]> = Reader::into_first_chunk;

                type Client = ClientConnection;
                type Name = ServerName<'static>;
                let _: fn(Arc<ClientConfig>, Name) -> Result<Client, Error> = Client::new;
                let _: fn(Arc<ClientConfig>, Name, Vec<Vec<u8>>) -> Result<Client, Error> =
                    Client::new_with_alpn;
                let _: fn(&mut Client) -> Option<WriteEarlyData<'_>> = Client::early_data;
                let _: fn(&WriteEarlyData<'static>) -> usize = WriteEarlyData::bytes_left;
                let _: fn(&Client) -> bool = Client::is_early_data_accepted;
                let _: fn(&Client) -> EchStatus = Client::ech_status;
                let _: fn(&Client) -> u32 = Client::tls13_tickets_received;
                let _: fn(&Client) -> bool = Client::fips;
                let _: fn(Client) -> Connection = Connection::from;
                let _: fn(&Client) -> &Common<ClientConnectionData> = Deref::deref;
                let _: fn(&mut Client) -> &mut Common<ClientConnectionData> = DerefMut::deref_mut;

                type Server = ServerConnection;
                let _: fn(Arc<ServerConfig>) -> Result<Server, Error> = Server::new;
                let _: fn(&Server) -> Option<&str> = Server::server_name;
                let _: fn(&Server) -> Option<&[u8]> = Server::received_resumption_data;
                let _: fn(&mut Server, &[u8]) = Server::set_resumption_data;
                let _: fn(&mut Server) = Server::reject_early_data;
                let _: fn(&mut Server) -> Option<ReadEarlyData<'_>> = Server::early_data;
                let _: fn(&Server) -> bool = Server::fips;
                let _: fn(Server) -> Connection = Connection::from;
                let _: fn(&Server) -> &Common<ServerConnectionData> = Deref::deref;

                type Rejected = (Error, AcceptedAlert);
                let _: fn() -> Acceptor = Acceptor::default;
                let _: fn(&mut Acceptor, &mut dyn Read) -> IoResult<usize> = Acceptor::read_tls;
                let _: fn(&mut Acceptor) -> Result<Option<Accepted>, Rejected> = Acceptor::accept;
                let _: fn(&Accepted) -> ClientHello<'_> = Accepted::client_hello;
                let _: fn(Accepted, Arc<ServerConfig>) -> Result<Server, Rejected> =
                    Accepted::into_connection;

                let _: fn(&mut Connection, &mut dyn Read) -> IoResult<usize> = Connection::read_tls;
                let _: fn(&mut Connection, &mut dyn Write) -> IoResult<usize> =
                    Connection::write_tls;
                let _: fn(&mut Connection) -> Reader<'_> = Connection::reader;
                let _: fn(&mut Connection) -> Writer<'_> = Connection::writer;
                let _: fn(&mut Connection) -> Result<IoState, Error> =
                    Connection::process_new_packets;
                let _: fn(&mut Connection, &mut TcpStream) -> IoResult<(usize, usize)> =
                    Connection::complete_io;
                let _: fn(&Connection) -> &CommonState = Deref::deref;

                type Stands<C> = StreamOwned<C, TcpStream>;
                let _: fn(Client, TcpStream) -> Stands<Client> = Stands::new;
                let _: fn(&Stands<Server>) -> &TcpStream = Stands::get_ref;
                let _: fn(&mut Stands<Server>) -> &mut TcpStream = Stands::get_mut;
                let _: fn(Stands<Server>) -> (Server, TcpStream) = Stands::into_parts;
            }

            /// Items that aren't wrapped are rustls' own, so that what others made of rustls fits.
            pub(super) fn others(
                provider: CryptoProvider,
                verifier: Option<Arc<dyn danger::ServerCertVerifier>>,
            ) -> (::rustls::crypto::CryptoProvider, bool) {
                (provider, verifier.is_some())
            }

            /// The program: one that meets nobody.
            pub(super) fn run(provider: &Arc<CryptoProvider>) -> bool {
                let config = ClientConfig::builder_with_provider(Arc::clone(provider))
                    .with_safe_default_protocol_versions()
                    .unwrap()
                    .with_root_certificates(rustls::RootCertStore::empty())
                    .with_no_client_auth();
                let name = ServerName::try_from("nobody.test").unwrap();
                let client = ClientConnection::new(Arc::new(config), name).unwrap();
                let transport = std::io::Cursor::new(Vec::new());
                let mut through = Through(client, transport);
                let wants = through.0.wants_write() && through.0.is_handshaking();
                assert!(through.lines().is_err());
                let mut owned = through.into_owned();
                wants && owned.write(b"nothing").is_err() && owned.fill_buf().is_err()
            }
        }
    };
}

program!(bare, rustls);
program!(mirrored, rustls_mirror);

#[test]
fn a_program_compiles_with_either() {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    assert!(bare::run(&provider));
    assert!(mirrored::run(&provider));
    let (provider, verifier) = bare::others((*provider).clone(), None);
    assert!(!verifier && !mirrored::others(provider, None).1);
}
