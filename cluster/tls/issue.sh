#!/bin/sh
# issue.sh AUTHORITY OUTPUT [ADDRESS...]: a certificate for one Ray node, valid for its addresses.
#
# AUTHORITY holds ca.crt and ca.key; where they are missing they are made (do so once, by hand, and give the
# folder to all nodes as a secret). OUTPUT gets tls.crt, tls.key and ca.crt, which RAY_TLS_SERVER_CERT,
# RAY_TLS_SERVER_KEY and RAY_TLS_CA_CERT name. Without addresses those of this host are taken.
set -eu
authority=$1 output=$2
shift 2
umask 077
mkdir -p "$authority" "$output"
if [ ! -f "$authority/ca.key" ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 \
    -subj "/CN=codex_ray authority" -keyout "$authority/ca.key" -out "$authority/ca.crt" 2>/dev/null
fi
[ $# -gt 0 ] || set -- $(hostname -I 2>/dev/null || hostname -i) $(hostname)
names="DNS:localhost,IP:127.0.0.1"
for address; do
  [ -n "$address" ] || continue
  case $address in
    *:*) names="$names,IP:$address" ;;
    *[!0-9.]*) names="$names,DNS:$address" ;;
    *) names="$names,IP:$address" ;;
  esac
done
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=ray node" \
  -keyout "$output/tls.key" -out "$output/tls.csr" 2>/dev/null
printf 'subjectAltName=%s\n' "$names" >"$output/tls.ext"
openssl x509 -req -in "$output/tls.csr" -CA "$authority/ca.crt" -CAkey "$authority/ca.key" -CAcreateserial \
  -days 365 -extfile "$output/tls.ext" -out "$output/tls.crt" 2>/dev/null
cp "$authority/ca.crt" "$output/ca.crt"
rm "$output/tls.csr" "$output/tls.ext"
