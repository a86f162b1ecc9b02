//! HTTP/1.1 between curl and nginx: each of them patched, both, TLS 1.2 and 1.3, IPv4 and IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mirror_tests::curl::{Tls, Transfer};
use mirror_tests::exchange::{Exchange, Patched};
use mirror_tests::judges::Profile;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const MIB: usize = 1 << 20;

/// Every size and every kind of ending, in one capture.
fn everything(patched: Patched, tls: Tls, address: IpAddr) {
    let mut transfers = Vec::new();
    for size in [0, 1, 16_384, 16_385, MIB, 20 * MIB] {
        transfers.push(Transfer::get("get", size));
        transfers.push(Transfer::post(size));
    }
    transfers.push(Transfer::get("chunked", MIB));
    transfers.push(Transfer::chunked_put(MIB));
    transfers.push(Transfer::many(20_000, 100));
    transfers.push(Transfer::get("close", 16_385));
    transfers.push(Transfer::abort(20 * MIB, 100_000));
    let exchange = Exchange {
        patched,
        tls,
        address,
        transfers,
    };
    exchange.run(&[]).judge(Profile::Sslcollector);
}

macro_rules! everything {
    ($($name:ident: $patched:ident $tls:ident $address:ident;)*) => {
        $(#[test]
        fn $name() {
            everything(Patched::$patched, Tls::$tls, $address);
        })*
    };
}

everything! {
    client_tls12_v4: Client V1_2 V4;
    client_tls12_v6: Client V1_2 V6;
    client_tls13_v4: Client V1_3 V4;
    client_tls13_v6: Client V1_3 V6;
    server_tls12_v4: Server V1_2 V4;
    server_tls12_v6: Server V1_2 V6;
    server_tls13_v4: Server V1_3 V4;
    server_tls13_v6: Server V1_3 V6;
    both_tls12_v4: Both V1_2 V4;
    both_tls12_v6: Both V1_2 V6;
    both_tls13_v4: Both V1_3 V4;
    both_tls13_v6: Both V1_3 V6;
}

/// Below 1 MiB a direction Suricata needs none of our settings.
#[test]
fn stock_suricata() {
    let exchange = Exchange {
        patched: Patched::Both,
        tls: Tls::V1_3,
        address: V4,
        transfers: vec![
            Transfer::get("get", 0),
            Transfer::get("get", 16_385),
            Transfer::post(16_384),
            Transfer::many(1, 100),
            Transfer::many(20_000, 20),
            Transfer::get("close", 16_385),
        ],
    };
    exchange.run(&[]).judge(Profile::Stock);
}
