#!/usr/bin/env bash
# Makes a certificate authority for one Kafka cluster, and certificates for its broker and its administrator.
# Usage: certificates.sh DIRECTORY [NAME …]   # the broker's host names and addresses, by default as in compose.yaml
# What is there is kept. The results, all PEM:
#   authority/  the authority's key. Nothing needs it while the cluster runs: keep it away from the cluster
#   broker/     the broker's key and certificate. Its principal is User:CN=kafka
#   admin/      the administrator's key and certificate. The principal is User:CN=admin
#   public/     the authority's certificate, which every client trusts
set -euo pipefail
cd "$1"
shift
names=("${@:-DNS:kafka}")
[ $# -gt 0 ] || names+=(DNS:localhost IP:127.0.0.1)
days=3650
mkdir -p authority broker admin public

if [ ! -s public/ca.pem ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days "$days" \
        -subj "/CN=order-platform Kafka" \
        -keyout authority/ca.key -out public/ca.new
    mv public/ca.new public/ca.pem
fi

certificate() { # certificate DIRECTORY NAME USAGE [SUBJECT ALTERNATIVE NAME …]
    local folder=$1 name=$2 usage=$3
    shift 3
    [ ! -s "$folder/$name.pem" ] || return 0
    local work
    work=$(mktemp -d)
    {
        echo "extendedKeyUsage=$usage"
        [ $# -eq 0 ] || (IFS=, && echo "subjectAltName=$*")
    } >"$work/extensions"
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/key"
    openssl req -new -key "$work/key" -subj "/CN=$name" -out "$work/request"
    openssl x509 -req -in "$work/request" -CA public/ca.pem -CAkey authority/ca.key -days "$days" \
        -set_serial "0x$(openssl rand -hex 16)" -extfile "$work/extensions" -out "$work/certificate"
    # The broker and its tools run as another user than this script.
    cat "$work/key" "$work/certificate" >"$folder/$name.new"
    mv "$folder/$name.new" "$folder/$name.pem"
    rm -r "$work"
}

certificate broker kafka serverAuth,clientAuth "${names[@]}"
certificate admin admin clientAuth
