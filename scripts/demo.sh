#!/usr/bin/env bash
# Mirrors one real TLS session between curl and a local nginx, and shows what was said in it.
# Leaves demo.pcapng in the current directory. Everything stays on this machine.
set -euo pipefail
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # nginx, for users whose PATH has no sbin

target=${CARGO_TARGET_DIR:-target}
sslcollector=$target/release/sslcollector
capture=demo.pcapng
work=$(mktemp -d)
nginx_pid=

cleanup() {
    if [ -n "$nginx_pid" ]; then
        kill "$nginx_pid" 2>/dev/null || :
        wait "$nginx_pid" 2>/dev/null || :
    fi
    rm -rf "$work"
}
trap cleanup EXIT

if [ -t 1 ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

say "1. A web server with TLS, of this machine's own nginx and libssl (not patched)"
mkdir "$work/www"
chmod 755 "$work" "$work/www"
echo "Hello from inside TLS." >"$work/www/hello.txt"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
    -subj /CN=localhost -addext subjectAltName=DNS:localhost \
    -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
# The kernel names a free port; another program may take it in between, so try again then.
for _ in 1 2 3 4 5; do
    port=$(perl -MIO::Socket::INET -e \
        'print IO::Socket::INET->new(LocalAddr => "127.0.0.1", Listen => 1)->sockport')
    cat >"$work/nginx.conf" <<CONF
daemon off;
worker_processes 1;
pid $work/nginx.pid;
error_log $work/error.log;
events {}
http {
    access_log off;
    client_body_temp_path $work/body;
    proxy_temp_path $work/proxy;
    fastcgi_temp_path $work/fastcgi;
    uwsgi_temp_path $work/uwsgi;
    scgi_temp_path $work/scgi;
    server {
        listen 127.0.0.1:$port ssl;
        server_name localhost;
        ssl_certificate $work/cert.pem;
        ssl_certificate_key $work/key.pem;
        root $work/www;
    }
}
CONF
    nginx -c "$work/nginx.conf" -p "$work" 2>>"$work/error.log" &
    nginx_pid=$!
    url=https://localhost:$port/hello.txt
    if curl -s --cacert "$work/cert.pem" --retry 20 --retry-delay 1 --retry-connrefused \
        --retry-max-time 20 -o /dev/null "$url"; then
        break
    fi
    kill "$nginx_pid" 2>/dev/null || :
    wait "$nginx_pid" 2>/dev/null || :
    nginx_pid=
done
if [ -z "$nginx_pid" ]; then
    echo "nginx doesn't answer; its log:" >&2
    cat "$work/error.log" >&2
    exit 1
fi
echo "nginx (process $nginx_pid) serves $url"

say "2. curl, run with the patched libssl and mirrored"
echo "\$ sslcollector run -w $capture -- curl -s --http1.1 $url"
"$sslcollector" run -w "$capture" -- curl -s --http1.1 --cacert "$work/cert.pem" "$url"

say "3. The session as a monitor sees it"
echo "\$ tshark -r $capture -d tcp.port==$port,http"
tshark -r "$capture" -d "tcp.port==$port,http" 2>/dev/null

say "4. What was said inside TLS"
echo "\$ tshark -r $capture -d tcp.port==$port,http -q -z follow,tcp,ascii,0"
tshark -r "$capture" -d "tcp.port==$port,http" -q -z follow,tcp,ascii,0 2>/dev/null
grep -q "Hello from inside TLS" <(tshark -r "$capture" -q -z follow,tcp,ascii,0 2>/dev/null) || {
    echo "the clear text isn't in $capture: the demo has failed" >&2
    exit 1
}
say "The capture is in $capture: open it with Wireshark, or feed it to Suricata or Zeek."
